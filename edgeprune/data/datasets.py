"""One door to all data: `load_dataset`."""

from __future__ import annotations

import difflib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgeprune.data.arrays import Part, load_arrays, load_npz
from edgeprune.data.builtin import CLASS_NAMES, load_builtin
from edgeprune.data.classes import check_names
from edgeprune.data.dataset import Dataset
from edgeprune.data.folders import load_folder
from edgeprune.data.streams import is_stream, load_stream
from edgeprune.errors import DataError

SOURCES = (
    "a folder of images, an .npz file, one of "
    f"{', '.join(CLASS_NAMES)}, arrays (x, y) or ((x, y), (x_test, y_test)), or a tf.data.Dataset"
)


def check_source(data: Any) -> None:
    """Refuse a path without data.

    Raises:
        DataError: nothing is there.
    """
    if not isinstance(data, (str, os.PathLike)):
        return
    path = Path(os.path.expanduser(data))
    looks_like_path = path.suffix or len(path.parts) > 1 or str(data).endswith(os.sep)
    if looks_like_path and not os.path.exists(path):
        raise DataError(
            f"There is no data at '{data}'. Expected a folder with one folder of images per class, "
            "an .npz file with x and y, or the name of a built-in data set."
        )


def load_dataset(
    source: Any,
    *,
    input_shape: tuple[int | None, ...],
    classes: Sequence[str] | None = None,
    labelled: bool = True,
) -> Dataset:
    """Open labelled samples, wherever they are; samples in folders are not read yet.

    Sources:

    - a folder of images, `class/*` or `split/class/*` (train, training; val, valid, validation;
      test, testing, eval) with .png, .jpg, .jpeg, .bmp or .webp files, also in subfolders of a
      class. Images are turned upright, converted to the model's number of colour channels and
      **resized** to its input size with Pillow (bilinear, antialiased, aspect ratio not kept).
    - an `.npz` file with `x` and `y`, or `x_train`, `y_train`, `x_test`, `y_test` and optionally
      `x_val`, `y_val`, and optionally `classes`. Saved by `np.savez` (not `savez_compressed`) the
      samples stay on disk.
    - `digits` (8x8, values 0 to 16), `mnist`, `fashion_mnist`, `cifar10`, `cifar100`. Write
      `./mnist` for a folder of that name.
    - arrays `(x, y)` or `((x, y), (x_test, y_test))`.
    - a finite `tf.data.Dataset` of (sample, target), batched or not, up to 1 GiB.
    - a `Dataset`, returned as it is.

    Arrays are **not** resized: their samples must have the shape `input_shape`; only a missing
    channel axis of size 1 is added. Targets are class indices (n,) or (n, 1), one-hot rows, or
    class names.

    Args:
        source: see above.
        input_shape: what the model reads, without the batch axis, such as (32, 32, 3); None stands
            for any size.
        classes: class names in the order of the model's outputs, from its `labels.txt` for
            instance; targets become indices into them. Names that the data has itself (folders,
            `classes` of an `.npz` file, targets that are names) are looked up in them and may be
            fewer. By default the data's own names: folders sorted as Keras does, or 0, 1, 2, ...

        labelled: whether every sample must have a class. If not, there may be samples alone or
            targets that are no classes, also in a folder of images: all of them are then of one
            class, called `UNLABELLED`.

    Raises:
        DataError: the source cannot be read, is empty, or does not fit `input_shape`.
        ClassError: a class of the data is not among `classes`.

    Example:
        >>> dataset = load_dataset("digits", input_shape=(8, 8, 1))
        >>> dataset.classes[:3], {split: len(part) for split, part in dataset.splits.items()}
        (('0', '1', '2'), {'train': 1198, 'test': 599})
    """
    if isinstance(source, Dataset):
        return source
    names = check_names(classes) if classes is not None else None
    shape = tuple(input_shape)
    if isinstance(source, str | os.PathLike):
        return _load_by_text(source, shape, names, labelled)
    if is_stream(source):
        return load_stream(source, shape, names, labelled)
    parts = _split_arrays(source, labelled)
    return load_arrays(parts, shape, names, "arrays", labelled=labelled)


def _load_by_text(
    source: str | os.PathLike[str],
    input_shape: tuple[int | None, ...],
    classes: tuple[str, ...] | None,
    labelled: bool,
) -> Dataset:
    path = Path(os.path.expanduser(source))
    if source in CLASS_NAMES:
        if os.path.exists(path):
            raise DataError(
                f"'{source}' is a built-in data set and also a file or folder here. "
                f"Write './{source}' for the latter, or rename it."
            )
        return load_builtin(str(source), input_shape, classes)
    if os.path.isdir(path):
        return load_folder(path, input_shape, classes, labelled)
    if path.suffix.lower() == ".npz" and os.path.exists(path):
        return load_npz(path, input_shape, classes, labelled)
    if os.path.exists(path):
        raise DataError(f"'{source}' is neither a folder nor an .npz file. Expected {SOURCES}.")
    siblings = [child.name for child in path.parent.iterdir()] if os.path.isdir(path.parent) else []
    close = difflib.get_close_matches(path.name, siblings, n=1)
    close = [str(path.parent / name) for name in close] or difflib.get_close_matches(
        str(source), CLASS_NAMES, n=1
    )
    hint = f" Did you mean '{close[0]}'?" if close else ""
    raise DataError(f"There is no data at '{source}'.{hint} Expected {SOURCES}.")


def _split_arrays(source: Any, labelled: bool) -> dict[str, Part]:
    if isinstance(source, np.ndarray) and not labelled:
        return {"all": (source, None)}
    if isinstance(source, tuple | list) and len(source) == 2:
        if hasattr(source[0], "shape"):
            return {"all": (source[0], source[1])}
        if all(_is_pair(part) for part in source):
            return {"train": tuple(source[0]), "test": tuple(source[1])}
    raise DataError(f"Cannot read data from {type(source).__name__}. Expected {SOURCES}.")


def _is_pair(part: Any) -> bool:
    return isinstance(part, tuple | list) and len(part) == 2 and hasattr(part[0], "shape")
