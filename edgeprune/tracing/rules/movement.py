"""Data movement, executed on labels: these are read back from the result."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import layers

from edgeprune.tracing.graph import TensorRef, map_structure
from edgeprune.tracing.keras_internals import array_operations as operations
from edgeprune.tracing.keras_internals import existing_types
from edgeprune.tracing.labels import NO_LABEL
from edgeprune.tracing.rules.registry import Labels, Tracing, rule, varying_axes

UNKNOWN_SIZE = "sizes that are not known before there is data"


def execute_on_labels(tracing: Tracing, labels: Sequence[Labels]) -> list[Labels] | None:
    """Call the operation with labels in place of numbers; `None` where that is not possible.

    Constants among the arguments that are joined with tensors hold `NO_LABEL`.
    """
    values = {}
    for ref, given in zip(tracing.call.inputs, labels, strict=True):
        shape = tracing.example_shape(ref)
        if shape is None:
            return None
        values[ref.number] = np.array(np.broadcast_to(given, shape), np.int32)
    joined = isinstance(tracing.call.operation, JOINING)

    def look_up(argument: Any) -> Any:
        if isinstance(argument, TensorRef):
            return keras.ops.convert_to_tensor(values[argument.number])
        if joined and np.ndim(argument) > 0:
            return keras.ops.full(np.shape(argument), NO_LABEL, dtype="int32")
        return argument

    args = map_structure(look_up, tracing.call.args)
    kwargs = map_structure(look_up, dict(tracing.call.kwargs))
    try:
        results = keras.tree.flatten(tracing.call.operation(*args, **kwargs))
    except Exception:  # the example's batch does not fit the sizes that the operation names
        return None
    made = []
    for ref, result in zip(tracing.call.outputs, results, strict=True):
        found = keras.ops.convert_to_numpy(result).astype(np.int64)
        tracing.record_shape(ref, found.shape)
        made.append(without_batch(tracing, found))
    return made


def without_batch(tracing: Tracing, labels: Labels) -> Labels:
    """Drop the leading axis; what moved to it is tied. Empty tensors have no labels."""
    if labels.ndim == 0:
        return labels
    if labels.size == 0:
        return labels[0]
    rows = labels.reshape(len(labels), -1)
    return tracing.space.collapse(rows, -1).reshape(labels.shape[1:])


def move(tracing: Tracing, labels: Sequence[Labels]) -> list[Labels]:
    """Execute on labels, or lock."""
    made = execute_on_labels(tracing, labels)
    if made is None:
        return tracing.opaque(f"'{tracing.call.path}' needs {UNKNOWN_SIZE}", labels)
    return [tracing.space.rectangular(one) for one in made]


JOINING = existing_types(operations, "Concatenate Stack Append Hstack Vstack Dstack")
MOVING = "Transpose Moveaxis Swapaxes Squeeze ExpandDims Flip Fliplr Flipud Copy Tile"


@rule(*JOINING, *existing_types(operations, MOVING), layers.Permute, layers.RepeatVector)
def move_freely(tracing: Tracing, operation: Any, *labels: Labels) -> list[Labels]:
    """Movement that works on any number of channels."""
    return move(tracing, labels)


@rule(operations.Repeat)
def repeat(tracing: Tracing, operation: Any, x: Labels) -> list[Labels]:
    """Every channel as often as the others."""
    if np.size(operation.repeats) > 1:
        return tracing.opaque(f"'{tracing.call.path}' repeats positions unequally often", [x])
    return move(tracing, [x])


@rule(layers.Reshape, operations.Reshape, operations.BroadcastTo)
def reshape(tracing: Tracing, operation: Any, x: Labels) -> list[Labels]:
    """Labels move as numbers do; what cannot stay a rectangle is tied."""
    entry, first, sizes = {
        layers.Reshape: ("target_shape", 0, getattr(operation, "target_shape", ())),
        operations.Reshape: ("newshape", 1, getattr(operation, "newshape", ())),
        operations.BroadcastTo: ("shape", 1, getattr(operation, "shape", ())),
    }[type(operation)]
    made = move(tracing, [x])
    for axis in varying_axes(made[0]):
        if tracing.output_shapes[0][axis] is None:
            reason = f"'{tracing.call.path}' moves channels to an axis of unknown size"
            return tracing.opaque(reason, [x])
        if sizes[axis + first] != -1:
            tracing.count(entry, made[0].reshape(-1), axis + first)
    return made


@rule(layers.Flatten, operations.Ravel)
def flatten(tracing: Tracing, layer: Any, x: Labels) -> Labels:
    """One long axis on which each channel appears once per position."""
    shape = tracing.input_shapes[0]
    if None in shape or not isinstance(layer, layers.Flatten):
        return tracing.opaque(f"'{tracing.call.path}' needs {UNKNOWN_SIZE}", [x])[0]
    full = np.broadcast_to(x, tuple(size or 0 for size in shape))
    if layer.data_format == "channels_first" and len(shape) > 1:
        full = np.moveaxis(full, 0, -1)
    return full.reshape(-1)
