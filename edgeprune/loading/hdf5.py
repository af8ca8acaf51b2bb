"""HDF5 files that hold what they say themselves: no links and no data in other files."""

from __future__ import annotations

import contextlib
import io
import mmap
import re
import zipfile
from pathlib import Path

import h5py

from edgeprune.errors import ModelError
from edgeprune.loading.zip_files import MOST_RATIO, UNSUSPICIOUS_BYTES, open_zip

_MOST_CHUNKS = 10_000
WEIGHTS = "model.weights.h5"
DEPENDENCIES = "_layer_checkpoint_dependencies"


def open_hdf5(path: Path, content: bytes | None = None) -> h5py.File:
    """Open an HDF5 file for reading, once it is clear that it needs no other file.

    Args:
        path: the file, or the archive it lies in.
        content: the file itself, where it lies in an archive.

    Raises:
        ModelError: it is truncated or damaged, takes something from elsewhere, or would unpack to
            something absurd.
    """
    size = path.stat().st_size if content is None else len(content)
    _check_heaps(path, content)
    try:
        file = h5py.File(path if content is None else io.BytesIO(content), "r")
    except OSError as error:
        raise ModelError(
            f"'{path}' is a damaged HDF5 file ({size:,} bytes are there): {error}. Copy or "
            "download it again."
        ) from error
    try:
        _check_entries(file, path.name)
    except ModelError:
        file.close()
        raise
    except Exception as error:  # a damaged file makes HDF5 raise anything
        file.close()
        raise ModelError(f"'{path}' is a damaged HDF5 file: {error}. Copy it again.") from error
    return file


def _check_heaps(path: Path, content: bytes | None) -> None:
    """Refuse a heap of texts with an object of no length, over which HDF5 never gets.

    A heap is a header of 16 bytes and objects, each with its number, its length and its content; 0
    is the number of what is free, whose length holds the header.
    """
    with contextlib.ExitStack() as stack:
        data: bytes | mmap.mmap = content or b""
        if content is None and path.stat().st_size:
            file = stack.enter_context(path.open("rb"))
            data = stack.enter_context(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        place = 0
        while (start := data.find(b"GCOL\x01\0\0\0", place)) >= 0:
            place = start + 16
            end = min(start + int.from_bytes(data[start + 8 : place], "little"), len(data))
            while place + 16 <= end:
                length = int.from_bytes(data[place + 8 : place + 16], "little")
                step = 16 + -(-length // 8) * 8 if any(data[place : place + 2]) else length
                if step < 16:
                    raise ModelError(f"'{path}' is a damaged HDF5 file: a text has no length.")
                place += step


def open_weights(path: Path) -> h5py.File | None:
    """Open the weights of a `.keras` archive, `None` if it has none in HDF5, or an HDF5 file.

    Raises:
        ModelError: see `open_hdf5`.
    """
    if not zipfile.is_zipfile(path):
        return open_hdf5(path)
    with open_zip(path) as archive:
        is_there = WEIGHTS in archive.namelist()
        return open_hdf5(path, archive.read(WEIGHTS)) if is_there else None


def has_dependencies(file: h5py.File) -> bool:
    """Whether a file has the layout of TensorFlow 2.12 and 2.13, see `weight_trees`."""
    return any(re.split(r"[/\\]", name)[0] == DEPENDENCIES for name in file)


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


def _check_entries(file: h5py.File, origin: str) -> None:
    seen, waiting = set(), [file["/"]]
    while waiting:
        entry = waiting.pop()
        address = h5py.h5o.get_info(entry.id).addr
        if address in seen:  # a second name of the same entry, possibly of one around this
            continue
        seen.add(address)
        if isinstance(entry, h5py.Dataset):
            _check_dataset(entry, origin)
        elif isinstance(entry, h5py.Group):
            for name in entry:
                link = entry.get(name, getlink=True)
                if not isinstance(link, h5py.HardLink):
                    target = getattr(link, "filename", None) or str(link.path)
                    raise ModelError(_elsewhere(origin, f"{entry.name}/{name}", target))
                waiting.append(entry[name])


def _check_dataset(entry: h5py.Dataset, origin: str) -> None:
    if entry.external or entry.is_virtual:
        target = entry.external[0][0] if entry.external else "other files"
        raise ModelError(_elsewhere(origin, entry.name, target))
    stored = entry.id.get_storage_size()
    if entry.nbytes > UNSUSPICIOUS_BYTES and entry.nbytes > MOST_RATIO * stored:
        raise ModelError(
            f"'{origin}' holds '{entry.name.lstrip('/')}', which would unpack from {stored:,} to "
            f"{entry.nbytes:,} bytes: no weights shrink like that. It is not opened."
        )


def _elsewhere(origin: str, entry: str, target: str) -> str:
    return (
        f"'{origin}' takes '{entry.lstrip('/')}' from elsewhere ('{target}'), which edgeprune does "
        "not follow. Save the model again in the program that made it."
    )
