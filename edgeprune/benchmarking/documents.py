"""The two ends of a run of the harness: its progress while it works, its document at the end."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from edgeprune.benchmarking.measurement_settings import Settings
from edgeprune.errors import BenchmarkError
from edgeprune.support.progress import Advance, stage

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Answer:
    """What a run gave.

    Attributes:
        document: as `devices/harness/measurement.schema.json` describes it.
        clock_offset: seconds that the board's monotonic clock is ahead of this machine's.
        clock_error: how far off `clock_offset` may be, in seconds.
        interrupted: the user stopped the run; the document holds what there was.
    """

    document: dict[str, Any]
    clock_offset: float = 0.0
    clock_error: float = 0.0
    interrupted: bool = False


class Transport(Protocol):
    """A way to run the harness on some machine. One that cannot keep time is none."""

    def measure(self, models: Sequence[Path], settings: Settings) -> Answer:
        """Run the harness over the models; raise BenchmarkError with one line if it fails."""


class Remarks:
    """Reads the standard error of the harness: progress, and whatever else is said there."""

    def __init__(self, advance: Advance) -> None:
        """Remember whom to tell about every percent."""
        self.lines: list[str] = []
        self._advance = advance
        self._percent = 0

    def read(self, line: str) -> None:
        """Read one line."""
        try:
            done = round(100 * json.loads(line)["done"])
        except (ValueError, TypeError, KeyError):
            self.lines.append(line.strip())
            return
        for _ in range(self._percent, done):
            self._advance()
        self._percent = max(self._percent, done)

    @property
    def last(self) -> str:
        """Return the last line that says something."""
        return next((line for line in reversed(self.lines) if line), "it said nothing")


@contextlib.contextmanager
def following() -> Iterator[Remarks]:
    """Show a stage of a hundred steps while the harness runs."""
    with stage("benchmark", 100) as advance:
        yield Remarks(advance)


def read_answer(text: str, status: int, remarks: Remarks) -> dict[str, Any]:
    """Return the document of a run, or say why there is none.

    Args:
        text: standard output of the harness.
        status: of its process; negative if a signal ended it.
        remarks: what it said on standard error.

    Raises:
        BenchmarkError: the harness failed, was killed, or speaks another version.
    """
    try:
        document: dict[str, Any] = json.loads(text)
    except ValueError:
        how = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
        raise BenchmarkError(f"The harness {how}: {remarks.last}") from None
    if "error" in document:
        raise BenchmarkError(f"Cannot measure: {document['error']}.")
    if document["schema_version"] != SCHEMA_VERSION:
        raise BenchmarkError(
            f"The harness speaks version {document['schema_version']} of its format, edgeprune "
            f"version {SCHEMA_VERSION}: install edgeprune again."
        )
    return document


def check_complete(document: dict[str, Any]) -> None:
    """Refuse figures that mean nothing.

    Raises:
        BenchmarkError: the run was stopped by something else than the user, or was not clean.
    """
    if document["interrupted"]:
        raise BenchmarkError("The harness was stopped before it had measured everything.")
    if document["process"]["tensorflow_loaded"]:
        raise BenchmarkError(
            "The harness found TensorFlow loaded in its process, so its memory figures mean "
            "nothing: something imports TensorFlow whenever Python starts."
        )
