"""Data sets that lie in arrays: in memory, or mapped from an `.npz` file."""

from __future__ import annotations

import math
import struct
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgeprune.data.class_targets import read_targets
from edgeprune.data.classes import check_names
from edgeprune.data.dataset import UNLABELLED, Dataset
from edgeprune.data.sample_store import find_free_memory
from edgeprune.errors import ClassError, DataError
from edgeprune.support.files import check_regular

Shape = tuple[int | None, ...]
Part = tuple[Any, Any]
READ_BYTES = 2**22

NPZ_KEYS = "'x' and 'y', or 'x_train', 'y_train', 'x_test', 'y_test' (and 'x_val', 'y_val')"
SPLIT_SUFFIXES = {
    "all": ("",),
    "train": ("_train",),
    "validation": ("_val", "_validation"),
    "test": ("_test",),
}


def load_arrays(
    parts: Mapping[str, Part],
    input_shape: Shape,
    classes: tuple[str, ...] | None,
    name: str,
    own_names: tuple[str, ...] | None = None,
    labelled: bool = True,
) -> Dataset:
    """Make a data set of one (x, y) pair per split, without copying the samples.

    Where no labels are needed, y may be `None` or anything else.
    """
    inputs = {split: np.asarray(x) for split, (x, _) in parts.items()}
    for split, x in inputs.items():
        where = f"{name}, {split}" if len(parts) > 1 else name
        if x.dtype.kind not in "biuf" or x.ndim == 0:
            raise DataError(
                f"The samples of '{where}' must be an array of numbers, samples first. "
                f"Got {x.dtype} of shape {x.shape} instead."
            )
        y = parts[split][1]
        if y is not None and x.shape[:1] != np.shape(y)[:1]:
            raise DataError(
                f"'{where}' has samples of shape {x.shape} but targets of shape "
                f"{np.shape(y)}: the first numbers must be equal."
            )
    outputs = [np.asarray(y) for _, y in parts.values()]
    chunks = list(inputs.values())
    return make_dataset(
        name, (chunks, outputs), _number_splits(inputs), input_shape, classes, own_names, labelled
    )


def make_dataset(
    name: str,
    chunks: tuple[Sequence[np.ndarray], Sequence[np.ndarray]],
    splits: Mapping[str, np.ndarray],
    input_shape: Shape,
    classes: tuple[str, ...] | None,
    own_names: tuple[str, ...] | None,
    labelled: bool,
) -> Dataset:
    """Make a data set of samples and targets that lie in arrays one after the other."""
    inputs, outputs = chunks
    try:
        targets, names = read_targets(outputs, classes, name, own_names)
    except (DataError, ClassError):
        if labelled:
            raise
        targets, names = np.zeros(sum(map(len, inputs)), np.int64), UNLABELLED
    shapes = {y.shape[1:] if y.dtype.kind in "biuf" and y.ndim else None for y in outputs}
    values = _join(outputs) if len(shapes) == 1 and shapes != {None} else None
    read = make_consumer(inputs, input_shape, name)
    return Dataset(name, names, targets, splits, read, values=values)


