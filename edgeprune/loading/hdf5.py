"""HDF5 files that hold what they say themselves: no links and no data in other files."""

from __future__ import annotations

import io
from pathlib import Path

import h5py

from edgeprune.errors import ModelError

_MOST_CHUNKS = 10_000


def open_hdf5(path: Path, content: bytes | None = None) -> h5py.File:
    """Open an HDF5 file for reading, once it is clear that it needs no other file.

    Args:
        path: the file, or the archive it lies in.
        content: the file itself, where it lies in an archive.

    Raises:
        ModelError: it is truncated or damaged, or takes something from elsewhere.
    """
    size = path.stat().st_size if content is None else len(content)
    try:
        file = h5py.File(path if content is None else io.BytesIO(content), "r")
    except OSError as error:
        raise ModelError(
            f"'{path}' is a damaged HDF5 file ({size:,} bytes are there): {error}. Copy or "
            "download it again."
        ) from error
    try:
        _check_links(file, path.name, set())
    except ModelError:
        file.close()
        raise
    return file


def read_names(group: h5py.Group, attribute: str) -> list[str]:
    """Read a list of names, which Keras splits over numbered attributes when it is long."""
    if attribute in group.attrs:
        values = list(group.attrs[attribute])
    else:
        values = []
        for chunk in range(_MOST_CHUNKS):
            if f"{attribute}{chunk}" not in group.attrs:
                break
            values += list(group.attrs[f"{attribute}{chunk}"])
    return [value.decode() if isinstance(value, bytes) else str(value) for value in values]


def _check_links(group: h5py.Group, origin: str, seen: set[int]) -> None:
    for name in group:
        link = group.get(name, getlink=True)
        if not isinstance(link, h5py.HardLink):
            target = getattr(link, "filename", None) or str(link.path)
            raise ModelError(_elsewhere(origin, f"{group.name}/{name}", target))
        entry = group[name]
        address = h5py.h5o.get_info(entry.id).addr
        if address in seen:  # a second name of the same entry, possibly of one around this
            continue
        seen.add(address)
        if isinstance(entry, h5py.Group):
            _check_links(entry, origin, seen)
        elif isinstance(entry, h5py.Dataset) and (entry.external or entry.is_virtual):
            target = entry.external[0][0] if entry.external else "other files"
            raise ModelError(_elsewhere(origin, entry.name, target))


def _elsewhere(origin: str, entry: str, target: str) -> str:
    return (
        f"'{origin}' takes '{entry.lstrip('/')}' from elsewhere ('{target}'), which edgeprune does "
        "not follow. Save the model again in the program that made it."
    )
