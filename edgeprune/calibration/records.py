"""What has been measured so far, on disk: a calibration that was stopped goes on from there."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from edgeprune.errors import BenchmarkError
from edgeprune.support.files import replace_on_success


@dataclass
class Records:
    """Medians by number format and micro-model, in a file beside the one that will be written.

    Every turn adds one median; the lowest counts, because others on a machine only ever slow it
    down.

    Attributes:
        path: of the file; it need not exist.
        machine: that was measured, with its runtime; empty before the first.
        threads: of the runtime.
        medians: in ms, of each turn so far.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "records.json"
        >>> read_records(path).add("a board", 4, "int8", {"a": 1.0})
        >>> read_records(path).medians
        {'int8': {'a': [1.0]}}
    """

    path: Path
    machine: str = ""
    threads: int = 0
    medians: dict[str, dict[str, list[float]]] = field(default_factory=dict)

    def add(self, machine: str, threads: int, scheme: str, medians: Mapping[str, float]) -> None:
        """Add medians and write the file.

        Raises:
            BenchmarkError: earlier ones are of another machine.
        """
        if self.medians and (machine, threads) != (self.machine, self.threads):
            raise BenchmarkError(
                f"'{self.path}' holds measurements of {self.machine} with threads {self.threads}; "
                f"this is {machine} with threads {threads}. Remove the file to begin anew."
            )
        self.machine, self.threads = machine, threads
        known = self.medians.setdefault(scheme, {})
        for name, value in medians.items():
            known.setdefault(name, []).append(value)
        content = {"machine": machine, "threads": threads, "medians": self.medians}
        with replace_on_success(self.path) as temporary:
            temporary.write_text(json.dumps(content, indent=1), encoding="utf-8")

    def turns(self, scheme: str, name: str) -> int:
        """Return how often a micro-model was measured."""
        return len(self.medians.get(scheme, {}).get(name, ()))

    def lowest(self, scheme: str) -> dict[str, float]:
        """Return the lowest median of every micro-model."""
        return {name: min(values) for name, values in self.medians[scheme].items()}


def read_records(path: Path) -> Records:
    """Return what a file holds; nothing if it is not there or cannot be read.

    Args:
        path: of the file.
    """
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        medians = {
            str(scheme): {str(name): [float(v) for v in values] for name, values in found.items()}
            for scheme, found in stored["medians"].items()
        }
        return Records(path, str(stored["machine"]), int(stored["threads"]), medians)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return Records(path)
