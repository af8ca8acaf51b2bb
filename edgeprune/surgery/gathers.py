"""Channel gathers: a layer reads some channels of a residual stream, the stream keeps its width.

While channels are chosen, a gather is a layer of its own (`ChannelGather`), so that what it hands
on is a group like others. In a finished model it is a `keras.ops.take`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from edgeprune.errors import PlanError
from edgeprune.tracing.groups import Axis
from edgeprune.tracing.replica import (
    Arguments,
    copy_weights,
    operations_by_path,
    replicate,
    reproduce,
    set_weights,
)
from edgeprune.tracing.rules.gathering import ChannelGather


def open_gathers(model: keras.Model, readers: Iterable[str]) -> keras.Model:
    """Return an equal model with a gather of all channels in front of some layers.

    Args:
        model: it is not changed.
        readers: paths of the layers, each called once.

    Example:
        >>> inputs = keras.Input((4,))
        >>> model = keras.Model(inputs, keras.layers.Dense(2, name="reader")(inputs))
        >>> list_gathers(open_gathers(model, ["reader"]))
        {'reader_gather': (0, 1, 2, 3)}
    """
    names = {path: path.replace("/", "_") + "_gather" for path in readers}

    def adapt(path: str, position: int, arguments: Arguments) -> Arguments:
        if path not in names:
            return arguments
        (x, *others), options = arguments
        gather = ChannelGather(range(x.shape[-1]), name=names[path])
        return (gather(x), *others), options

    opened, made = replicate(model, adapt=adapt)
    copy_weights(model, made)
    return opened


def list_gathers(model: keras.Model) -> dict[str, tuple[int, ...]]:
    """Return which channels the gathers of a model hand on, by the path of the gather."""
    return {
        path: tuple(operation.positions)
        for path, operation in operations_by_path(model).items()
        if isinstance(operation, ChannelGather)
    }


def close_gathers(model: keras.Model) -> keras.Model:
    """Return an equal plain Keras model: gathers become `keras.ops.take`, or nothing if of all.

    Args:
        model: it is not changed.
    """
    gathers = list_gathers(model)

    def make(path: str, operation: keras.Operation) -> keras.Operation:
        if path not in gathers:
            return reproduce(path, operation)
        (tensor,) = operation._inbound_nodes[0].input_tensors
        return _Selection(gathers[path], tensor.shape[-1])

    closed, made = replicate(model, make)
    for path, operation in operations_by_path(model).items():
        if isinstance(operation, keras.Layer) and path not in gathers and operation.weights:
            set_weights(made[path], operation.get_weights())
    return closed


class _Selection:
    """Called like a layer, leaves a plain operation in the graph."""

    trainable = False

    def __init__(self, positions: Sequence[int], width: int) -> None:
        self.positions = list(positions)
        self.whole = self.positions == list(range(width))

    def __call__(self, x: Any) -> Any:
        return x if self.whole else keras.ops.take(x, self.positions, axis=-1)


def narrow_readers(
    model: keras.Model, narrowed: Mapping[str, tuple[Axis, np.ndarray]]
) -> keras.Model:
    """Return a model in which some layers read only some positions of their input.

    Args:
        model: it is not changed.
        narrowed: path of a layer -> the reading axis of its weight, and the positions.

    Raises:
        PlanError: a layer would read nothing.
    """
    operations = operations_by_path(model)
    for path, (_, positions) in narrowed.items():
        if not len(positions):
            raise PlanError(
                f"The plan has layer '{path}' read channels that are gone or do not exist."
            )

    def adapt(path: str, position: int, arguments: Arguments) -> Arguments:
        if path not in narrowed:
            return arguments
        (x, *others), options = arguments
        return (_Selection(narrowed[path][1].tolist(), x.shape[-1])(x), *others), options

    smaller, made = replicate(model, adapt=adapt)
    for path, operation in operations.items():
        if isinstance(operation, keras.Layer) and operation.weights:
            weights = operation.get_weights()
            if path in narrowed:
                axis, positions = narrowed[path]
                weights[axis.weight] = np.take(weights[axis.weight], positions, axis=axis.axis)
            set_weights(made[path], weights)
    return smaller
