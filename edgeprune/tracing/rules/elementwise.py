"""Layers that merge or join their inputs, `keras.ops` that work by position, and softmax."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import layers

from edgeprune.tracing.graph import TensorRef
from edgeprune.tracing.keras_internals import (
    CustomScaleLayer,
    array_operations,
    core_operations,
    existing_types,
    network_operations,
)
from edgeprune.tracing.labels import Keep
from edgeprune.tracing.rules.registry import NORMALIZED, Labels, Tracing, place, rule, varying_axes

OF_ONE = """Absolute Abs Fabs Arccos Arccosh Arcsin Arcsinh Arctan Arctanh Cbrt Ceil Cos Cosh
    Deg2rad Exp Exp2 Expm1 Floor Isfinite Isinf Isnan Log Log10 Log1p Log2 LogicalNot NanToNum
    Negative Rad2deg Reciprocal Round Sign Sin Sinc Sinh Sqrt Square Tan Tanh Trunc"""
OF_SEVERAL = """Add Arctan2 Clip Divide DivideNoNan Equal FloorDivide Fmax Fmin Fmod Greater
    GreaterEqual Heaviside Hypot Less LessEqual Logaddexp LogicalAnd LogicalOr LogicalXor Maximum
    Minimum Mod Multiply NotEqual Power Subtract TrueDivide Where"""
ACTIVATIONS = """Relu Relu6 Sigmoid SparseSigmoid Softplus Softsign SoftShrink SparsePlus Silu
    Squareplus LogSigmoid LeakyRelu HardSigmoid HardSilu Elu Selu Gelu Celu TanhShrink HardTanh
    HardShrink Threshold"""
CONVERSIONS = "Cast SaturateCast StopGradient ConvertToTensor"


@rule(
    *existing_types(array_operations, OF_ONE), *existing_types(array_operations, OF_SEVERAL),
    *existing_types(network_operations, ACTIVATIONS),
    *existing_types(core_operations, CONVERSIONS),
)  # fmt: skip
def combine(tracing: Tracing, operation: Any, *inputs: Labels) -> Labels:
    """Merge the tensors; constants with one value per channel lose the values of those that go."""
    if any(isinstance(leaf, keras.Variable) for leaf in keras.tree.flatten(tracing.call.args)):
        return tracing.opaque(f"'{tracing.call.path}' uses a variable that no layer owns", inputs)[
            0
        ]
    if any(np.size(value) > 1 for name, value in vars(operation).items() if name[0] != "_"):
        return tracing.opaque(f"'{tracing.call.path}' was made with an array", inputs)[0]
    made = tracing.space.merge(inputs, tracing.input_shapes)
    rank = len(tracing.output_shapes[0])
    made = tracing.space.rectangular(made.reshape((1,) * (rank - made.ndim) + made.shape))
    changes: dict[int | str, tuple[int, Labels]] = {}
    arguments: dict[int | str, Any] = {**dict(enumerate(tracing.call.args))}
    arguments.update(tracing.call.kwargs)
    for where, argument in arguments.items():
        size = () if _holds_tensors(argument) else np.shape(argument)
        for axis in varying_axes(made):
            from_right = axis - rank
            if len(size) >= -from_right and size[from_right] > 1:
                changes[where] = (from_right, made.reshape(-1))
    if changes:
        tracing.change_call(_slice_constants(changes))
    return made


def _holds_tensors(argument: Any) -> bool:
    return any(isinstance(leaf, TensorRef) for leaf in keras.tree.flatten(argument))


def _slice_constants(changes: dict[int | str, tuple[int, Labels]]) -> Any:
    def change(args: tuple[Any, ...], kwargs: dict[str, Any], keep: Keep) -> Any:
        def adapt(where: int | str, argument: Any) -> Any:
            if where not in changes:
                return argument
            axis, along = changes[where]
            return np.take(np.asarray(argument), keep(along), axis=axis)

        return (
            tuple(adapt(index, argument) for index, argument in enumerate(args)),
            {name: adapt(name, argument) for name, argument in kwargs.items()},
        )

    return change


@rule(*existing_types(network_operations, "Softmax LogSoftmax Sparsemax"))
def normalize(tracing: Tracing, operation: Any, x: Labels) -> Labels:
    """Softmax ties the values of an axis to one sum; channels on other axes pass."""
    axes = operation.axis if isinstance(operation.axis, (tuple, list)) else (operation.axis,)
    rank = len(tracing.call.inputs[0].shape)
    if any(axis is None or axis % rank - 1 in varying_axes(x) for axis in axes):
        tracing.space.lock(x, NORMALIZED)
    return x


@rule(
    layers.Add, layers.Subtract, layers.Multiply, layers.Average, layers.Maximum, layers.Minimum,
    CustomScaleLayer,
)  # fmt: skip
def merge(tracing: Tracing, layer: Any, *inputs: Labels) -> Labels:
    """Position by position: what is added must be removed together."""
    return tracing.space.merge(inputs, tracing.input_shapes)


@rule(layers.Concatenate)
def join(tracing: Tracing, layer: Any, *inputs: Labels) -> Labels:
    """Side by side along one axis; channels on another axis are tied."""
    shapes = tracing.input_shapes
    axis = layer.axis % len(tracing.call.inputs[0].shape) - 1
    varying = {a for x in inputs for a in varying_axes(x)}
    if axis < 0 or (varying - {axis} and axis in varying):
        reason = f"'{tracing.call.path}' joins channels that lie on different axes"
        return tracing.opaque(reason, inputs)[0]
    if varying - {axis} or None in (shape[axis] for shape in shapes):
        ignored = [tuple(1 if a == axis else s for a, s in enumerate(shape)) for shape in shapes]
        return tracing.space.merge(inputs, ignored)
    along = [tracing.on_axis(x, axis, index) for index, x in enumerate(inputs)]
    return place(np.concatenate(along), axis, inputs[0].ndim)
