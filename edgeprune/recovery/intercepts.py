"""Where a constant goes that a recovery wants to add to a reader's output."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from edgeprune.graph import Graph, build_graph
from edgeprune.groups import Groups
from edgeprune.readers import find_readers
from edgeprune.replica import operations_by_path, replicate, reproduce


def following_normalization(graph: Graph, path: str) -> Any | None:
    """Return the BatchNormalization that alone consumes a layer's output, if there is one."""
    consumers = graph.consumers()
    outputs = {ref.number for ref in graph.outputs}
    found = []
    for call in graph.calls:
        if call.path == path:
            number = call.outputs[0].number
            found += consumers.get(number, []) if number not in outputs else [call]
    if len(found) == 1 and type(found[0].operation) is keras.layers.BatchNormalization:
        return found[0].operation
    return None


def give_biases(smaller: keras.Model, groups: Groups) -> keras.Model:
    """Return a copy in which every reader can take a constant.

    A reader without a bias gets one, at zero, unless a BatchNormalization follows: Keras subtracts
    that layer's moving mean, so the constant goes there and the layer stays as the user built it.
    """
    graph = build_graph(smaller)
    without = {
        reader.path
        for reader in find_readers(groups)
        if not reader.layer.use_bias and following_normalization(graph, reader.path) is None
    }

    def make(path: str, operation: keras.Operation) -> keras.Operation:
        if path in without:
            config = operation.get_config() | {"use_bias": True}
            return type(operation).from_config(config)
        return reproduce(path, operation)

    copy, made = replicate(smaller, make)
    for path, operation in operations_by_path(smaller).items():
        weights = getattr(operation, "weights", []) and operation.get_weights()
        if path in without:
            weights = [*weights, np.zeros(made[path].bias.shape)]
        if weights:
            made[path].set_weights(weights)
    return copy


def add_constant(graph: Graph, path: str, layer: Any, constant: np.ndarray) -> None:
    """Add a constant `(outputs,)` to what a layer gives, through its bias or the next BatchNorm."""
    if layer.use_bias:
        layer.bias.assign(keras.ops.convert_to_numpy(layer.bias) + constant)
        return
    normalization = following_normalization(graph, path)
    if normalization is not None:
        mean = keras.ops.convert_to_numpy(normalization.moving_mean)
        normalization.moving_mean.assign(mean - constant)
