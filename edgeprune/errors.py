"""What can go wrong in ways a user can mend: one line each, exit code 2 on the command line."""

from __future__ import annotations


class EdgepruneError(Exception):
    """Any failure whose message is for the user: what was found, what was expected, what to do."""

    exit_code = 2


class ModelError(EdgepruneError, ValueError):
    """The model cannot be opened, or is not one that edgeprune can work on."""


class DataError(EdgepruneError, ValueError):
    """The samples cannot be read, or do not fit the model."""


class ClassError(EdgepruneError, ValueError):
    """A class that was asked for does not exist, has no samples, or cannot be cut out."""


class BudgetError(EdgepruneError, ValueError):
    """The budget cannot be read or cannot be met."""


class PlanError(EdgepruneError, ValueError):
    """A plan does not belong to the model it is applied to."""


class EquivalenceError(EdgepruneError):
    """The pruned model does not compute what the plan says: a rule is wrong, the build stops."""


class ConversionError(EdgepruneError):
    """A model cannot be expressed in the number format that was asked for."""


class BenchmarkError(EdgepruneError):
    """A measurement could not be taken."""
