"""What the command line says and returns when something goes wrong."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType

import click

from edgeprune.errors import EdgepruneError
from edgeprune.support.printable import printable

USAGE = 2
INTERRUPTED = 130
DEADLY = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
RETRY_SECONDS = 0.05
_LONG_WORD = re.compile(r"(\S{100})\S{400,}")  # a name in a file may be of any length
NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
EXTRAS = ("keras", "tensorflow", "scipy", "PIL", "h5py", "sklearn", "tf_keras")


class Terminated(SystemExit):
    """A signal ended the process; whoever catches an exit of the user's code lets it pass."""


def explain(error: BaseException) -> tuple[int | None, str]:
    """Return the exit code and the line for an error; the code is `None` for a bug of ours.

    Example:
        >>> explain(EdgepruneError("The folder is empty."))
        (2, 'Error: The folder is empty.')
    """
    code, message = _explain(error)
    return code, _LONG_WORD.sub(r"\1...", printable(message))


def _explain(error: BaseException) -> tuple[int | None, str]:
    if isinstance(error, (KeyboardInterrupt, click.exceptions.Abort)):
        return INTERRUPTED, "Interrupted. Nothing was left half-written."
    if isinstance(error, click.ClickException):
        return error.exit_code, f"Error: {error.format_message()}"
    if isinstance(error, EdgepruneError):
        return error.exit_code, f"Error: {error}"
    if isinstance(error, OSError) and error.errno in NO_SPACE:
        return USAGE, f"Error: The disk is full ({error.strerror}). Nothing was left half-written."
    if isinstance(error, MemoryError):
        return USAGE, "Error: There is not enough memory. Nothing was left half-written."
    if isinstance(error, ModuleNotFoundError) and error.name in EXTRAS:
        return USAGE, (
            f"Error: This command needs the extra 'tensorflow' ({error.name} is not installed): "
            "pip install 'edgeprune[tensorflow]'"
        )
    if isinstance(error, SystemExit):
        return int(error.code or 0) if isinstance(error.code, int | None) else 1, ""
    return None, ""


def _ending(number: int) -> BaseException:
    return KeyboardInterrupt() if number == signal.SIGINT else Terminated(128 + number)


@contextlib.contextmanager
def clean_up_when_terminated() -> Iterator[None]:
    """Let SIGTERM (`kill`, `docker stop`) and SIGHUP (a lost connection) unwind like Ctrl-C.

    A signal that is ignored, as under `nohup`, stays ignored. What a library makes of one, as HDF5
    does of a Ctrl-C while it calls back, is the end that was asked for, and no error of its own.
    """
    received: list[int] = []

    def stop(number: int, frame: FrameType | None) -> None:
        received.append(number)
        raise _ending(number)

    in_charge = threading.current_thread() is threading.main_thread()
    usual = {signal.SIG_DFL, signal.default_int_handler}
    numbers = [n for n in (signal.SIGINT, *DEADLY) if in_charge and signal.getsignal(n) in usual]
    handlers = {number: signal.signal(number, stop) for number in numbers}
    before, sys.unraisablehook = sys.unraisablehook, _deliver_again
    try:
        yield
    except Exception as error:
        if received:
            raise _ending(received[0]) from error
        raise
    finally:
        sys.unraisablehook = before
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _deliver_again(unraisable: sys.UnraisableHookArgs) -> None:
    """Repeat a signal that came while garbage was collected, where Python drops its exception.

    TensorFlow has thousands of objects with finalizers, so Ctrl-C at such a moment is no rarity.
    """
    found = unraisable.exc_value
    if isinstance(found, KeyboardInterrupt):
        number = int(signal.SIGINT)
    elif isinstance(found, SystemExit) and isinstance(found.code, int) and found.code > 128:
        number = found.code - 128
    else:
        sys.__unraisablehook__(unraisable)
        return
    timer = threading.Timer(RETRY_SECONDS, os.kill, [os.getpid(), number])
    timer.daemon = True
    timer.start()
