"""Where samples lie once they are read: in memory up to a limit, all others on disk.

What does not fit is written once, preprocessed, and mapped: it is read again in batches where it is
used, and the system drops those pages when memory is short. The file has no name, so that nothing
of it is left however the process ends.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from edgeprune.errors import DataError

FALLBACK_MEMORY = 8 * 2**30
LASTING = Path("/var/tmp")
"""Lies on a disk where `/tmp` may lie in memory."""


def find_free_memory() -> float:
    """Return the bytes that this machine says are free, or a cautious guess."""
    try:
        return float(os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (ValueError, OSError, AttributeError):
        return float(FALLBACK_MEMORY)


def find_folder() -> Path:
    """Return where temporary files of any size go: `TMPDIR` where that is set."""
    named = any(os.environ.get(name) for name in ("TMPDIR", "TEMP", "TMP"))
    lasting = not named and os.access(LASTING, os.W_OK | os.X_OK)
    return LASTING if lasting else Path(tempfile.gettempdir())


class SampleStore:
    """Holds samples of several splits, first come, first in memory.

    Args:
        limit: most bytes in memory; by default a quarter of what is free.

    Attributes:
        limit: most bytes in memory.
        free: how many of them are left.
        written: bytes that went to disk.
        folder: where that is.

    Example:
        >>> store = SampleStore(limit=40)
        >>> for _ in range(2):
        ...     held = store.gather(3, iter([np.ones((2, 2)), np.ones((1, 2))]))
        >>> held.shape, store.free, store.written
        ((3, 2), 16, 24)
    """

    def __init__(self, limit: float | None = None) -> None:
        """Find out how much may be held."""
        self.limit = find_free_memory() / 4 if limit is None else limit
        self.free, self.written = self.limit, 0
        self.folder = find_folder()

    def gather(self, count: int, batches: Iterator[np.ndarray]) -> np.ndarray:
        """Return batches as one float32 array `(count, ...)`; from disk it cannot be written to.

        Args:
            count: samples in all batches together.
            batches: `(m, ...)` each, at least one.

        Raises:
            DataError: the disk is full, or cannot be written.
        """
        first = next(batches)
        shape = (count, *first.shape[1:])
        size = int(np.prod(shape)) * np.dtype(np.float32).itemsize
        batches = _put_back([first], batches)
        del first
        if size <= self.free:
            self.free -= size
            return _fill(np.empty(shape, np.float32), batches)
        self.written += size
        return self._write(shape, batches)

    def _write(self, shape: tuple[int, ...], batches: Iterable[np.ndarray]) -> np.ndarray:
        with contextlib.ExitStack() as stack:
            with self._explaining():
                file = stack.enter_context(tempfile.TemporaryFile(dir=self.folder))
            for batch in batches:  # whose own errors are none of the disk's
                with self._explaining():
                    file.write(np.ascontiguousarray(batch, np.float32).data)
            with self._explaining():
                file.flush()
                mapped = np.memmap(file, np.float32, "r", shape=shape)
        return np.asarray(mapped)

    @contextlib.contextmanager
    def _explaining(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise DataError(
                f"Samples cannot be held on disk in '{self.folder}': {error.strerror}. Name "
                "another folder in TMPDIR, or allow more memory with --memory."
            ) from error

    def check(self, sizes: Iterable[int]) -> None:
        """Refuse samples that neither memory nor disk has room for.

        Args:
            sizes: bytes of what will be gathered, one after the other.

        Raises:
            DataError: says how much there is of both.
        """
        free, disk, room = self.free, 0, shutil.disk_usage(self.folder).free
        for size in sizes:
            fits = size <= free
            free, disk = free - size * fits, disk + size * (not fits)
        if disk > room:
            raise DataError(
                f"The samples take {_say(self.free - free + disk)}: {_say(self.limit)} of memory "
                f"are allowed, and {_say(room)} are free in '{self.folder}'. Take fewer with "
                "--calibration, --validation and --test, keep fewer classes with --classes, or "
                "name a folder with more room in TMPDIR."
            )

    @property
    def note(self) -> str | None:
        """What the user should know, where samples went to disk."""
        if not self.written:
            return None
        return (
            f"{_say(self.written)} of samples are more than memory is meant to hold: they lie in "
            f"'{self.folder}' and are read from there in batches. --memory allows more than "
            f"{_say(self.limit)}; --calibration, --validation and --test take fewer."
        )


def _put_back(first: list[np.ndarray], batches: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    yield first.pop()  # nobody holds it until the last has come
    yield from batches


def _fill(held: np.ndarray, batches: Iterable[np.ndarray]) -> np.ndarray:
    start = 0
    for batch in batches:
        held[start : start + len(batch)] = batch
        start += len(batch)
    return held


def _say(size: float) -> str:
    return f"{size / 2**30:.1f} GB" if size >= 2**30 else f"{size / 2**20:,.1f} MB"
