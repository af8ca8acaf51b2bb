"""What long work says while it runs: stages that are shown where someone looks, and timed.

Progress is ambient, like logging: `stage` reports to whoever `showing` put in charge, and adds the
seconds to every record that `timing` opened. Nothing is shown by default.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from contextvars import ContextVar
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
_SHOWN: ContextVar[Progress] = ContextVar("shown", default=SILENT)
_RECORDS: ContextVar[tuple[dict[str, float], ...]] = ContextVar("records", default=())


def announce(name: str) -> None:
    """Be told the name of every stage that starts, in place of this function."""


@contextlib.contextmanager
def showing(progress: Progress) -> Iterator[None]:
    """Report the stages of the block, and of all that it calls, to `progress`."""
    token = _SHOWN.set(progress)
    try:
        yield
    finally:
        _SHOWN.reset(token)


class _Named:
    """Puts a name before every stage; what runs at the same time takes turns in telling."""

    def __init__(self, progress: Progress, name: str) -> None:
        self._progress, self._name = progress, name

    @contextlib.contextmanager
    def stage(self, name: str, total: int | None = None) -> Iterator[Advance]:
        with _TELLING:
            shown = self._progress.stage(f"{self._name}: {name}", total)
            advance = shown.__enter__()

        def tell() -> None:
            with _TELLING:
                advance()

        try:
            yield tell
        finally:
            with _TELLING:
                shown.__exit__(None, None, None)


_TELLING = threading.RLock()


@contextlib.contextmanager
def naming(name: str) -> Iterator[None]:
    """Show the stages of the block with a name before each, for one of several threads."""
    with showing(_Named(_SHOWN.get(), name)):
        yield


def remark(text: str) -> None:
    """Say how the innermost stage is doing, where who is in charge has a method `remark` for it."""
    show = getattr(_SHOWN.get(), "remark", None)
    if show is not None:
        show(text)


@contextlib.contextmanager
def timing() -> Iterator[dict[str, float]]:
    """Record the wall seconds of the block's outermost stages, by name, in order.

    Example:
        >>> with timing() as seconds:
        ...     with stage("nap"), stage("dream"):
        ...         pass
        >>> list(seconds)
        ['nap']
    """
    seconds: dict[str, float] = {}
    token = _RECORDS.set((*_RECORDS.get(), seconds))
    try:
        yield seconds
    finally:
        _RECORDS.reset(token)


@contextlib.contextmanager
def stage(name: str, total: int | None = None) -> Iterator[Advance]:
    """Show and time a block; also a decorator.

    Args:
        name: of the stage, for people.
        total: number of steps; `None` where they are not counted.

    Yields:
        What is called after every step.
    """
    announce(name)
    records, begun = _RECORDS.get(), time.perf_counter()
    token = _RECORDS.set(())
    try:
        with _SHOWN.get().stage(name, total) as advance:
            yield advance
    finally:
        _RECORDS.reset(token)
        for seconds in records:
            elapsed = time.perf_counter() - begun
            seconds[name] = round(seconds.get(name, 0.0) + elapsed, 3)
