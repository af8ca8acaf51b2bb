"""How often each weight of a layer is multiplied with something in one inference."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from keras import layers

from edgeprune.tracing.graph import Call, Shape
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

    Each weight of such a layer with two axes or more counts once per position of its output; see
    `is_counted` for what that is worth.
    """
    if type(layer) in MULTIPLICATIONS:
        return MULTIPLICATIONS[type(layer)](call, layer)
    if not call.is_layer or type(layer).__module__.partition(".")[0] == "keras":
        return []
    positions = _positions(call.outputs[0].shape, layer)
    return [Product(weight, positions) for weight in layer.weights if len(weight.shape) > 1]


def is_counted(call: Call, layer: Any) -> bool:
    """Whether all that a call multiplies with weights is known, not guessed or left out."""
    if type(layer) in NOT_MULTIPLIED or not call.is_layer:
        return True
    multiplied = {id(product.weight) for product in multiplications(call, layer)}
    vectors = ("bias", "vector_u")  # of several parts, or of a spectral normalisation
    matrices = [w for w in layer.weights if len(w.shape) > 1 and not w.name.endswith(vectors)]
    known = type(layer).__module__.partition(".")[0] == "keras" or not matrices
    return known and all(id(weight) in multiplied for weight in matrices)


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
        return [Product(_variable(layer, name), positions) for name in weights]

    return count


def _variable(layer: Any, name: str) -> Any:
    """Return a weight: where it is adapted (LoRA), the attribute of its name is a sum."""
    held = getattr(layer, f"_{name}", None)
    return getattr(layer, name) if held is None else held


def _at_inputs(call: Call, layer: Any) -> list[Product]:
    """A transposed convolution uses its kernel once per input position."""
    return [Product(_variable(layer, "kernel"), _positions(call.inputs[0].shape, layer))]


def _by_einsum(call: Call, layer: Any) -> list[Product]:
    equation = Equation.parse(layer.equation, len(call.inputs[0].shape))
    sizes = zip(equation.made[1:], call.outputs[0].shape[1:], strict=True)
    times = _volume(size for letter, size in sizes if letter not in equation.kernel)
    return [Product(_variable(layer, "kernel"), times)]


def _over_time(call: Call, layer: Any) -> list[Product]:
    """Both kernels at every step, and at every position for the convolutional ones."""
    shape = call.outputs[0].shape
    state = (shape[0], *shape[2:]) if layer.return_sequences else shape
    times = _volume(call.inputs[0].shape[1:2])
    if hasattr(layer.cell, "kernel_size"):
        times *= _positions(state, layer)
    return _in_cell(layer.cell, times)


def _in_cell(cell: Any, times: float) -> list[Product]:
    if isinstance(cell, layers.StackedRNNCells):
        return [product for part in cell.cells for product in _in_cell(part, times)]
    kernels = (getattr(cell, name, None) for name in ("kernel", "recurrent_kernel"))
    return [Product(kernel, times) for kernel in kernels if kernel is not None]


def _one_step(call: Call, cell: Any) -> list[Product]:
    return _in_cell(cell, 1.0)


def _both_ways(call: Call, layer: Any) -> list[Product]:
    parts = (layer.forward_layer, layer.backward_layer)
    return [product for part in parts for product in multiplications(call, part)]


def _wrapped(call: Call, layer: Any) -> list[Product]:
    """A spectral normalisation divides once trained, and multiplies nothing."""
    return multiplications(call, layer.layer)


def _looked_up(call: Call, layer: Any) -> list[Product]:
    """An embedding is looked up; backwards it is a matrix."""
    reverse = call.kwargs.get("reverse", call.args[1] if len(call.args) > 1 else False)
    weight = layer.embeddings if layer.tie_weights else layer.reverse_embeddings
    return [Product(weight, _positions(call.inputs[0].shape, layer))] if reverse else []


def _spectrum(call: Call, layer: Any) -> list[Product]:
    """Both parts of every frequency, in every frame of every channel."""
    kernels = (getattr(layer, name, None) for name in ("real_kernel", "imag_kernel"))
    parts = 2 if layer.mode == "stft" else 1
    numbers = _volume(call.outputs[0].shape[1:]) / parts
    return [Product(k, numbers / k.shape[-1]) for k in kernels if k is not None]


def _attention(call: Call, layer: Any) -> list[Product]:
    """Projections, then the scores (query times key) and their use (scores times value)."""
    given = dict(zip(("query", "value", "key"), call.args, strict=False)) | dict(call.kwargs)
    # Several heads of queries share one of the values there.
    used = "_query_dense" if isinstance(layer, layers.GroupQueryAttention) else "_value_dense"
    queries = _positions(given["query"].shape, layer)
    keys = _positions(given["value"].shape, layer)
    parts = [
        Product(layer._query_dense.kernel, queries),
        Product(layer._key_dense.kernel, keys),
        Product(layer._value_dense.kernel, keys),
        Product(layer._output_dense.kernel, queries),
        Product(layer._query_dense.kernel, queries * keys, (1, 2)),
        Product(getattr(layer, used).kernel, queries * keys, (1, 2)),
    ]
    if hasattr(layer, "_gate_dense"):
        parts.append(Product(layer._gate_dense.kernel, queries))
    return parts


def _existing(names: str) -> list[Any]:
    """Return the layers that the installed Keras has."""
    return [getattr(layers, name) for name in names.split() if hasattr(layers, name)]


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
    **dict.fromkeys((layers.SimpleRNNCell, layers.GRUCell, layers.LSTMCell), _one_step),
    layers.StackedRNNCells: _one_step,
    layers.RNN: _over_time,
    layers.SimpleRNN: _over_time,
    layers.GRU: _over_time,
    layers.LSTM: _over_time,
    layers.ConvLSTM1D: _over_time,
    layers.ConvLSTM2D: _over_time,
    layers.ConvLSTM3D: _over_time,
    layers.Bidirectional: _both_ways,
    layers.SpectralNormalization: _wrapped,
    layers.MultiHeadAttention: _attention,
    layers.GroupQueryAttention: _attention,
    **dict.fromkeys(_existing("ReversibleEmbedding"), _looked_up),
    **dict.fromkeys(_existing("STFTSpectrogram"), _spectrum),
}
NOT_MULTIPLIED = frozenset(
    (layers.Embedding, layers.PReLU, layers.LayerNormalization, layers.Normalization,
     *_existing("RMSNormalization ReversibleEmbedding STFTSpectrogram"))
)  # fmt: skip
"""Layers whose weights with several axes are looked up or work number by number."""
