"""What Keras 3 takes amiss in configurations that Keras 2 wrote, put right layer by layer.

Every setting of a file is kept, renamed, or known to be without effect; a setting that is none of
these is an error, never dropped in silence.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterable
from typing import Any

import keras

from edgeprune.errors import ModelError
from edgeprune.loading import vocabulary

# Written by Keras 2 for every layer of a family, whether or not the layer has use for them.
_WITHOUT_EFFECT = frozenset(
    {"batch_input_shape", "input_dim", "input_dtype", "input_length", "build_input_shape"}
    | {
        "implementation",
        "fused",
        "virtual_batch_size",
        "adjustment",
        "unroll",
        "autocast",
        "rng_type",
        "trainable",
    }
    | {"query_shape", "key_shape", "value_shape", "input_spec", "rank", "count"}
    | {"kernel_initializer", "kernel_regularizer", "kernel_constraint", "filters"}
)
# Settings that Keras 3 dropped, and the one value each may have.
_NEUTRAL = {"groups": 1, "time_major": False, "dynamic": False, "ragged": False}
_NEUTRAL_VALUES: tuple[Any, ...] = (None, False, [], {}, "")

_RENAMED_KEYS = {
    "LeakyReLU": {"alpha": "negative_slope"},
    "Dropout": {"p": "rate"},
    "GroupNormalization": {"group": "groups"},
}
_GPU_LAYERS: dict[str, tuple[str, dict[str, Any]]] = {
    "CuDNNLSTM": ("LSTM", {"recurrent_activation": "sigmoid"}),
    "CuDNNGRU": ("GRU", {"recurrent_activation": "sigmoid", "reset_after": True}),
}
ACTIVATION_KEYS = ("activation", "recurrent_activation")


def plain(value: Any) -> Any:
    """Turn the typed JSON of Keras 2 (tuples, shapes) into plain lists, at every depth.

    Example:
        >>> plain({"strides": {"class_name": "__tuple__", "items": [2, 2]}})
        {'strides': [2, 2]}
    """
    if isinstance(value, list):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        if value.get("class_name") in ("__tuple__", "TensorShape") and "items" in value:
            return [plain(item) for item in value["items"]]
        if value.get("type") == "ndarray" and "value" in value:
            return plain(value["value"])
        return {key: plain(item) for key, item in value.items()}
    return value


def without_gpu_layers(value: Any) -> Any:
    """Put LSTM and GRU where a configuration has their twins for Nvidia GPUs, at every depth."""
    if isinstance(value, list):
        return [without_gpu_layers(item) for item in value]
    if not isinstance(value, dict):
        return value
    value = {key: without_gpu_layers(item) for key, item in value.items()}
    if value.get("class_name") in _GPU_LAYERS:
        class_name, settings = _GPU_LAYERS[value["class_name"]]
        value = {**value, "class_name": class_name, "config": {**value["config"], **settings}}
    return value


def in_double_precision(value: Any) -> Any:
    """Let every layer of a configuration compute in float64, at every depth."""
    if isinstance(value, list):
        return [in_double_precision(item) for item in value]
    if not isinstance(value, dict):
        return value
    value = {key: in_double_precision(item) for key, item in value.items()}
    config = value.get("config")
    is_layer = isinstance(config, dict) and "name" in config and "layers" not in config
    if is_layer and config.get("dtype", "float32") == "float32":
        value = {**value, "config": {**config, "dtype": "float64"}}
    return value


def unique_names(names: Iterable[str]) -> dict[str, str]:
    """Give each name one that Keras 3 accepts: no `/`, and still no two alike.

    Example:
        >>> unique_names(["block/conv", "block_conv", "pool"])
        {'block/conv': 'block_conv_1', 'block_conv': 'block_conv', 'pool': 'pool'}
    """
    names = list(names)
    taken = {name for name in names if "/" not in name}
    renamed = {}
    for name in names:
        candidate, count = name.replace("/", "_"), 0
        while "/" in name and candidate in taken:
            count += 1
            candidate = f"{name.replace('/', '_')}_{count}"
        taken.add(candidate)
        renamed[name] = candidate
    return renamed


def repair_layer(class_name: str, config: dict[str, Any], layer_class: type) -> dict[str, Any]:
    """Return the arguments of a Keras 3 layer for a configuration that Keras 1 or 2 wrote.

    Raises:
        ModelError: the layer has a setting that Keras 3 cannot express, by name and value.
    """
    renamed = _RENAMED_KEYS.get(layer_class.__name__, {})
    repaired = {renamed.get(key, key): _repair_value(key, item) for key, item in config.items()}
    if layer_class.__name__ in {"BatchNormalization"} and isinstance(repaired.get("axis"), list):
        repaired["axis"] = _only_axis(repaired)
    if class_name == "SyncBatchNormalization":
        repaired["synchronized"] = True
    if (
        layer_class is keras.layers.GRU
    ):  # Keras 2 wrote nothing where the only formula was the original one
        repaired.setdefault("reset_after", False)
    return _accepted(repaired, layer_class)


def policy_name(dtype: Any) -> Any:
    """Give a dtype or the name of a policy for what Keras 2 or 3 wrote as either."""
    if isinstance(dtype, dict) and dtype.get("class_name") in vocabulary.POLICY_CLASSES:
        return dtype["config"]["name"]
    return dtype


def _repair_value(key: str, value: Any) -> Any:
    if key == "dtype":
        return policy_name(value)
    if key.endswith("_initializer"):
        return _repair_initializer(value)
    if key in ACTIVATION_KEYS:
        return _repair_activation(value)
    if isinstance(value, dict) and value.get("class_name") in vocabulary.class_modules():
        return {"class_name": value["class_name"], "config": value.get("config", {})}
    return value


def _repair_activation(value: Any) -> Any:
    if isinstance(value, dict) and value.get("class_name") == "function":
        value = value["config"]
    if isinstance(value, str):
        return vocabulary.RENAMED_FUNCTIONS.get(value, value)
    if isinstance(value, dict) and "class_name" in value:
        return {"class_name": value["class_name"], "config": value.get("config", {})}
    return value


def _repair_initializer(value: Any) -> Any:
    """Keep an initializer that Keras 3 has; another one does not matter, as weights are loaded."""
    if isinstance(value, dict):
        class_name = str(value.get("class_name"))
        value = {"class_name": class_name.removesuffix("V2"), "config": value.get("config", {})}
    try:
        keras.initializers.get(value)
    except (ValueError, TypeError, KeyError):
        return "zeros"
    return value


def _only_axis(config: dict[str, Any]) -> int:
    if len(config["axis"]) != 1:
        raise ModelError(
            f"Layer '{config.get('name')}' (BatchNormalization) normalises over the axes "
            f"{config['axis']}; Keras 3 knows one axis. Rebuild the layer and save the model again."
        )
    return int(config["axis"][0])


def _accepted(config: dict[str, Any], layer_class: type) -> dict[str, Any]:
    known = accepted_arguments(layer_class)
    kept = {key: value for key, value in config.items() if key in known}
    for key, value in config.items():
        if key in kept or key in _WITHOUT_EFFECT or value in _NEUTRAL_VALUES:
            continue
        if key not in _NEUTRAL or value != _NEUTRAL[key]:
            raise ModelError(
                f"Layer '{config.get('name')}' ({layer_class.__name__}) has the setting "
                f"{key}={value!r}, which Keras 3 cannot express. Rebuild the layer and save the "
                "model again."
            )
    return kept


@functools.cache
def accepted_arguments(layer_class: type) -> frozenset[str]:
    """List the arguments a layer takes, those it passes on to its base classes included."""
    names: set[str] = set()
    for cls in layer_class.__mro__:
        if "__init__" not in vars(cls):
            continue
        parameters = inspect.signature(vars(cls)["__init__"]).parameters.values()
        named = {inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY}
        names |= {item.name for item in parameters if item.kind in named}
        passes_on = any(item.kind is inspect.Parameter.VAR_KEYWORD for item in parameters)
        if cls is keras.Layer or not passes_on:
            break
    return frozenset(names - {"self", "rank"})
