"""Weights as TensorFlow 2.12 and 2.13 put them into `.keras` and `.weights.h5` files.

These versions went through `_layer_checkpoint_dependencies`, which has a layer with weights twice,
and counted both: `conv2d`, `conv2d_2`, `conv2d_4`. Later ones skip it and look elsewhere. Layers
are found by class and order here, whatever the numbers; Windows wrote backslashes into the paths.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import h5py
import keras
import numpy as np

from edgeprune.errors import ModelError
from edgeprune.loading.hdf5 import DEPENDENCIES
from edgeprune.loading.parts import Architecture, Part

Path = tuple[str, ...]
Tree = dict[str, Any]


def read_by_path(architecture: Architecture, file: h5py.File) -> dict[Path, list[np.ndarray]]:
    """Read the weights of every layer, by the names on the way to it.

    Raises:
        ModelError: the file has other layers, or other weights in one of them.
    """
    tree: Tree = {}

    def add(name: str, entry: Any) -> None:
        if isinstance(entry, h5py.Dataset):
            *folders, last = re.split(r"[/\\]", name)
            node = tree
            for folder in folders:
                node = node.setdefault(folder, {})
            node[last] = entry

    file.visititems(add)
    return dict(_of_model(architecture.parts, tree, ()))


def _of_model(
    parts: Iterable[Part], tree: Tree, path: Path
) -> Iterator[tuple[Path, list[np.ndarray]]]:
    """Yield the weights of a model's layers, paired by class and order."""
    by_class: dict[str, list[tuple[int, Tree]]] = defaultdict(list)
    children: Tree = tree.get(DEPENDENCIES) or tree.get("layers") or {}
    for name, child in children.items():
        base, number = re.fullmatch(r"(.*?)(?:_(\d+))?", name).groups()  # type: ignore[union-attr]
        if _has_arrays(child):
            by_class[base].append((int(number or 0), child))
    found = {name: iter(sorted(many, key=lambda one: one[0])) for name, many in by_class.items()}
    for part in parts:
        if part.layer.weights:
            _, child = next(found.get(_snake_case(part), iter(())), (0, None))
            if child is None:
                raise _mismatch(part, "none are left for a layer of this class")
            yield from _of_part(part, child, (*path, part.name))


def _of_part(part: Part, tree: Tree, path: Path) -> Iterator[tuple[Path, list[np.ndarray]]]:
    if not part.parts:
        values = _of_layer(part, part.layer, tree)
        missing = [weight for weight in part.layer.weights if id(weight) not in values]
        if missing:
            raise _mismatch(part, f"'{missing[0].path}' is not among them")
        yield path, [values[id(weight)] for weight in part.layer.weights]
    elif isinstance(part.layer, keras.Model):
        yield from _of_model(part.parts, tree, path)
    else:
        for inner in part.parts:
            if inner.layer.weights:
                yield from _of_part(inner, tree.get(inner.name, {}), (*path, inner.name))


def _of_layer(part: Part, layer: keras.Layer, tree: Tree) -> dict[int, np.ndarray]:
    """Find the arrays of a layer and of what is inside it, such as the cell of an LSTM."""
    values: dict[int, np.ndarray] = {}
    inside: set[int] = set()
    for name, child in tree.items():
        sublayer = getattr(layer, name, None) if name != "vars" else None
        if isinstance(sublayer, keras.Layer) and _has_arrays(child):
            values |= _of_layer(part, sublayer, child)
            inside |= {id(weight) for weight in sublayer.weights}
    own = [weight for weight in layer.weights if id(weight) not in inside]
    stored = tree.get("vars", {})
    arrays = [np.asarray(stored[key]) for key in sorted(stored, key=int)]
    shapes, found = [tuple(weight.shape) for weight in own], [array.shape for array in arrays]
    if shapes != found[: len(shapes)]:
        raise _mismatch(part, f"their shapes are {found}, it needs {shapes}")
    return values | {id(weight): array for weight, array in zip(own, arrays, strict=False)}


def _has_arrays(tree: Mapping[str, Any] | h5py.Dataset) -> bool:
    return not isinstance(tree, dict) or any(map(_has_arrays, tree.values()))


def _snake_case(part: Part) -> str:
    """Give the name that a container had for the class."""
    name = re.sub("(.)([A-Z][a-z]+)", r"\1_\2", type(part.layer).__name__)
    return re.sub("([a-z])([A-Z])", r"\1_\2", name).lower()


def _mismatch(part: Part, reason: str) -> ModelError:
    return ModelError(
        f"The weights of layer '{part.name}' ({type(part.layer).__name__}) are not in the file: "
        f"{reason}. They belong to different models."
    )
