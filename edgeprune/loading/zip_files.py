"""Zip archives whose entries are what they say: once each, inside, and of a size that can be."""

from __future__ import annotations

import contextlib
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from edgeprune.errors import ModelError
from edgeprune.support.printable import one_line

UNSUSPICIOUS_BYTES = 64 * 2**20
MOST_RATIO = 100
MOST_TEXT_BYTES = 64 * 2**20


@contextlib.contextmanager
def open_zip(path: Path) -> Iterator[zipfile.ZipFile]:
    """Open an archive for reading, once its directory makes sense.

    Raises:
        ModelError: it is damaged, has a name twice or one that points outside, or an entry that
            would unpack to something absurd. Also for what goes wrong while the block reads.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            _check_directory(path, archive.infolist())
            yield archive
    except ModelError:
        raise
    except (
        Exception
    ) as error:  # a damaged archive makes zipfile and its decompressors raise anything
        raise ModelError(
            f"'{path}' is a damaged archive: {one_line(error)}. Copy it again."
        ) from error


def read_text(path: Path, archive: zipfile.ZipFile, name: str) -> bytes:
    """Read an entry that holds text.

    Raises:
        ModelError: it is larger than a text can be.
    """
    size = archive.getinfo(name).file_size
    if size > MOST_TEXT_BYTES:
        raise ModelError(f"'{path}' holds '{name}' with {size:,} bytes: more than a text has.")
    return archive.read(name)


def _check_directory(path: Path, entries: list[zipfile.ZipInfo]) -> None:
    name, count = Counter(entry.filename for entry in entries).most_common(1)[0]
    if count > 1:
        raise ModelError(
            f"'{path}' holds {count} entries named '{name}', so which one counts is unclear. Give "
            "the file that the program saved which made the model."
        )
    for entry in entries:
        parts = PurePosixPath(entry.filename.replace("\\", "/")).parts
        if ".." in parts or parts[:1] == ("/",) or ":" in entry.filename:
            raise ModelError(
                f"'{path}' holds the entry '{entry.filename}', which points outside the archive."
            )
        is_large = entry.file_size > UNSUSPICIOUS_BYTES
        if is_large and entry.file_size > MOST_RATIO * entry.compress_size:
            raise ModelError(
                f"'{path}' holds '{entry.filename}', which would unpack from "
                f"{entry.compress_size:,} to {entry.file_size:,} bytes: no weights shrink like "
                "that. It is not opened."
            )
