"""From the calls of a Keras graph to the steps that TensorFlow Lite takes for them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from keras import layers

from edgeprune.cost.multiplications import Product, multiplications
from edgeprune.latency.operators import Kind
from edgeprune.tracing.graph import Call, Graph, TensorRef
from edgeprune.tracing.opening import MergeTime, SplitTime

FUSED = frozenset({"linear", "relu", "relu6"})
"""Activations that the converter puts into the operator before them."""
ACTIVATION_OPERATORS: dict[str, tuple[str, ...]] = {
    "relu": ("RELU",), "relu6": ("RELU6",), "leaky_relu": ("LEAKY_RELU",), "elu": ("ELU",),
    "sigmoid": ("LOGISTIC",), "tanh": ("TANH",), "softmax": ("SOFTMAX",),
    "silu": ("LOGISTIC", "MUL"), "swish": ("LOGISTIC", "MUL"),
    "hard_silu": ("HARD_SWISH",), "hard_swish": ("HARD_SWISH",),
    "gelu": ("",) * 5, "softplus": ("",) * 3, "mish": ("",) * 5, "selu": ("",) * 4,
}  # fmt: skip
"""What an activation becomes; a name is left empty where its rate is nobody's concern."""
OPERATOR_NAMES = {
    "Add": "ADD", "Subtract": "SUB", "Multiply": "MUL", "Average": "ADD", "Maximum": "MAXIMUM",
    "Minimum": "MINIMUM", "Concatenate": "CONCATENATION", "ZeroPadding2D": "PAD",
    "MaxPooling2D": "MAX_POOL_2D", "AveragePooling2D": "AVERAGE_POOL_2D",
    "GlobalAveragePooling2D": "MEAN", "Mean": "MEAN", "Softmax": "SOFTMAX", "ReLU": "RELU",
    "Relu": "RELU", "Relu6": "RELU6", "LeakyReLU": "LEAKY_RELU", "Sigmoid": "LOGISTIC",
    "UpSampling2D": "RESIZE_NEAREST_NEIGHBOR", "Take": "GATHER", "ChannelGather": "GATHER",
}  # fmt: skip
"""The operator that a layer or an operation without weights becomes, by the name of its class."""


@dataclass(frozen=True)
class Step:
    """One operator, with its tensors in place of sizes.

    Attributes:
        kind: how its time is modelled.
        reads: activations that it reads; likewise `writes`.
        positions: of the output map.
        taps: positions of the kernel window.
        divisions: groups of a convolution: an output channel sees that share of the input.
        fixed: channels and depth, where they do not follow from the tensors.
        takes_activation: whether a ReLU after it becomes a part of it.
        takes_scale: whether a BatchNorm after it is folded into it.
        axis: of the channels in what is read and written, with the batch.
        name: of an elementwise operator in TensorFlow Lite; empty where its rate is nobody's
            concern.
    """

    kind: Kind
    reads: tuple[TensorRef, ...]
    writes: tuple[TensorRef, ...]
    positions: float = 1.0
    taps: float = 1.0
    divisions: int = 1
    fixed: tuple[float, float] | None = None
    takes_activation: bool = False
    takes_scale: bool = False
    axis: int = -1
    name: str = ""


Describe = Callable[[Call, Any], list[Step]]


def list_steps(graph: Graph) -> list[Step]:
    """Return the operators of a graph in their order.

    Layers without effect at inference are left out; BatchNorm behind a convolution or a matrix
    product is folded into it, ReLU and ReLU6 are fused into the operator before them, unless
    something else needs what comes in between.
    """
    consumers = graph.consumers()
    users = {number: len(calls) for number, calls in consumers.items()}
    for ref in graph.outputs:
        users[ref.number] = users.get(ref.number, 0) + 1
    steps: list[Step] = []
    maker: dict[int, int] = {}
    stands_for: dict[int, TensorRef] = {}

    def resolve(refs: Sequence[TensorRef]) -> tuple[TensorRef, ...]:
        return tuple(stands_for.get(ref.number, ref) for ref in refs)

    for call in graph.calls:
        inputs = resolve(call.inputs)
        if _vanishes(call) or _is_same_padding(call, consumers):
            stands_for[call.outputs[0].number] = inputs[0]
            continue
        before = maker.get(inputs[0].number) if len(inputs) == 1 else None
        alone = len(call.inputs) == 1 and users[call.inputs[0].number] == 1
        if before is not None and alone and _joins(call, steps[before]):
            scales = isinstance(call.operation, layers.BatchNormalization)
            steps[before] = replace(
                steps[before], writes=call.outputs, takes_scale=scales, takes_activation=scales
            )
            maker[call.outputs[0].number] = before
            continue
        for step in _describe(replace(call, inputs=inputs)):
            steps.append(replace(step, positions=step.positions * call.times))
            maker.update(dict.fromkeys((ref.number for ref in step.writes), len(steps) - 1))
    return steps


