"""Keras 3 to tf_keras and back: tensorflow-model-optimization knows the older Keras only.

The twin is built from configurations and weights, call by call; nothing of the model is executed
in the other Keras but its layers, and a layer without a counterpart is refused by name.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeprune.errors import ConversionError
from edgeprune.tracing.graph import Call, build_graph
from edgeprune.tracing.opening import functional_form
from edgeprune.tracing.replica import duplicate, operations_by_path

if TYPE_CHECKING:
    import keras

TOLERANCE = 1e-3
"""Largest difference of outputs that rounding explains, relative to the largest output."""

_MERGES = {"Add": "Add", "Subtract": "Subtract", "Multiply": "Multiply", "Maximum": "Maximum"}
_ONLY_IN_TRAINING = ("Dropout", "SpatialDropout1D", "SpatialDropout2D", "GaussianNoise")
_LEFT_OUT = ("initializer", "regularizer", "constraint")


@dataclass(frozen=True, eq=False)
class Twin:
    """A tf_keras model that computes what a Keras 3 model does.

    Attributes:
        model: of tf_keras.
        parts: names of the layers in it that hold the weights of a Keras layer, by its path.
    """

    model: Any
    parts: Mapping[str, tuple[str, ...]]


def to_tf_keras(model: keras.Model, samples: Sequence[np.ndarray]) -> Twin:
    """Rebuild a model in tf_keras and compare the outputs.

    A separable convolution becomes a depthwise and a pointwise one, and an activation other than
    ReLU a layer of its own: the forms that tensorflow-model-optimization can quantize.

    Args:
        model: Functional or Sequential of Keras 3.
        samples: a few for each input, `(n, ...)`.

    Raises:
        ConversionError: a layer has no counterpart, or the outputs differ.
    """
    import keras
    import tf_keras

    graph = build_graph(model)
    values: dict[int, Any] = {}
    for ref, tensor in zip(graph.inputs, model.inputs, strict=True):
        values[ref.number] = tf_keras.Input(tuple(ref.shape[1:]), dtype=tensor.dtype)
    inputs = [values[ref.number] for ref in graph.inputs]
    made: dict[str, list[Any]] = {}
    for call in graph.calls:
        if call.path not in made:
            made[call.path] = _rebuild(call, model.name)
        arguments = [values[ref.number] for ref in call.inputs]
        result: Any = arguments[0] if len(arguments) == 1 else arguments
        for layer in made[call.path]:
            result = layer(result)
        values[call.outputs[0].number] = result
    twin = tf_keras.Model(inputs, [values[ref.number] for ref in graph.outputs])
    parts = {}
    for path, operation in operations_by_path(model).items():
        if path in made and getattr(operation, "weights", None):
            _assign(made[path], [np.asarray(weight) for weight in operation.get_weights()])
            parts[path] = tuple(layer.name for layer in made[path])
    expected = keras.tree.flatten(model(_packed(model, samples), training=False))
    found = keras.tree.flatten(twin([*samples] if len(samples) > 1 else samples[0], training=False))
    for one, other in zip(expected, found, strict=True):
        exact = keras.ops.convert_to_numpy(one)
        difference = float(np.abs(exact - np.asarray(other)).max() / max(np.abs(exact).max(), 1e-9))
        if not difference <= TOLERANCE:
            raise ConversionError(
                f"Model '{model.name}' computes something else in tf_keras (difference "
                f"{difference:.1e} of the largest output), so it cannot be trained for integers "
                "there. Use scheme 'int8'."
            )
    return Twin(twin, parts)


def bring_back(model: keras.Model, twin: Twin, student: Any) -> keras.Model:
    """Return a copy of a Keras 3 model with the weights of its trained twin.

    Args:
        model: that the twin was made from.
        twin: before training.
        student: the twin with simulated rounding, whose wrappers hold the layers' weights beside
            ranges of their own.
    """
    trained = {
        getattr(layer, "layer", layer).name: {_last(weight): weight for weight in layer.weights}
        for layer in student.layers
    }
    copy = duplicate(model)
    operations = operations_by_path(copy)
    for path, names in twin.parts.items():
        weights = [
            trained[name][_last(weight)].numpy()
            for name in names
            for weight in twin.model.get_layer(name).weights
        ]
        operations[path].set_weights(weights)
    return copy


def _last(weight: Any) -> str:
    return str(weight.name).split("/")[-1]


def _packed(model: keras.Model, samples: Sequence[np.ndarray]) -> Any:
    import keras

    return keras.tree.pack_sequence_as(functional_form(model).input, list(samples))


def _rebuild(call: Call, model: str) -> list[Any]:
    """Return the tf_keras layers that do what one Keras layer or operation does."""
    import tf_keras

    kind = type(call.operation).__name__
    name = call.path.replace("/", "_")
    if not call.is_layer:
        constants = [value for value in call.args if isinstance(value, int | float)]
        if kind in _MERGES and len(call.inputs) == 2:
            return [getattr(tf_keras.layers, _MERGES[kind])(name=name)]
        if kind in ("Add", "Multiply") and len(constants) == len(call.inputs) == 1:
            scale, offset = (1.0, constants[0]) if kind == "Add" else (constants[0], 0.0)
            return [tf_keras.layers.Rescaling(scale, offset, name=name)]
        raise _refusal(call, model)
    if len(call.outputs) != 1 or not hasattr(tf_keras.layers, kind) or kind == "Lambda":
        raise _refusal(call, model)
    if kind in _ONLY_IN_TRAINING:
        return []
    config = dict(call.operation.get_config(), name=name)
    if kind == "SeparableConv2D":
        return _separate(config)
    if kind == "Activation":
        return [_activate(config["activation"], name)]
    if config.get("activation") in (None, "linear", "relu"):
        return [_make(getattr(tf_keras.layers, kind), config)]
    plain = _make(getattr(tf_keras.layers, kind), config | {"activation": "linear"})
    return [plain, _activate(config["activation"], f"{name}_activation")]


def _refusal(call: Call, model: str) -> ConversionError:
    return ConversionError(
        f"Model '{model}' cannot be trained for integers: '{call.path}' "
        f"({type(call.operation).__name__}) has no counterpart in tf_keras, which "
        "tensorflow-model-optimization needs. Use scheme 'int8'."
    )


def _make(layer_type: Callable[..., Any], config: dict[str, Any]) -> Any:
    accepted: set[str] = {"name", "trainable"}
    for base in inspect.getmro(layer_type):  # type: ignore[arg-type]
        accepted.update(inspect.signature(base.__init__).parameters)  # type: ignore[misc]
    kept = {
        key: value
        for key, value in config.items()
        if key in accepted - {"dtype", "self", "args", "kwargs", "batch_input_shape"}
        and not key.endswith(_LEFT_OUT)
    }
    if "alpha" in accepted and "negative_slope" in config:
        kept["alpha"] = config["negative_slope"]
    return layer_type(**kept)


def _activate(function: Any, name: str) -> Any:
    """Return the layer of tf_keras for an activation of Keras 3; the two differ for some names."""
    import tf_keras

    if function == "leaky_relu":
        return tf_keras.layers.LeakyReLU(alpha=0.2, name=name)
    kind = {"hard_silu": "HardSwish", "hard_swish": "HardSwish", "hard_sigmoid": "HardSigmoid"}
    if function in kind:
        return function_layers()[kind[function]](name=name)
    return tf_keras.layers.Activation({"silu": "swish"}.get(function, function), name=name)


@cache
def function_layers() -> dict[str, Any]:
    """Return layers for activations that tf_keras lacks, by name; it is imported only here."""
    import tensorflow as tf
    import tf_keras

    class HardSigmoid(tf_keras.layers.Layer):
        """A sigmoid of straight lines, as Keras 3 defines it."""

        def call(self, inputs: Any) -> Any:
            return tf.nn.relu6(inputs + 3.0) / 6.0

    class HardSwish(tf_keras.layers.Layer):
        """The input times its hard sigmoid."""

        def call(self, inputs: Any) -> Any:
            return inputs * tf.nn.relu6(inputs + 3.0) / 6.0

    return {layer.__name__: layer for layer in (HardSigmoid, HardSwish)}


def _separate(config: dict[str, Any]) -> list[Any]:
    import tf_keras

    first = {key: value for key, value in config.items() if key != "filters"}
    depthwise = _make(
        tf_keras.layers.DepthwiseConv2D,
        first | {"name": f"{config['name']}_depthwise", "use_bias": False, "activation": "linear"},
    )
    pointwise = config | {"kernel_size": 1, "strides": 1, "dilation_rate": 1}
    return [depthwise, _make(tf_keras.layers.Conv2D, pointwise)]


def _assign(layers: Sequence[Any], weights: Sequence[np.ndarray]) -> None:
    remaining = list(weights)
    for layer in layers:
        count = len(layer.get_weights())
        layer.set_weights(remaining[:count])
        del remaining[:count]
