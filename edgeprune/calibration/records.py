"""What has been measured so far, on disk: a calibration that was stopped goes on from there."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from edgeprune.support.files import replace_on_success
from edgeprune.support.fingerprints import say_new_start


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
        fingerprint: of what is measured: a file of other micro-models is not gone on from.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "records.json"
        >>> read_records(path).add("a board", 4, "int8", {"a": 1.0})
        False
        >>> read_records(path).medians
        {'int8': {'a': [1.0]}}
    """

    path: Path
    machine: str = ""
    threads: int = 0
    medians: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    fingerprint: str = ""

    def add(self, machine: str, threads: int, scheme: str, medians: Mapping[str, float]) -> bool:
        """Add medians and write the file; tell whether earlier ones, of another machine, were left.

        Args:
            machine: that was measured, with its runtime.
            threads: of the runtime.
            scheme: number format.
            medians: in ms, by micro-model.
        """
        dropped = bool(self.medians) and (machine, threads) != (self.machine, self.threads)
        if dropped:
            say_new_start(self.path, f"The calibration of {self.machine} in")
            self.medians.clear()
        self.machine, self.threads = machine, threads
        known = self.medians.setdefault(scheme, {})
        for name, value in medians.items():
            known.setdefault(name, []).append(value)
        content = {
            "machine": machine,
            "threads": threads,
            "fingerprint": self.fingerprint,
            "medians": self.medians,
        }
        with replace_on_success(self.path) as temporary:
            temporary.write_text(json.dumps(content, indent=1), encoding="utf-8")
        return dropped

    def turns(self, scheme: str, name: str) -> int:
        """Return how often a micro-model was measured."""
        return len(self.medians.get(scheme, {}).get(name, ()))

    def lowest(self, scheme: str) -> dict[str, float]:
        """Return the lowest median of every micro-model."""
        return {name: min(values) for name, values in self.medians[scheme].items()}


def read_records(path: Path, fingerprint: str = "") -> Records:
    """Return what a file holds; nothing if it is missing, cannot be read, or is of other models."""
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        medians = {
            str(scheme): {str(name): [float(v) for v in values] for name, values in found.items()}
            for scheme, found in stored["medians"].items()
        }
        if str(stored["fingerprint"]) == fingerprint:
            threads = int(stored["threads"])
            return Records(path, str(stored["machine"]), threads, medians, fingerprint)
        say_new_start(path, "The calibration in")
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        pass
    return Records(path, fingerprint=fingerprint)
