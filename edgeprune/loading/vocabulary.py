"""The names a model file may use: the classes and functions that Keras has, or once had."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import keras

from edgeprune.tracing.keras_internals import OPERATIONS, PACKAGE

# These run or read something that lies outside the architecture.
FOREIGN_CLASSES = frozenset({"TorchModuleWrapper", "JaxLayer", "FlaxLayer", "TFSMLayer"})

# Containers of plain values in configurations of Keras 2 and 3; they name no code.
VALUE_CLASSES = frozenset(
    {"__keras_tensor__", "__tensor__", "__numpy__", "__bytes__", "__ellipsis__", "__slice__"}
    | {"__tuple__", "TensorShape", "InputSpec"}
)

MODEL_CLASSES = frozenset({"Model", "Functional", "Network", "Container"})

# Names that Keras 3 no longer has, and what took their place.
RENAMED_CLASSES = {
    "AtrousConvolution1D": "Conv1D",
    "AtrousConvolution2D": "Conv2D",
    "BatchNormalizationV1": "BatchNormalization",
    "BatchNormalizationV2": "BatchNormalization",
    "SyncBatchNormalization": "BatchNormalization",
    "LayerNormalizationV1": "LayerNormalization",
    "Convolution1D": "Conv1D",
    "Convolution2D": "Conv2D",
    "Convolution3D": "Conv3D",
    "Deconvolution2D": "Conv2DTranspose",
    "SeparableConvolution2D": "SeparableConv2D",
    "LSTMV2": "LSTM",
    "GRUV2": "GRU",
    "GroupQueryAttention": "GroupedQueryAttention",
}

# Layers of Keras 2 that are calls into TensorFlow; `operations` says which calls are known.
TENSORFLOW_CALLS = frozenset({"TFOpLambda", "SlicingOpLambda", "TensorFlowOpLayer"})

POLICY_CLASSES = frozenset({"DTypePolicy", "Policy", "PolicyV1"})

RENAMED_FUNCTIONS = {
    "softmax_v2": "softmax",
    "softsign_v2": "softsign",
    "relu_v2": "relu",
    "leaky_relu_v2": "leaky_relu",
}


@functools.cache
def layer_classes() -> dict[str, Any]:
    """Map every layer class of the installed Keras by its name, aliases included."""
    classes = {
        cls.__name__: cls for cls in _descendants(keras.Layer) if cls.__module__.startswith(PACKAGE)
    }
    public = {name: cls for name, cls in vars(keras.layers).items() if isinstance(cls, type)}
    return {**classes, **public}


@functools.cache
def operation_classes() -> dict[str, Any]:
    """Map every operation of `keras.ops` by its class name; layers are not among them."""
    return {
        cls.__name__: cls
        for cls in _descendants(keras.Operation)
        if cls.__module__.startswith(OPERATIONS)
    }


@functools.cache
def class_modules() -> dict[str, str]:
    """Map the classes that may appear in a file without the user's consent to where they live.

    Operations of `keras.ops` are not among them: several share their names with layers.
    """
    spaces = ("initializers", "regularizers", "constraints", "dtype_policies", "quantizers")
    modules = {
        name: f"keras.{space}"
        for space in spaces
        for name, value in vars(getattr(keras, space)).items()
        if isinstance(value, type)
    }
    own = {"SeedGenerator": "keras.random"}
    own |= {name: "keras.dtype_policies" for name in POLICY_CLASSES}
    own |= {
        name: "keras.layers"
        for name in {*TENSORFLOW_CALLS, *RENAMED_CLASSES, "CuDNNLSTM", "CuDNNGRU"}
    }
    own |= {name: "keras" for name in MODEL_CLASSES}
    for name, cls in layer_classes().items():
        own[name] = "keras.layers" if name in vars(keras.layers) else cls.__module__
    refused = FOREIGN_CLASSES | {"Lambda", "Layer", "Operation", "Distiller", "FeatureSpace"}
    return {name: module for name, module in {**modules, **own}.items() if name not in refused}


@functools.cache
def known_functions() -> dict[str, str]:
    """Map the functions that may appear in a file to their modules: activations, mathematics."""
    spaces = ("constraints", "regularizers", "initializers", "ops", "activations")
    names = {
        name: f"keras.{space}"
        for space in spaces
        for name, value in vars(getattr(keras, space)).items()
        if callable(value) and not name.startswith("_")
    }
    names |= {name: "keras.activations" for name in RENAMED_FUNCTIONS}
    return {
        name: module
        for name, module in names.items()
        if name not in {"get", "serialize", "deserialize"}
    }


def _descendants(cls: Any) -> Iterator[Any]:
    for child in cls.__subclasses__():
        yield child
        yield from _descendants(child)
