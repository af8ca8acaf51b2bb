"""Where a build measures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from edgeprune.benchmarking import BenchResult, SshTransport, bench
from edgeprune.boards import Target
from edgeprune.support.progress import Progress


@dataclass(frozen=True)
class Place:
    """A machine to measure on.

    Attributes:
        board: the target; gives the number of threads.
        threads: in place of the board's.
        transport: to the machine; `None` is this one.
    """

    board: Target
    threads: int | None = None
    transport: SshTransport | None = None

    def measure(
        self, models: Mapping[str, Path], seconds: float, progress: Progress
    ) -> BenchResult:
        """Measure named `.tflite` files, interleaved in one run."""
        return bench(
            models,
            target=self.board,
            threads=self.threads,
            seconds=seconds,
            transport=self.transport,
            progress=progress,
        )