def _number_splits(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    starts = np.cumsum([0, *(len(x) for x in inputs.values())])
    return {
        split: np.arange(start, stop)
        for split, start, stop in zip(inputs, starts[:-1], starts[1:], strict=True)
    }


def make_consumer(
    chunks: Sequence[np.ndarray], input_shape: Shape, name: str
) -> Callable[[np.ndarray], np.ndarray]:
    """Read from arrays that lie one after the other, as if they were one.

    Raises:
        DataError: a sample does not have the shape that the model reads.
    """
    needs_channel = [needs_channel_axis(chunk.shape[1:], input_shape, name) for chunk in chunks]
    shaped = [
        chunk[..., np.newaxis] if needs else chunk
        for chunk, needs in zip(chunks, needs_channel, strict=True)
    ]
    shapes = sorted({chunk.shape[1:] for chunk in shaped})
    if len(shapes) > 1:
        raise DataError(
            f"The samples of '{name}' have different shapes, {shapes[0]} and {shapes[1]}. "
            "Bring them to one shape."
        )
    return _join(shaped)


def _join(chunks: Sequence[np.ndarray]) -> Callable[[np.ndarray], np.ndarray]:
    starts = np.cumsum([0, *(len(chunk) for chunk in chunks)])
    dtype = np.result_type(*(chunk.dtype for chunk in chunks))

    def read(indices: np.ndarray) -> np.ndarray:
        batch = np.empty((len(indices), *chunks[0].shape[1:]), dtype)
        chunk_of = np.searchsorted(starts, indices, side="right") - 1
        for number in np.unique(chunk_of):
            here = chunk_of == number
            batch[here] = chunks[number][indices[here] - starts[number]]
        return batch

    return read


def needs_channel_axis(sample_shape: tuple[int, ...], input_shape: Shape, name: str) -> bool:
    """Say whether a channel axis of size 1 has to be added to fit the model.

    Raises:
        DataError: the sample does not fit with that axis either.
    """
    if fits(sample_shape, input_shape):
        return False
    if input_shape[-1:] == (1,) and fits(sample_shape, input_shape[:-1]):
        return True
    first = len(sample_shape) == len(input_shape) > 1 and fits(
        (*sample_shape[1:], sample_shape[0]), input_shape
    )
    way_out = (
        "Channels come last: use np.moveaxis(x, 1, -1)."
        if first
        else "Arrays are not resized: bring them to this shape, or give a folder of images."
    )
    raise DataError(
        f"The samples of '{name}' have shape {sample_shape}, but the model reads {input_shape}. "
        f"{way_out}"
    )


def fits(sample_shape: Sequence[int | None], input_shape: Shape) -> bool:
    """Compare two shapes; None fits every size."""
    return len(sample_shape) == len(input_shape) and all(
        size is None or wanted is None or size == wanted
        for size, wanted in zip(sample_shape, input_shape, strict=True)
    )


def load_npz(
    path: Path, input_shape: Shape, classes: tuple[str, ...] | None, labelled: bool = True
) -> Dataset:
    """Open an `.npz` file; arrays stored without compression are mapped, not held in memory."""
    check_regular(path, DataError)
    try:
        with np.load(path, allow_pickle=False) as archive:
            keys = list(archive.files)
            pairs = _pair_keys(keys, path, labelled)
            parts = {
                split: (
                    _open_array(path, archive, x),
                    None if y is None else _open_array(path, archive, y),
                )
                for split, (x, y) in pairs.items()
            }
            own_names = (
                check_names(_open_array(path, archive, "classes").ravel().tolist())
                if "classes" in keys
                else None
            )
    except DataError:
        raise
    except Exception as error:  # a damaged archive makes zipfile, zlib and NumPy raise anything
        if isinstance(error, FileNotFoundError | PermissionError):
            raise DataError(f"Cannot read '{path}': {error.strerror}.") from error
        reason = "it holds Python objects" if "allow_pickle" in str(error) else str(error)
        raise DataError(
            f"Cannot read '{path}': {reason}. Expected an .npz archive of plain arrays, {NPZ_KEYS}."
        ) from error
    return load_arrays(parts, input_shape, classes, path.name, own_names, labelled)


def _pair_keys(
    keys: Sequence[str], path: Path, labelled: bool
) -> dict[str, tuple[str, str | None]]:
    pairs: dict[str, tuple[str, str | None]] = {}
    for split, suffixes in SPLIT_SUFFIXES.items():
        for suffix in suffixes:
            present = [key for key in (f"x{suffix}", f"y{suffix}") if key in keys]
            if len(present) == 1 and (labelled or present[0][0] == "y"):
                raise DataError(
                    f"'{path}' has '{present[0]}' without its partner. Expected {NPZ_KEYS}."
                )
            if present:
                pairs.setdefault(split, (present[0], present[1] if present[1:] else None))
    if not pairs or ("all" in pairs and len(pairs) > 1):
        raise DataError(
            f"'{path}' holds {', '.join(sorted(keys)) or 'nothing'}. Expected {NPZ_KEYS}, "
            "and optionally 'classes' (the names)."
        )
    return pairs


def _open_array(path: Path, archive: Any, key: str) -> np.ndarray:
    """Map an array inside a zip file where it lies uncompressed, else read it.

    Checksum and size are compared first: what is mapped has neither.
    """
    info = archive.zip.getinfo(f"{key}.npy")
    with archive.zip.open(info) as member:
        version = np.lib.format.read_magic(member)
        consumers = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }
        is_compressed = info.compress_type != zipfile.ZIP_STORED
        if is_compressed and info.file_size > find_free_memory():
            raise ValueError(
                f"'{key}' takes {info.file_size / 2**30:.1f} GiB of memory, more than is free; "
                "what np.savez saves stays on disk"
            )
        if version not in consumers:
            return np.asarray(archive[key])
        shape, fortran_order, dtype = consumers[version](member)
        header_size = member.tell()
        size = header_size + math.prod(shape) * dtype.itemsize
        if size != info.file_size and not dtype.hasobject:
            raise ValueError(
                f"'{key}' has {info.file_size:,} bytes, but by its header {shape} of {dtype} it "
                f"should have {size:,}"
            )
        if dtype.hasobject or 0 in shape or is_compressed:
            return np.asarray(archive[key])
        while member.read(READ_BYTES):  # at the end zipfile compares the checksum
            pass
    with open(path, "rb") as file:
        # The local header repeats the name and has its own extra field, which may differ in size
        # from the one in the zip directory: 30 fixed bytes, their sizes at 26 and 28.
        file.seek(info.header_offset + 26)
        name_size, extra_size = struct.unpack("<HH", file.read(4))
    offset = info.header_offset + 30 + name_size + extra_size + header_size
    mapped: np.memmap[Any, Any] = np.memmap(
        path, dtype, "r", offset, shape, "F" if fortran_order else "C"
    )
    return np.asarray(mapped)
