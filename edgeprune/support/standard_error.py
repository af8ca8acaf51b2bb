"""Silence for libraries that write to the terminal from C++, where Python cannot redirect them."""

from __future__ import annotations

import contextlib
import io
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from typing import Any, TextIO


@contextlib.contextmanager
def captured_stderr() -> Iterator[Callable[[], str]]:
    """Keep what is written to file descriptor 2; progress bars on `sys.stderr` stay visible.

    The descriptor belongs to the whole process, so other threads are captured as well.

    Yields:
        A function that returns what was captured so far.

    Example:
        >>> with captured_stderr() as captured:
        ...     _ = os.write(2, b"noise")
        ...     captured()
        'noise'
    """
    with contextlib.ExitStack() as stack:
        try:
            original = os.dup(2)
        except OSError:  # a service without a standard error: nothing to keep silent
            yield str
            return
        stack.callback(os.close, original)
        log = stack.enter_context(tempfile.TemporaryFile())
        stack.enter_context(_python_stderr_on(original))
        os.dup2(log.fileno(), 2)
        stack.callback(os.dup2, original, 2)

        def captured() -> str:
            log.seek(0)
            return log.read().decode(errors="replace")

        yield captured


@contextlib.contextmanager
def _python_stderr_on(descriptor: int) -> Iterator[None]:
    """Let `sys.stderr` write to a duplicate of the original descriptor 2 for a while."""
    before = sys.stderr
    try:
        goes_to_terminal = before.fileno() == 2
    except (AttributeError, OSError, ValueError, io.UnsupportedOperation):
        goes_to_terminal = False
    if not goes_to_terminal:  # pytest, a notebook: not reached by the redirection
        yield
        return
    before.flush()
    with open(os.dup(descriptor), "w", 1, encoding=before.encoding, errors="replace") as visible:
        sys.stderr = stream = _Forwarding(visible)
        try:
            yield
        finally:
            sys.stderr = before
            stream.goes_to = before


class _Forwarding:
    """A stream that can be redirected: log handlers made meanwhile keep it for good."""

    def __init__(self, goes_to: TextIO) -> None:
        self.goes_to = goes_to

    def __getattr__(self, name: str) -> Any:
        return getattr(self.goes_to, name)