def _vanishes(call: Call) -> bool:
    operation = call.operation
    if isinstance(operation, layers.Activation):
        return _name(operation.activation) == "linear"
    return isinstance(operation, _WITHOUT_EFFECT)


def _is_same_padding(call: Call, consumers: Mapping[int, Sequence[Call]]) -> bool:
    """Whether zeros around a map are those of `same`: the converter gives them to the convolution.

    So it is in MobileNet, whose convolutions of stride 2 see a map padded below and to the right.
    """
    users = consumers.get(call.outputs[0].number, ())
    if not isinstance(call.operation, layers.ZeroPadding2D) or len(users) != 1:
        return False
    layer: Any = users[0].operation
    if not isinstance(layer, layers.Conv2D | layers.DepthwiseConv2D) or layer.padding != "valid":
        return False
    sizes = call.inputs[0].shape[2:] if _axis(layer) == 1 else call.inputs[0].shape[1:3]
    given = zip(sizes, layer.kernel_size, layer.strides, call.operation.padding, strict=True)
    for size, kernel, stride, padding in given:
        needed = max((math.ceil((size or 0) / stride) - 1) * stride + kernel - (size or 0), 0)
        if tuple(padding) != (needed // 2, needed - needed // 2):
            return False
    return True


def _joins(call: Call, step: Step) -> bool:
    operation = call.operation
    if isinstance(operation, layers.BatchNormalization):
        return step.takes_scale
    if isinstance(operation, layers.ReLU):
        plain = not operation.negative_slope and not operation.threshold
        return step.takes_activation and plain and operation.max_value in (None, 6)
    if isinstance(operation, layers.Activation):
        return step.takes_activation and _name(operation.activation) in FUSED
    return False


def _describe(call: Call) -> list[Step]:
    operation = call.operation
    for kind in type(operation).__mro__:
        if kind in DESCRIPTIONS:
            return DESCRIPTIONS[kind](call, operation)
    products = multiplications(call, operation)
    if not products:
        return _elementwise(call, operation)
    return [_product_step(call, product) for product in products]


def _product_step(call: Call, product: Product) -> Step:
    """Return a matrix product for weights of a layer that has no operator of its own."""
    axes = range(len(product.weight.shape)) if product.axes is None else product.axes
    shape = [product.weight.shape[axis] for axis in axes]
    fixed = float(shape[-1]), float(math.prod(shape[:-1]))
    return Step("fully_connected", call.inputs[:1], call.outputs, product.times, fixed=fixed)


def _positions(ref: TensorRef, axis: int = -1) -> float:
    return float(math.prod(size or 1 for size in (ref.shape[2:] if axis == 1 else ref.shape[1:-1])))


def _axis(layer: Any) -> int:
    return 1 if getattr(layer, "data_format", None) == "channels_first" else -1


def _with_activation(step: Step, layer: Any) -> list[Step]:
    """Add the activation of a layer, as a part of the step or as steps of its own."""
    name = _name(getattr(layer, "activation", None))
    if name == "linear":
        return [replace(step, takes_activation=True, takes_scale=True)]
    if name in FUSED:
        return [step]
    return [step, *_activation_steps(name, step.writes)]


def _activation_steps(name: str, refs: tuple[TensorRef, ...]) -> list[Step]:
    """Return the operators of an activation; the last of several reads the input once more."""
    step = Step("elementwise", refs, refs, _positions(refs[0]))
    steps = [replace(step, name=operator) for operator in ACTIVATION_OPERATORS.get(name, ("",))]
    return steps if len(steps) == 1 else [*steps[:-1], replace(steps[-1], reads=refs * 2)]


def _name(activation: Any) -> str:
    return str(getattr(activation, "__name__", activation)) if activation else "linear"


def _convolution(call: Call, layer: Any) -> list[Step]:
    taps = float(math.prod(layer.kernel_size))
    transposed = isinstance(layer, _TRANSPOSED)
    step = Step(
        "pointwise" if taps == 1 else "convolution",
        call.inputs,
        call.outputs,
        _positions(call.inputs[0] if transposed else call.outputs[0], _axis(layer)),
        taps,
        getattr(layer, "groups", 1),
        axis=_axis(layer),
    )
    return _with_activation(step, layer)


def _depthwise(call: Call, layer: Any) -> list[Step]:
    taps, axis = float(math.prod(layer.kernel_size)), _axis(layer)
    positions = _positions(call.outputs[0], axis)
    step = Step("depthwise", call.inputs, call.outputs, positions, taps, axis=axis)
    return _with_activation(step, layer)


def _separable(call: Call, layer: Any) -> list[Step]:
    taps, axis = float(math.prod(layer.kernel_size)), _axis(layer)
    positions = _positions(call.outputs[0], axis)
    middle = call.inputs if layer.depth_multiplier == 1 else call.outputs
    first = Step("depthwise", call.inputs, middle, positions, taps, axis=axis)
    second = Step("pointwise", middle, call.outputs, positions, axis=axis)
    return [first, *_with_activation(second, layer)]


def _dense(call: Call, layer: Any) -> list[Step]:
    step = Step("fully_connected", call.inputs, call.outputs, _positions(call.outputs[0]))
    return _with_activation(step, layer)


def _elementwise(call: Call, layer: Any) -> list[Step]:
    name = OPERATOR_NAMES.get(type(layer).__name__, "")
    if isinstance(layer, layers.ReLU) and layer.max_value == 6:
        name = "RELU6"
    return [Step("elementwise", call.inputs, call.outputs, _positions(call.outputs[0]), name=name)]


def _activation(call: Call, layer: Any) -> list[Step]:
    steps = _activation_steps(_name(getattr(layer, "activation", None)), call.inputs)
    return [*steps[:-1], replace(steps[-1], writes=call.outputs)]


def _pairwise(call: Call, layer: Any) -> list[Step]:
    """One operator for each tensor after the first; a ReLU after the last is fused."""
    step = replace(_elementwise(call, layer)[0], reads=call.inputs[:2], takes_activation=True)
    return [step] * max(len(call.inputs) - 1, 1)


def _pooling(call: Call, layer: Any) -> list[Step]:
    return [replace(_elementwise(call, layer)[0], takes_activation=True)]


def _scale_and_shift(call: Call, layer: Any) -> list[Step]:
    step = replace(_elementwise(call, layer)[0], name="MUL")
    return [step, replace(step, reads=step.writes, takes_activation=True, name="ADD")]


def _movement(call: Call, layer: Any) -> list[Step]:
    return [Step("movement", call.inputs[:1], call.outputs)]


_TRANSPOSED = (layers.Conv1DTranspose, layers.Conv2DTranspose, layers.Conv3DTranspose)
_WITHOUT_EFFECT = (
    layers.Dropout, layers.SpatialDropout1D, layers.SpatialDropout2D, layers.SpatialDropout3D,
    layers.GaussianNoise, layers.GaussianDropout, layers.ActivityRegularization, layers.Identity,
)  # fmt: skip

DESCRIPTIONS: dict[type, Describe] = {
    **dict.fromkeys((layers.Conv1D, layers.Conv2D, layers.Conv3D, *_TRANSPOSED), _convolution),
    **dict.fromkeys((layers.DepthwiseConv1D, layers.DepthwiseConv2D), _depthwise),
    **dict.fromkeys((layers.SeparableConv1D, layers.SeparableConv2D), _separable),
    layers.Dense: _dense,
    **dict.fromkeys(
        (layers.Add, layers.Multiply, layers.Subtract, layers.Average, layers.Maximum,
         layers.Minimum),
        _pairwise,
    ),
    **dict.fromkeys(
        (layers.MaxPooling1D, layers.MaxPooling2D, layers.AveragePooling1D,
         layers.AveragePooling2D),
        _pooling,
    ),
    **dict.fromkeys(
        (layers.BatchNormalization, layers.Rescaling, layers.Normalization), _scale_and_shift
    ),
    layers.Activation: _activation,
    **dict.fromkeys((layers.Flatten, layers.Reshape, MergeTime, SplitTime), _movement),
}  # fmt: skip
