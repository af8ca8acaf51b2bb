"""Where quantization loses: for every layer, what it computes in integers against in floats."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgeprune.tflite.flatbuffer import operator_kind
from edgeprune.tflite.flatbuffer_edits import activations
from edgeprune.tflite.ranges import LEVELS, Range, Watcher

Sums = dict[int, list[np.ndarray]]


@dataclass(frozen=True)
class LayerError:
    """How well one layer's output survives quantization.

    Errors are relative to each channel's own scale (root mean square of the difference over that
    of the values), at most 1 per channel, averaged over the channels: a tensor that one huge
    channel dominates is found by the others.

    Attributes:
        layer: its name in the Keras model; the output's tensor where it has none.
        operator: that makes it in the `.tflite`.
        tensor: index in the float `.tflite`.
        low: smallest value of the range; likewise high.
        rounding: error of putting the exact output into the integers of this range.
        error: of the output in the quantized model, with all that went wrong before it; `None`
            where the quantizer fused the tensor away.
        in_float: whether the layer stays in float.
    """

    layer: str
    operator: str
    tensor: int
    low: float
    high: float
    rounding: float
    error: float | None
    in_float: bool


def compare_layers(
    content: bytes,
    parsed: Any,
    quantized: bytes,
    ranges: Mapping[int, Range],
    samples: Iterable[Sequence[np.ndarray]],
    *,
    layers: Collection[str],
    keep_float: Collection[int] = (),
) -> tuple[LayerError, ...]:
    """Run samples through both models and compare tensor by tensor.

    Args:
        content: of the float `.tflite`.
        parsed: its `ModelT`.
        quantized: content of the quantized one, with inputs and outputs in float.
        ranges: of the float model's tensors.
        samples: the inputs of each, in the order of the file, with a batch of one.
        layers: names of the Keras model's layers.
        keep_float: tensors that stayed in float.

    Returns:
        One entry per tensor that has a range or was left in float, in the order of computation.
    """
    exact, rounded = Watcher(content), Watcher(quantized)
    indices = [index for index in activations(parsed) if index in ranges]
    twins = _match(parsed, indices, rounded)
    power: dict[int, np.ndarray] = {}
    rounding: dict[int, np.ndarray] = {}
    total: dict[int, np.ndarray] = {}
    for sample in samples:
        exact.run(sample)
        rounded.run(sample)
        for index in indices:
            values = exact.look(index)
            _add(power, index, values)
            _add(rounding, index, _round(values, ranges[index]) - values)
            if index in twins:
                _add(total, index, rounded.look(twins[index]).reshape(values.shape) - values)
    operators = _operators(parsed)
    return tuple(
        LayerError(
            layer=_name(parsed, index, layers),
            operator=operators.get(index, "INPUT"),
            tensor=index,
            low=ranges[index][0],
            high=ranges[index][1],
            rounding=_relative(rounding[index], power[index]),
            error=_relative(total[index], power[index]) if index in total else None,
            in_float=index in keep_float,
        )
        for index in indices
    )


def _round(values: np.ndarray, limits: Range) -> np.ndarray:
    step = (limits[1] - limits[0]) / LEVELS
    if step <= 0:
        return np.zeros_like(values)
    zero = np.rint(-limits[0] / step)
    return (np.clip(np.rint(values / step) + zero, 0, LEVELS) - zero) * np.float32(step)


def _add(sums: dict[int, np.ndarray], index: int, values: np.ndarray) -> None:
    """Add the squares of every channel."""
    channels = values.shape[-1] if values.ndim > 1 else 1
    squares = np.square(values.reshape(-1, channels), dtype=np.float64).sum(axis=0)
    sums[index] = sums.get(index, 0) + squares


def _relative(error: np.ndarray, power: np.ndarray) -> float:
    alive = power > 0
    if not alive.any():
        return 0.0
    return float(np.minimum(1.0, np.sqrt(error[alive] / power[alive])).mean())


def _match(parsed: Any, indices: Sequence[int], rounded: Watcher) -> dict[int, int]:
    """Find each float tensor in the quantized model by its name, which may have got a digit."""
    named: dict[str, int] = {}
    for index, details in rounded.tensors.items():
        named.setdefault(str(details["name"]), index)
        named.setdefault(re.sub(r"1$", "", str(details["name"])), index)
    tensors = parsed.subgraphs[0].tensors
    names = {index: tensors[index].name.decode() for index in indices}
    shapes = {index: int(np.prod(tensors[index].shape)) for index in indices}
    return {
        index: named[name]
        for index, name in names.items()
        if name in named and np.prod(rounded.tensors[named[name]]["shape"]) == shapes[index]
    }


def _operators(parsed: Any) -> dict[int, str]:
    return {
        index: operator_kind(parsed, operator)
        for operator in parsed.subgraphs[0].operators
        for index in operator.outputs
    }


def _name(parsed: Any, index: int, layers: Collection[str]) -> str:
    """Return the Keras layer in a tensor's name, `model/relu_1/op;model/conv_1/op`.

    Of fused layers the last is the one with the weights. Tracing adds a number to each name.
    """
    subgraph = parsed.subgraphs[0]
    name: str = subgraph.tensors[index].name.decode()
    for part in reversed(re.split("[;/]", name)):
        for candidate in (re.sub(r"_\d+$", "", part), part):
            if candidate in layers:
                return candidate
    if index in subgraph.outputs:
        return "(output)"
    return "(input)" if index in subgraph.inputs else name
