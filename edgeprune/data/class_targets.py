"""Targets as people store them (indices, a column, one-hot, names) to class indices."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgeprune.data.classes import match_names
from edgeprune.errors import DataError

MOST_CLASSES = 1_000_000
FORMS = "class indices (n,) or (n, 1), one-hot rows (n, number of classes), or class names (n,)"


def read_targets(
    stored: Sequence[np.ndarray],
    classes: tuple[str, ...] | None,
    source: str,
    own_names: tuple[str, ...] | None = None,
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Join the targets of all splits and find the class names that they index.

    Args:
        stored: one array per split, in one of the forms of `FORMS`.
        classes: names in the order wanted; the data's own names are looked up in them. None takes
            the data's own names: `own_names`, or the sorted names in the targets, or 0, 1, 2, ...
        source: what error messages call the data.
        own_names: what the stored indices stand for, where the source says so.

    Returns:
        Indices (n,) int64 and the class names.

    Raises:
        DataError: the targets have none of the forms, or point past the last class.
        ClassError: a name of the data is not among `classes`.
    """
    columns = [_flatten(np.asarray(array), source) for array in stored]
    if len({column.dtype.kind for column, _ in columns}) > 1:
        raise DataError(f"The targets of '{source}' are names in one split and numbers in another.")
    joined = np.concatenate([column for column, _ in columns])
    if not len(joined):
        raise DataError(f"'{source}' has no samples.")
    if joined.dtype.kind == "U":
        present, inverse = np.unique(joined, return_inverse=True)
        names = classes or own_names or tuple(str(name) for name in present)
        positions = match_names([str(name) for name in present], names, source)
        return np.asarray(positions, np.int64)[inverse], names
    num_classes = max(int(joined.max()) + 1, *(width for _, width in columns))
    if num_classes > MOST_CLASSES or joined.min() < 0:
        raise DataError(
            f"The targets of '{source}' run from {joined.min()} to {joined.max()}. "
            f"Expected {FORMS}; indices start at 0."
        )
    known = own_names or classes
    if known and num_classes > len(known):
        raise DataError(
            f"The targets of '{source}' need {num_classes} classes, but {len(known)} names were "
            "given. Give one name per class."
        )
    if own_names:
        positions = match_names(own_names, classes, source)
        return np.asarray(positions, np.int64)[joined], classes or own_names
    return joined, classes or tuple(str(index) for index in range(num_classes))


def is_one_hot(targets: np.ndarray) -> bool:
    """Whether these are rows of zeros with one 1 in each, `(n, number of classes)`."""
    rows = targets.ndim == 2 and targets.shape[1] > 1 and targets.dtype.kind in "biuf"
    return bool(
        rows and ((targets == 0) | (targets == 1)).all() and (targets.sum(axis=1) == 1).all()
    )


def _flatten(array: np.ndarray, source: str) -> tuple[np.ndarray, int]:
    """Give names (n,) or indices (n,), and the number of classes that one-hot rows speak of."""
    if array.dtype.kind == "O" and all(isinstance(item, str | bytes) for item in array.flat):
        array = array.astype("S" if all(isinstance(i, bytes) for i in array.flat) else "U")
    kind = array.dtype.kind
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if kind == "S" and array.ndim == 1:
        return np.char.decode(array, "utf-8"), 0
    if kind == "U" and array.ndim == 1:
        return array, 0
    if kind in "biuf" and array.ndim == 2:
        if not is_one_hot(array):
            raise DataError(
                f"The targets of '{source}' have shape {array.shape}, but not every row holds "
                f"exactly one 1 and zeros. Expected {FORMS}."
            )
        return array.argmax(axis=1).astype(np.int64), array.shape[1]
    if kind in "biuf" and array.ndim == 1 and (kind != "f" or (array == np.floor(array)).all()):
        return array.astype(np.int64), 0
    raise DataError(
        f"The targets of '{source}' are {array.dtype} of shape {array.shape}. Expected {FORMS}."
    )
