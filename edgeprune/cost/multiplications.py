"""How often each weight of a layer is multiplied with something in one inference."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

from keras import layers

from edgeprune.tracing.graph import Call, Shape, TensorRef
from edgeprune.tracing.rules.dense import Equation


@dataclass(frozen=True)
class Product:
    """Multiplications with a weight in one inference.

    Attributes:
        weight: the variable.
        times: how often each of its numbers is used per sample; NaN where sizes are not fixed.
        axes: axes of the weight whose sizes multiply `times`; `None` for all.
    """

    weight: Any
    times: float
    axes: tuple[int, ...] | None = None


Count = Callable[[Call, Any], list[Product]]


def multiplications(call: Call, layer: Any) -> list[Product]:
    """Return the multiplications of a call; a custom layer is taken for a matrix.

    Each weight of such a layer with two axes or more counts once per position of its output.
    """
    if type(layer) in MULTIPLICATIONS:
        return MULTIPLICATIONS[type(layer)](call, layer)
    if not call.is_layer or type(layer).__module__.partition(".")[0] == "keras":
        return []
    positions = _positions(call.outputs[0].shape, layer)
    return [Product(weight, positions) for weight in layer.weights if len(weight.shape) > 1]


def _volume(sizes: Iterable[int | None]) -> float:
    """Multiply sizes; NaN where one is not fixed."""
    sizes = tuple(sizes)
    return math.nan if None in sizes else float(math.prod(size or 0 for size in sizes))


def _positions(shape: Shape, layer: Any) -> float:
    """Positions of a tensor with batch axis that are not channels."""
    first = getattr(layer, "data_format", None) == "channels_first"
    return _volume(shape[2:] if first else shape[1:-1])


def _at_outputs(*weights: str) -> Count:
    def count(call: Call, layer: Any) -> list[Product]:
        positions = _positions(call.outputs[0].shape, layer)
        return [Product(getattr(layer, name), positions) for name in weights]

    return count


def _at_inputs(call: Call, layer: Any) -> list[Product]:
    """A transposed convolution uses its kernel once per input position."""
    return [Product(layer.kernel, _positions(call.inputs[0].shape, layer))]


def _by_einsum(call: Call, layer: Any) -> list[Product]:
    equation = Equation.parse(layer.equation, len(call.inputs[0].shape))
    sizes = zip(equation.made[1:], call.outputs[0].shape[1:], strict=True)
    times = _volume(size for letter, size in sizes if letter not in equation.kernel)
    return [Product(layer.kernel, times)]


def _over_time(call: Call, layer: Any) -> list[Product]:
    """Both kernels at every step, and at every position for the convolutional ones."""
    if not hasattr(layer.cell, "recurrent_kernel"):
        return []
    shape = call.outputs[0].shape
    state = (shape[0], *shape[2:]) if layer.return_sequences else shape
    times = _volume(call.inputs[0].shape[1:2])
    if len(state) > 2:
        times *= _positions(state, layer)
    return [Product(weight, times) for weight in (layer.cell.kernel, layer.cell.recurrent_kernel)]


def _both_ways(call: Call, layer: Any) -> list[Product]:
    parts = (layer.forward_layer, layer.backward_layer)
    return [product for part in parts for product in multiplications(call, part)]


def _every_step(call: Call, layer: Any) -> list[Product]:
    inputs, outputs = (
        tuple(TensorRef(ref.number, (ref.shape[0], *ref.shape[2:])) for ref in refs)
        for refs in (call.inputs, call.outputs)
    )
    step = replace(call, operation=layer.layer, inputs=inputs, outputs=outputs)
    steps = _volume(call.inputs[0].shape[1:2])
    return [
        Product(product.weight, product.times * steps, product.axes)
        for product in multiplications(step, layer.layer)
    ]


def _attention(call: Call, layer: Any) -> list[Product]:
    """Projections, then the scores (query times key) and their use (scores times value)."""
    given = dict(zip(("query", "value", "key"), call.args, strict=False)) | dict(call.kwargs)
    queries = _positions(given["query"].shape, layer)
    keys = _positions(given["value"].shape, layer)
    parts = [
        Product(layer._query_dense.kernel, queries),
        Product(layer._key_dense.kernel, keys),
        Product(layer._value_dense.kernel, keys),
        Product(layer._output_dense.kernel, queries),
        Product(layer._query_dense.kernel, queries * keys, (1, 2)),
        Product(layer._value_dense.kernel, queries * keys, (1, 2)),
    ]
    if getattr(layer, "_use_gate", False):
        parts.append(Product(layer._gate_dense.kernel, queries))
    return parts


MULTIPLICATIONS: dict[type, Count] = {
    layers.Conv1D: _at_outputs("kernel"),
    layers.Conv2D: _at_outputs("kernel"),
    layers.Conv3D: _at_outputs("kernel"),
    layers.Conv1DTranspose: _at_inputs,
    layers.Conv2DTranspose: _at_inputs,
    layers.Conv3DTranspose: _at_inputs,
    layers.DepthwiseConv1D: _at_outputs("kernel"),
    layers.DepthwiseConv2D: _at_outputs("kernel"),
    layers.SeparableConv1D: _at_outputs("depthwise_kernel", "pointwise_kernel"),
    layers.SeparableConv2D: _at_outputs("depthwise_kernel", "pointwise_kernel"),
    layers.Dense: _at_outputs("kernel"),
    layers.EinsumDense: _by_einsum,
    layers.RNN: _over_time,
    layers.SimpleRNN: _over_time,
    layers.GRU: _over_time,
    layers.LSTM: _over_time,
    layers.ConvLSTM1D: _over_time,
    layers.ConvLSTM2D: _over_time,
    layers.ConvLSTM3D: _over_time,
    layers.Bidirectional: _both_ways,
    layers.TimeDistributed: _every_step,
    layers.MultiHeadAttention: _attention,
}
