"""A tf_keras model with simulated 8-bit rounding, and the layers for which there is none."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from edgeprune.errors import ConversionError
from edgeprune.tflite.qat.bridge import function_layers

_BEFORE_NORMALIZATION = ("Conv2D", "DepthwiseConv2D", "Dense")
_ACTIVATIONS = ("linear", "relu", "softmax", "sigmoid", "tanh", "swish")
_WITHOUT_VALUES = ("InputLayer",)


def annotate(model: Any) -> tuple[Any, tuple[str, ...]]:
    """Wrap each layer that tensorflow-model-optimization can quantize.

    Its own `quantize_model` gives up at the first layer that it does not know; here such layers
    stay as they are and are named.

    Args:
        model: of tf_keras; it is not changed.

    Returns:
        The model with simulated rounding, and the layers left without: `name (type)`.

    Raises:
        ConversionError: the package is not installed, or cannot wrap the model.
    """
    try:
        from tensorflow_model_optimization.quantization.keras import (
            quantize_annotate_layer,
            quantize_apply,
            quantize_scope,
        )
    except ImportError as error:
        raise ConversionError(
            f"Scheme 'int8-qat' needs tensorflow-model-optimization ({error}): "
            "pip install 'edgeprune[quantization]'."
        ) from error
    import tf_keras

    chosen = {layer.name for layer in model.layers if _is_known(layer)}
    chosen |= {layer.name for layer in model.layers if _is_folded(layer, chosen)}
    left = tuple(
        f"{layer.name} ({type(layer).__name__})"
        for layer in model.layers
        if layer.name not in chosen and type(layer).__name__ not in _WITHOUT_VALUES
    )
    if not chosen:
        raise ConversionError(
            "tensorflow-model-optimization can quantize none of the layers "
            f"({', '.join(left[:4])}, ...). Use scheme 'int8'."
        )

    def wrap(layer: Any) -> Any:
        return quantize_annotate_layer(layer) if layer.name in chosen else layer

    with quantize_scope(function_layers()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        annotated = tf_keras.models.clone_model(model, clone_function=_cloning(wrap))
        annotated.set_weights(model.get_weights())
        try:
            return quantize_apply(annotated), left
        except (ValueError, RuntimeError, TypeError) as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise ConversionError(
                f"tensorflow-model-optimization cannot train this model for integers: {reason} "
                "Use scheme 'int8'."
            ) from error


def set_ranges(student: Any, twin: Any, arrays: Sequence[np.ndarray]) -> None:
    """Start the simulated ranges at those of the weights and of the float model's outputs.

    They follow by moving averages over thousands of steps, more than a short training has.

    Args:
        student: from `annotate`.
        twin: the float model that it was made from.
        arrays: some samples per input.
    """
    import tf_keras

    outputs = {layer.name: layer.output for layer in twin.layers}
    names = [name for name, tensor in outputs.items() if not isinstance(tensor, list)]
    watched = tf_keras.Model(twin.inputs, [outputs[name] for name in names])
    fed = list(arrays) if len(arrays) > 1 else arrays[0]
    values = [np.asarray(value) for value in watched(fed, training=False)]
    limits: Mapping[str, tuple[float, float]] = {
        name: (min(0.0, float(value.min())), max(0.0, float(value.max())))
        for name, value in zip(names, values, strict=True)
    }
    inputs = (min(0.0, *(float(x.min()) for x in arrays)), max(float(x.max()) for x in arrays))
    for layer in student.layers:
        inner = getattr(layer, "layer", layer)
        after = limits.get(inner.name, inputs)
        before = limits.get(_source(twin, inner.name), after)
        weights = {
            variable.name.split("/")[-1].split(":")[0]: variable for variable in layer.weights
        }
        for name, variable in weights.items():
            kernel = weights.get(name.removesuffix("_min").removesuffix("_max"))
            if not name.endswith(("_min", "_max")):
                continue
            if kernel is not None:
                values = np.abs(kernel.numpy())
                axes = tuple(range(values.ndim - len(variable.shape)))
                top = values.max(axis=axes)
                bottom = -top
            else:
                bottom, top = before if name.startswith("pre_") else after
                top = max(top, 1e-6)
            edge = top if name.endswith("_max") else bottom
            variable.assign(np.broadcast_to(np.float32(edge), variable.shape))


def _source(twin: Any, name: str) -> str:
    """Return the name of the layer whose output one layer of the twin reads."""
    if name not in {layer.name for layer in twin.layers}:
        return ""
    nodes = twin.get_layer(name).inbound_nodes
    before = nodes[0].inbound_layers if nodes else []
    return "" if isinstance(before, list) else str(before.name)


def _cloning(wrap: Any) -> Any:
    def clone(layer: Any) -> Any:
        copy = type(layer).from_config(layer.get_config())
        return wrap(copy)

    return clone


def _is_known(layer: Any) -> bool:
    from tensorflow_model_optimization.python.core.quantization.keras.default_8bit import (
        default_8bit_quantize_registry,
    )

    if len(layer.inbound_nodes) > 1:
        return False
    if not default_8bit_quantize_registry.Default8BitQuantizeRegistry().supports(layer):
        return False
    activation = getattr(layer, "activation", None)
    return activation is None or getattr(activation, "__name__", "") in _ACTIVATIONS


def _is_folded(layer: Any, chosen: set[str]) -> bool:
    """Whether a BatchNormalization follows what it can be folded into, and that alone."""
    if type(layer).__name__ != "BatchNormalization" or len(layer.inbound_nodes) > 1:
        return False
    before = layer.inbound_nodes[0].inbound_layers
    return (
        type(before).__name__ in _BEFORE_NORMALIZATION
        and before.name in chosen
        and len(before.outbound_nodes) == 1
        and before.activation.__name__ == "linear"
    )
