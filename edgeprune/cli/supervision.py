"""The command runs in a child process: what takes that down from inside becomes one line.

TensorFlow, its runtime and the user's own libraries are native code, and a fault in them ends a
process without a word; so does a system that runs out of memory. The parent does nothing but wait,
pass on signals that the child did not get itself, and say how the child ended.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import signal
import sys
import threading
import time

from edgeprune.support import progress

MOST = 200
"""Bytes of the name of a stage."""
FORWARDED = ("SIGINT", "SIGTERM", "SIGHUP")
FORWARD_SECONDS = 0.2
_PR_SET_PDEATHSIG = 1
FAULT = 2


def supervise() -> None:
    """Go on in a child; the parent ends here, as the child does.

    Only Linux has what it takes, and a process that works already is not divided.
    """
    working = threading.active_count() > 1 or sys.modules.get("tensorflow") is not None
    if sys.platform != "linux" or working:
        return
    numbers = [getattr(signal, name) for name in FORWARDED]
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [*numbers, signal.SIGCHLD])
    note, (seen, tell) = mmap.mmap(-1, MOST), os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    parent = os.getpid()
    child = os.fork()
    if child:
        os.close(tell)
        os._exit(_follow(child, numbers, note, seen))
    os.close(seen)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it was killed before this line
        os._exit(FAULT)
    signal.set_wakeup_fd(tell, warn_on_full_buffer=False)
    signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def announce(name: str) -> None:
        note[:] = name.encode()[:MOST].ljust(MOST, b"\0")

    progress.announce = announce


def _follow(child: int, numbers: list[int], note: mmap.mmap, seen: int) -> int:
    """Wait for the child's end; return the exit status to end with."""
    while True:
        info = signal.sigwaitinfo([*numbers, signal.SIGCHLD])
        if info.si_signo != signal.SIGCHLD:
            _forward(child, info.si_signo, seen)
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            break
    if os.WIFEXITED(status):
        return os.WEXITSTATUS(status)
    number = os.WTERMSIG(status)
    if number in numbers:
        return 128 + number
    stage = note[:].rstrip(b"\0").decode(errors="replace")
    where = f" while at '{stage}'" if stage else ""
    name = signal.Signals(number).name
    if number == signal.SIGKILL:
        reason = f"was killed{where} ({name}), as systems do that run out of memory"
    else:
        reason = f"was ended by a fault in a native library{where} ({name})"
    text = f"\nError: The command {reason}. The next run removes what it left half-done.\n"
    os.write(2, text.encode())
    return FAULT


def _forward(child: int, number: int, seen: int) -> None:
    """Pass a signal on, unless it went to the whole group and so reached the child already."""
    end = time.monotonic() + FORWARD_SECONDS
    while time.monotonic() < end:
        try:
            if number in os.read(seen, 64):
                return
        except BlockingIOError:
            time.sleep(0.005)
    os.kill(child, number)
