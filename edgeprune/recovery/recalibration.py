"""BatchNorm recalibration: moving statistics of the pruned model, measured on calibration data."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops

from edgeprune.recovery.batches import execute, make_batches, release
from edgeprune.support.progress import stage
from edgeprune.surgery.constants import is_constant_layer
from edgeprune.tracing.graph import build_graph
from edgeprune.tracing.inference import full_float32
from edgeprune.tracing.replica import duplicate


@full_float32()
def recalibrate(smaller: keras.Model, inputs: np.ndarray) -> keras.Model:
    """Return a copy whose BatchNorm layers normalise what they now see, front to back.

    Each layer's moving mean and variance become those of its input over all samples, the layers
    before it already recalibrated: exact, where running averages would need many batches.

    Args:
        smaller: the model; not changed.
        inputs: `(n, ...)` preprocessed calibration samples; fewer are used where their feature
            maps would take more than 512 MB.

    Returns:
        A new model of the same architecture.
    """
    result = duplicate(smaller)
    graph = build_graph(result)
    last = graph.last_uses()
    values = [{graph.inputs[0].number: batch} for batch in make_batches(graph, inputs)]
    done: set[str] = set()
    with stage("BatchNorm recalibration", len(graph.calls)) as advance:
        for index, call in enumerate(graph.calls):
            layer = call.operation
            measured = type(layer) is keras.layers.BatchNormalization
            if measured and call.path not in done and not is_constant_layer(layer):
                done.add(call.path)
                _measure(layer, [held[call.inputs[0].number] for held in values])
            for held in values:
                execute(call, held)
            release(call, index, last, values)
            advance()
    return result


def _measure(layer: Any, batches: list[Any]) -> None:
    """Set a layer's moving statistics to those of its input."""
    axes = [a for a in range(len(batches[0].shape)) if a != layer.axis % len(batches[0].shape)]
    count, total, squares = 0.0, np.float64(0), np.float64(0)
    for x in (ops.cast(batch, "float32") for batch in batches):
        count += float(np.prod([x.shape[axis] for axis in axes]))
        total = total + ops.convert_to_numpy(ops.sum(x, axis=axes)).astype(np.float64)
        squares = squares + ops.convert_to_numpy(ops.sum(ops.square(x), axis=axes)).astype(float)
    mean = total / count
    layer.moving_mean.assign(mean)
    layer.moving_variance.assign(np.maximum(squares / count - mean**2, 0.0))
