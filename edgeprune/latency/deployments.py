"""What budgets of size, memory, latency and energy are about: a number format on a board."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edgeprune.errors import BudgetError
from edgeprune.latency.predictor import Predictor, read_predictor

QUANTIZED = ("int8", "int8-qat", "int16x8")


@dataclass(frozen=True)
class Deployment:
    """A number format, and the board's predictor if there is one.

    Attributes:
        scheme: number format.
        io: what goes in and out of an int8 model.
        predictor: of the board, in this format; `None` where it has none.
        reason: why it has none.
        input: what goes in, where that is something else than `io` says.
    """

    scheme: str = "int8"
    io: str = "float32"
    predictor: Predictor | None = None
    reason: str = "No target was given: use `edgeprune build --target NAME`."
    input: str | None = None

    @property
    def float_ends(self) -> bool:
        """Whether an integer model takes and gives floats."""
        return self.scheme in QUANTIZED and self.io == "float32"

    def require(self, quantity: str) -> Predictor:
        """Return the predictor.

        Raises:
            BudgetError: the board has none, or its power is not known.
        """
        if self.predictor is None:
            raise BudgetError(f"There is no predictor for a budget of {quantity}. {self.reason}")
        if quantity == "energy" and self.predictor.power_w is None:
            raise BudgetError(
                f"A budget of energy needs the power of target '{self.predictor.target}', which is "
                "not known. Budget latency instead."
            )
        return self.predictor


def deploy(
    target: str,
    tables: Mapping[str, Any],
    scheme: str,
    io: str = "float32",
    input: str | None = None,
) -> Deployment:
    """Return the deployment of a number format on a target, with its predictor if there is one.

    Args:
        target: name of the target.
        tables: `Target.prediction`.
        scheme: number format.
        io: what goes in and out of an int8 model.
        input: what goes in, where that is something else.

    Example:
        >>> deploy("toaster", {}, "int8").predictor is None
        True
    """
    try:
        return Deployment(scheme, io, read_predictor(target, tables, scheme), "", input)
    except BudgetError as error:
        return Deployment(scheme, io, reason=str(error), input=input)
