"""Progress bars and results on a terminal: bars on stderr, results on stdout."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from edgeprune.progress import Advance

SHOWN_AFTER_SECONDS = 0.05


class TerminalProgress:
    """One bar per running stage; a finished outermost stage leaves a line with its time."""

    def __init__(self) -> None:
        """Draw on stderr; without a terminal only the lines of finished stages are written."""
        self.console = Console(stderr=True)
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            TextColumn("{task.completed:.0f}/{task.total:.0f}"),
            TimeElapsedColumn(),
            console=self.console,
            transient=True,
            disable=not self.console.is_terminal,
        )
        self._depth = 0

    @contextlib.contextmanager
    def stage(self, name: str, total: int | None = None) -> Iterator[Advance]:
        """Show a stage while the block runs."""
        if self._depth == 0:
            self._bars.start()
        self._depth += 1
        task = self._bars.add_task(name, total=total if total else 1)
        start = time.perf_counter()
        try:
            yield lambda: self._bars.advance(task)
            elapsed = time.perf_counter() - start
            if self._depth == 1 and elapsed > SHOWN_AFTER_SECONDS:
                self.console.print(f"  {name:<34}{elapsed:6.1f} s", style="dim", highlight=False)
        finally:
            self._bars.remove_task(task)
            self._depth -= 1
            if self._depth == 0:
                self._bars.stop()
