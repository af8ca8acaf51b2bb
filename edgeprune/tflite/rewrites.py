"""Equal forms: what TensorFlow Lite cannot express as Keras writes it, written so that it can.

Loops of recurrent layers become one step after another, because the ranges inside a loop cannot be
observed, the index of the largest value is found without the bit operations with which Keras orders
-0 before 0, and vectors of zeros are normalized without a root of 0. `operator_rewrites.py` does
likewise with single operators.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

from edgeprune.errors import ConversionError
from edgeprune.tracing.graph import Call, build_graph
from edgeprune.tracing.keras_internals import array_operations, network_operations
from edgeprune.tracing.replica import copy_weights, rebuild, replicate

MOST_STEPS = 256
"""Steps that are written out: the file and the time to convert it grow with each."""
_RECURRENT = (keras.layers.RNN, keras.layers.Bidirectional)


class PlainIndex(keras.Operation):
    """The index of the largest or smallest value, as `keras.ops.argmax` and `argmin` give it."""

    def __init__(self, axis: int | None, keepdims: bool, smallest: bool, name: str) -> None:
        super().__init__(name=name)
        self.axis, self.keepdims, self.smallest = axis, keepdims, smallest

    def call(self, x: Any) -> Any:
        """Take `(batch, ...)`, return int32."""
        import tensorflow as tf

        flat = tf.reshape(x, [-1]) if self.axis is None else x
        find = tf.argmin if self.smallest else tf.argmax
        found = find(flat, axis=self.axis or 0, output_type=tf.int32)
        if not self.keepdims:
            return found
        if self.axis is None:
            return tf.reshape(found, [1] * len(x.shape))
        return tf.expand_dims(found, self.axis)

    def compute_output_spec(self, x: Any) -> keras.KerasTensor:
        """Leave the axis out, or keep it with one value."""
        axes = range(len(x.shape)) if self.axis is None else [self.axis % len(x.shape)]
        kept = [1 if axis in axes else size for axis, size in enumerate(x.shape)]
        left = [size for axis, size in enumerate(x.shape) if axis not in axes]
        return keras.KerasTensor(kept if self.keepdims else left, "int32")


class PlainNormalization(keras.Operation):
    """What `keras.ops.normalize` computes by squares, without a root of 0.

    The runtime's root of 0 is no number, and that of Keras is infinite.
    """

    def __init__(self, axis: Any, epsilon: float, name: str) -> None:
        super().__init__(name=name)
        self.axis, self.epsilon = axis, epsilon

    def call(self, x: Any) -> Any:
        """Take and return `(batch, ...)`; TensorFlow Lite knows this form on the last axis."""
        rank = len(x.shape)
        axes = {axis % rank for axis in np.atleast_1d(self.axis).tolist()}
        order = [axis for axis in range(rank) if axis not in axes] + sorted(axes)
        moved = ops.transpose(x, order)
        flat = ops.reshape(moved, (*moved.shape[: rank - len(axes)], -1))
        squares = ops.sum(ops.square(flat), axis=-1, keepdims=True)
        flat = flat * ops.rsqrt(ops.maximum(squares, self.epsilon**2))
        return ops.transpose(ops.reshape(flat, moved.shape), np.argsort(order).tolist())

    def compute_output_spec(self, x: Any) -> keras.KerasTensor:
        """Keep shape and type."""
        return keras.KerasTensor(x.shape, x.dtype)


def rewrite_model(model: keras.Model, *, unroll: bool) -> keras.Model:
    """Return an equal model that TensorFlow Lite can express; the same where it can already.

    Args:
        model: in float32; it is not changed.
        unroll: write out the steps of recurrent layers, as integers need it.

    Raises:
        ConversionError: a recurrent layer has no fixed number of steps, or too many; it is named.

    Example:
        >>> model = keras.Sequential([keras.Input((5, 4)), keras.layers.LSTM(3, name="memory")])
        >>> rewrite_model(model, unroll=True).get_layer("memory").unroll
        True
    """
    changed: dict[str, Callable[[str, Any], keras.Operation]] = {}
    for call in build_graph(model).calls:
        if isinstance(call.operation, array_operations.Argmax | array_operations.Argmin):
            changed[call.path] = _replace_index
        elif _normalizes(call.operation):
            changed[call.path] = _replace_normalization
        elif unroll and isinstance(call.operation, _RECURRENT) and _has_loop(call.operation):
            _check_steps(call)
            changed[call.path] = _unroll
    if not changed:
        return model

    def make(path: str, operation: keras.Operation) -> keras.Operation:
        change = changed.get(path)
        return rebuild(path, operation, None) if change is None else change(path, operation)

    copy, made = replicate(model, make)
    copy_weights(model, made)
    return copy


def _has_loop(layer: Any) -> bool:
    return not getattr(layer, "forward_layer", layer).unroll


def _check_steps(call: Call) -> None:
    steps, kind = call.inputs[0].shape[1], type(call.operation).__name__
    if steps is None or steps > MOST_STEPS:
        count = "an open number of" if steps is None else f"{steps}"
        raise ConversionError(
            f"Layer '{call.path}' ({kind}) runs over {count} steps, and integers need every step "
            f"written out, at most {MOST_STEPS}. Give the model shorter sequences, or take "
            "--quantize dynamic, which keeps the loop."
        )
    if getattr(call.operation, "stateful", False):
        raise ConversionError(
            f"Layer '{call.path}' ({kind}) is stateful, which has no form in integers. Build it "
            "with stateful=False, or take --quantize dynamic."
        )


def _unroll(path: str, layer: keras.Operation) -> keras.Operation:
    def change(config: Any) -> None:
        if "unroll" in config:
            config["unroll"] = True
        for entry in config.values():
            if isinstance(entry, dict):
                change(entry)

    return rebuild(path, layer, change)


def _normalizes(operation: keras.Operation) -> bool:
    plain = isinstance(operation, network_operations.Normalize) and operation.order == 2
    return plain or isinstance(operation, keras.layers.UnitNormalization)


def _replace_normalization(path: str, found: Any) -> keras.Operation:
    epsilon = getattr(found, "epsilon", 1e-12)  # as the layer has it
    epsilon = keras.config.epsilon() if epsilon is None else epsilon
    return PlainNormalization(found.axis, epsilon, found.name)


def _replace_index(path: str, found: Any) -> keras.Operation:
    smallest = isinstance(found, array_operations.Argmin)
    return PlainIndex(found.axis, found.keepdims, smallest, found.name)
