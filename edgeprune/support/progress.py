"""What long work says while it runs: one seam, silent by default, bars on the command line."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Protocol

Advance = Callable[[], None]


class Progress(Protocol):
    """Receives the stages of a build and how far each has come."""

    def stage(
        self, name: str, total: int | None = None
    ) -> contextlib.AbstractContextManager[Advance]:
        """Enter a stage of `total` steps; call what is yielded once per finished step."""


class Silent:
    """Shows nothing."""

    @contextlib.contextmanager
    def stage(self, name: str, total: int | None = None) -> Iterator[Advance]:
        """Enter a stage without showing it."""
        yield lambda: None


SILENT: Progress = Silent()
