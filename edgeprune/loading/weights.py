"""Weights of the HDF5 files of Keras 1 to 3, put where they belong by the order of layers."""

from __future__ import annotations

import contextlib
import functools
import glob
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np

from edgeprune.errors import ModelError
from edgeprune.loading import hard_sigmoids
from edgeprune.loading.hdf5 import read_names
from edgeprune.loading.parts import Architecture, Part
from edgeprune.loading.zip_files import MOST_RATIO, UNSUSPICIOUS_BYTES


def assign_from_hdf5(architecture: Architecture, group: h5py.Group) -> None:
    """Fill a model from the weights group of an HDF5 file.

    Args:
        architecture: as built from the same file or from the JSON beside it.
        group: holds one group per layer; its attribute `layer_names` gives their order.

    Raises:
        ModelError: the weights are those of another model; the first layer that differs is named.
    """
    groups = _groups_with_weights(group)
    parts = [part for part in architecture.parts if part.layer.weights]
    if len(groups) != len(parts):
        raise ModelError(
            f"The architecture has {len(parts)} layers with weights, the file has {len(groups)}: "
            "they belong to different models."
        )
    if {name for name, _ in groups} == {part.name for part in parts}:
        by_name = dict(groups)
        groups = [(part.name, by_name[part.name]) for part in parts]
    for part, (name, saved) in zip(parts, groups, strict=True):
        slots = [*_slots(part, True), *_slots(part, False)]
        arrays = [array for array_name, array in saved if not _is_random_state(array_name)]
        shapes = [tuple(leaf.layer.weights[index].shape) for leaf, index in slots]
        found = [array.shape for array in arrays]
        if shapes != found:
            raise ModelError(_mismatch(part, name, shapes, found))
        values: dict[int, dict[int, np.ndarray]] = {}
        for (leaf, index), array in zip(slots, arrays, strict=True):
            values.setdefault(id(leaf), {})[index] = np.asarray(array)
        for _, leaf in part.leaves():
            own = values.get(id(leaf), {})
            assign(leaf, [own[index] for index in sorted(own)])


def assign_by_path(
    architecture: Architecture, arrays: Mapping[tuple[str, ...], Sequence[np.ndarray]]
) -> None:
    """Fill a model from arrays per layer, keyed by the file's names on the way to each layer.

    Raises:
        ModelError: a layer has no arrays or arrays of other shapes.
    """
    for part in architecture.parts:
        for path, leaf in part.leaves():
            shapes = [tuple(weight.shape) for weight in leaf.layer.weights]
            given = list(arrays.get(path, []))[: len(shapes)]
            found = [array.shape for array in given]
            if shapes != found:
                raise ModelError(_mismatch(leaf, "/".join(path), shapes, found))
            assign(leaf, given)


def assign(part: Part, arrays: list[np.ndarray]) -> None:
    """Set the weights of one layer, in the form that Keras 3 needs them."""
    if not arrays:
        return
    part.layer.set_weights(hard_sigmoids.scale(part.layer, arrays) if part.scaled else arrays)
    if hasattr(part.layer, "finalize_state"):  # Normalization computes with copies of its weights
        part.layer.finalize_state()


@contextlib.contextmanager
def bounded_by(file: Path) -> Iterator[None]:
    """Let no layer allocate, inside the block, more weights than a file of this size can hold.

    A configuration of a few bytes may ask for any number of them.

    Args:
        file: with the weights, or the prefix of a checkpoint.

    Raises:
        ModelError: names the layer that goes beyond.
    """
    stored = sum(path.stat().st_size for path in file.parent.glob(f"{glob.escape(file.name)}*"))
    left = UNSUSPICIOUS_BYTES + MOST_RATIO * stored
    original = keras.Layer.add_weight

    @functools.wraps(original)
    def add_weight(layer: keras.Layer, *given: Any, **settings: Any) -> Any:
        nonlocal left
        shape = settings.get("shape", given[0] if given else ())
        sizes = [shape] if isinstance(shape, int) else shape or ()
        left -= math.prod(size or 1 for size in sizes)
        if left < 0:
            raise ModelError(
                f"Layer '{layer.name}' asks for weights of shape {tuple(sizes)}; '{file.name}' has "
                f"{stored:,} bytes, which cannot hold them: it is damaged."
            )
        return original(layer, *given, **settings)

    keras.Layer.add_weight = add_weight
    try:
        yield
    finally:
        keras.Layer.add_weight = original


def check_finite(model: keras.Model, origin: str) -> None:
    """Refuse a model with NaN or infinite weights.

    Raises:
        ModelError: names the first such layer and weight, and how many values are bad.
    """
    for weight in model.weights:
        values = keras.ops.convert_to_numpy(weight)
        if not np.issubdtype(values.dtype, np.floating):
            values = values.astype("float32") if values.dtype.kind == "V" else values
        if values.dtype.kind != "f":
            continue
        bad = int(values.size - np.count_nonzero(np.isfinite(values)))
        if bad:
            layer, _, name = weight.path.rpartition("/")
            raise ModelError(
                f"Weight '{name}' of layer '{layer}' in '{origin}' has {bad:,} values out of "
                f"{values.size:,} that are NaN or infinite: training diverged or the file is "
                "damaged. Give an earlier checkpoint."
            )


def _groups_with_weights(group: h5py.Group) -> list[tuple[str, list[tuple[str, h5py.Dataset]]]]:
    groups = []
    for name in read_names(group, "layer_names"):
        names = read_names(group[name], "weight_names")
        if names:
            groups.append((name, [(item, group[name][item]) for item in names]))
    return groups


def _slots(part: Part, trainable: bool) -> Iterator[tuple[Part, int]]:
    """Yield the weights of a layer in the order of the file: first what is trainable in any part.

    In frozen layers nothing is trainable, so they keep the order in which the layers stand.
    """
    for inner in part.parts:
        yield from _slots(inner, trainable)
    if not part.parts:
        learned = {id(weight) for weight in part.layer.trainable_weights}
        for index, weight in enumerate(part.layer.weights):
            if (id(weight) in learned) == trainable:
                yield part, index


def _is_random_state(name: str) -> bool:
    """Recognise the seeds of random layers, which Keras 3 does not keep among the weights."""
    return name.rsplit("/", 1)[-1].startswith("StateVar")


def _mismatch(part: Part, name: str, expected: Sequence[Any], found: Sequence[Any]) -> str:
    return (
        f"The weights of layer '{name}' ({type(part.layer).__name__}) have the shapes "
        f"{_shapes(found)}, the architecture needs {_shapes(expected)}: they belong to different "
        "models."
    )


def _shapes(shapes: Sequence[Any], limit: int = 4) -> str:
    shown = ", ".join(str(tuple(shape)) for shape in shapes[:limit])
    return f"{shown} and {len(shapes) - limit} more" if len(shapes) > limit else shown or "none"
