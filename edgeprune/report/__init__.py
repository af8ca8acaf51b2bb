"""What a build found out, as values, JSON and text."""

from edgeprune.report.outcome import Change, Outcome
from edgeprune.report.tables import describe_files, describe_outcome

__all__ = ["Change", "Outcome", "describe_files", "describe_outcome"]
