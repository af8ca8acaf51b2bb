"""The two ends of a run of the harness: its progress while it works, its document at the end."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from edgeprune.benchmarking.measurement_settings import Settings
from edgeprune.benchmarking.schemas import find_problem
from edgeprune.errors import BenchmarkError
from edgeprune.support.progress import Advance, stage
from edgeprune.support.resources import find_folder

SCHEMA_VERSION = 1
MOST_BYTES = 2**20
"""Of anything that a board says, but for the times of its runs."""
BYTES_PER_RUN = 32
MOST_SHOWN = 300
"""Characters of a board's own words in a message."""


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
    """Reads the standard error of the harness: progress, and whatever else is said there.

    Attributes:
        percent: how far the run has come.
        last: the last line that says something else.
    """

    def __init__(self, advance: Advance) -> None:
        """Remember whom to tell about every percent."""
        self.percent = 0
        self.last = "it said nothing"
        self._advance = advance

    def read(self, line: str) -> None:
        """Read one line."""
        try:
            done = round(100 * min(1.0, json.loads(line)["done"]))
        except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
            self.last = line.strip()[:MOST_SHOWN] or self.last
            return
        for _ in range(self.percent, done):
            self._advance()
        self.percent = max(self.percent, done)


@contextlib.contextmanager
def following() -> Iterator[Remarks]:
    """Show a stage of a hundred steps while the harness runs."""
    with stage("benchmark", 100) as advance:
        yield Remarks(advance)


def limit_answer(models: int, runs: int) -> int:
    """Return the most bytes that the document of a run can have."""
    return MOST_BYTES + models * runs * BYTES_PER_RUN


def read_answer(
    text: bytes, status: int, remarks: Remarks, models: int, kind: str = "measurement"
) -> dict[str, Any]:
    """Return the document of a run, or say why there is none.

    Args:
        text: standard output of the harness.
        status: of its process; negative if a signal ended it.
        remarks: what it said on standard error.
        models: how many it was given.
        kind: what it is to be: a name of `$defs` in `devices/harness/measurement.schema.json`.

    Raises:
        BenchmarkError: the harness failed, was killed, speaks another version, or answers with
            anything but such a document.
    """
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        if status == 0:
            reason = "its JSON cannot be read" if text.strip() else "it is empty"
            raise invalid(reason) from error
        how = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
        raise BenchmarkError(f"The harness {how}: {remarks.last}") from None
    version = document.get("schema_version") if isinstance(document, dict) else SCHEMA_VERSION
    if isinstance(version, int) and version != SCHEMA_VERSION:
        raise BenchmarkError(
            f"The harness speaks version {version} of its format, edgeprune version "
            f"{SCHEMA_VERSION}: install edgeprune again."
        )
    failed = isinstance(document, dict) and "error" in document
    path = find_folder("devices") / "harness" / "measurement.schema.json"
    schema = json.loads(path.read_text(encoding="utf-8"))
    if problem := find_problem(document, schema["$defs"]["failure" if failed else kind], schema):
        raise invalid(problem)
    if failed:
        raise BenchmarkError(f"Cannot measure: {document['error'][:MOST_SHOWN]}.")
    if problem := _find_contradiction(document, models):
        raise invalid(problem)
    found: dict[str, Any] = document
    return found


def _find_contradiction(document: Mapping[str, Any], models: int) -> str | None:
    """Return what cannot be true together, which a schema does not say."""
    if len(document["models"]) != models:
        return f"it is about {len(document['models'])} models instead of {models}"
    for entry in document["models"]:
        latency, check = entry.get("latency"), entry["accuracy"]
        if len({len(rounds) for rounds in entry.get("profile") or ()}) > 1:
            return "its parts were timed in different numbers of rounds"
        if check and (check["correct"] or 0) > check["count"]:
            return f"it has {check['correct']} of {check['count']} samples right"
        if latency is None:
            continue
        ranks = [latency[f"{rank}_ms"] for rank in ("min", "p50", "p90", "p99")]
        if latency["count"] != len(latency["samples_ms"]) or ranks != sorted(ranks):
            return "its latencies contradict each other"
    return None


def invalid(reason: str) -> BenchmarkError:
    """Return the error for an answer that is none."""
    return BenchmarkError(f"The board gave no valid answer: {reason}.")


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
