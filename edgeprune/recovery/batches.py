"""Calibration samples as batches that fit into memory while every layer is visited in turn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from edgeprune.tracing.graph import Call, Graph, fill_in

BATCH_SIZE = 256
LEAST_SAMPLES = 16
MEMORY = 512 * 1024**2

Values = dict[int, Any]


def make_batches(graph: Graph, inputs: np.ndarray, *, models: int = 1) -> list[Any]:
    """Return samples as backend tensors, a few hundred in each.

    Args:
        graph: of the model that will be walked with all batches alive at once.
        inputs: `(n, ...)` samples.
        models: how many such models are walked side by side.

    Returns:
        All samples, or as many as keep the feature maps within 512 MB, from all over the
        array: samples are often sorted by class.
    """
    most = max(LEAST_SAMPLES, MEMORY // max(models * bytes_per_sample(graph), 1))
    if len(inputs) > most:
        inputs = inputs[np.linspace(0, len(inputs) - 1, most).astype(np.int64)]
    return [
        ops.convert_to_tensor(inputs[start : start + BATCH_SIZE])
        for start in range(0, len(inputs), BATCH_SIZE)
    ]


def bytes_per_sample(graph: Graph) -> int:
    """Return the most bytes that the tensors alive at one time take per sample, in float32."""
    last = graph.last_uses()
    alive: dict[int, int] = {}
    peak = 0
    for index, call in enumerate(graph.calls):
        for ref in call.outputs:
            alive[ref.number] = 4 * ref.size
        peak = max(peak, sum(alive.values()))
        for ref in call.inputs:
            if last[ref.number] == index:
                alive.pop(ref.number, None)
    return peak


def execute(call: Call, values: Values) -> None:
    """Run one call on the tensors it needs and add what it makes."""
    args, kwargs = fill_in(call, values)
    result = keras.tree.flatten(call.operation(*args, **kwargs))
    values.update(zip((ref.number for ref in call.outputs), result, strict=True))


def release(call: Call, index: int, last_uses: dict[int, int], values: Sequence[Values]) -> None:
    """Forget the inputs of a call that nobody needs after it."""
    for ref in call.inputs:
        if last_uses[ref.number] == index:
            for held in values:
                held.pop(ref.number, None)
