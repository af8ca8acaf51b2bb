"""System calls that no kernel knows: a simulator sees them and counts what runs in between."""

from __future__ import annotations

import ctypes
from collections.abc import Callable

NUMBER = 0x7ED6  # far beyond the last system call of any architecture: the kernel answers ENOSYS
START, STOP = 1, 2


def mark(run: Callable[[], object], repeats: int) -> None:
    """Run a few times between a start and a stop marker."""
    import gc

    library = ctypes.CDLL(None)
    call, start, stop = library.syscall, ctypes.c_long(START), ctypes.c_long(STOP)
    number = ctypes.c_long(NUMBER)
    gc.collect()
    gc.disable()
    try:
        call(number, start)
        for _ in range(repeats):
            run()
        call(number, stop)
    finally:
        gc.enable()
