"""Configurations of Keras 1 in the words of Keras 2; weights keep their order and are not touched.

Keras 1.2 was the last to write these names. Values that only matter before training, such as
initializers, are left out: the weights of the file replace them.
"""

from __future__ import annotations

from typing import Any

from edgeprune.errors import ModelError
from edgeprune.loading.vocabulary import RENAMED_CLASSES

_RENAMED_KEYS = {
    "nb_filter": "filters",
    "filter_length": "kernel_size",
    "subsample": "strides",
    "subsample_length": "strides",
    "stride": "strides",
    "border_mode": "padding",
    "atrous_rate": "dilation_rate",
    "bias": "use_bias",
    "p": "rate",
    "sigma": "stddev",
    "pool_length": "pool_size",
    "inner_activation": "recurrent_activation",
    "dropout_W": "dropout",
    "dropout_U": "recurrent_dropout",
    "W_regularizer": "kernel_regularizer",
    "U_regularizer": "recurrent_regularizer",
    "b_regularizer": "bias_regularizer",
    "W_constraint": "kernel_constraint",
    "U_constraint": "recurrent_constraint",
    "b_constraint": "bias_constraint",
    "input_dtype": "dtype",
}
_INITIALIZERS = frozenset(
    {"init", "inner_init", "forget_bias_init", "gamma_init", "beta_init", "weights"}
)
_DROPPED = _INITIALIZERS | {"consume_less", "cov_regularizer", "output_shape_type", "mode_type"}
_DATA_FORMATS = {"tf": "channels_last", "th": "channels_first", "default": None}
_MERGES = {
    "sum": "Add",
    "mul": "Multiply",
    "ave": "Average",
    "max": "Maximum",
    "concat": "Concatenate",
    "dot": "Dot",
}


def upgrade_configuration(config: dict[str, Any]) -> dict[str, Any]:
    """Return a configuration of Keras 1 as Keras 2 would have written it, nested models included.

    Raises:
        ModelError: a layer has no counterpart in later versions, by name and class.
    """
    inner = config["config"]
    layers = inner if isinstance(inner, list) else inner["layers"]
    upgraded = [_upgrade_layer(layer) for layer in layers]
    if isinstance(inner, list):
        return {**config, "config": upgraded}
    return {**config, "config": {**inner, "layers": upgraded}}


def _upgrade_layer(entry: dict[str, Any]) -> dict[str, Any]:
    config = entry["config"]
    if isinstance(config, list) or ("layers" in config and entry["class_name"] != "Merge"):
        return upgrade_configuration(entry)
    class_name, upgraded = entry["class_name"], dict(config)
    name = str(entry.get("name") or config.get("name"))
    if class_name == "Merge":
        class_name, upgraded = _upgrade_merge(name, config)
    if class_name == "TimeDistributedDense":
        class_name = "TimeDistributed"
        dense = {"class_name": "Dense", "config": {**config, "name": f"{name}_dense"}}
        upgraded = {"name": name, "trainable": config.get("trainable", True), "layer": dense}
    if isinstance(upgraded.get("layer"), dict):
        upgraded["layer"] = _upgrade_layer(upgraded["layer"])
    else:
        upgraded = _upgrade_arguments(class_name, name, upgraded)
    return {**entry, "class_name": RENAMED_CLASSES.get(class_name, class_name), "config": upgraded}


def _upgrade_merge(name: str, config: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    mode = str(config.get("mode", "sum"))
    if mode not in _MERGES or config.get("layers"):
        how = "branches of a Sequential model" if mode in _MERGES else f"by '{mode}'"
        raise ModelError(
            f"Layer '{name}' (Merge) joins {how} in the way of Keras 1, which no later version "
            "can. Rebuild the model with the layers Add, Multiply, Concatenate or Dot and save it "
            "again."
        )
    upgraded = {"name": name, "trainable": config.get("trainable", True)}
    if mode == "concat":
        upgraded["axis"] = config.get("concat_axis", -1)
    if mode == "dot":
        axes = config.get("dot_axes", -1)
        upgraded["axes"] = axes if isinstance(axes, int) else [_first(axis) for axis in axes]
    return _MERGES[mode], upgraded


def _upgrade_arguments(class_name: str, name: str, config: dict[str, Any]) -> dict[str, Any]:
    if class_name == "BatchNormalization" and config.get("mode", 0) not in (0, 2):
        raise ModelError(
            f"Layer '{name}' (BatchNormalization) normalises each sample by itself (mode "
            f"{config['mode']} of Keras 1), which later versions cannot express."
        )
    upgraded: dict[str, Any] = {}
    for key, value in config.items():
        if key in _DROPPED or key == "mode":
            continue
        if key == "dim_ordering":
            upgraded["data_format"] = _DATA_FORMATS.get(value)
        elif key == "output_dim" and class_name != "Embedding":
            upgraded["units"] = value
        elif key == "length" and class_name == "UpSampling1D":
            upgraded["size"] = value
        elif key.endswith("_regularizer"):
            upgraded[_RENAMED_KEYS.get(key, key)] = _upgrade_regularizer(value)
        elif key.endswith("_constraint"):
            upgraded[_RENAMED_KEYS.get(key, key)] = _upgrade_constraint(value)
        else:
            upgraded[_RENAMED_KEYS.get(key, key)] = value
    return _upgrade_kernel(class_name, upgraded)


def _upgrade_kernel(class_name: str, config: dict[str, Any]) -> dict[str, Any]:
    names = ("nb_row", "nb_col"), ("kernel_dim1", "kernel_dim2", "kernel_dim3")
    for dimensions in names:
        if dimensions[0] in config:
            config["kernel_size"] = [config.pop(dimension) for dimension in dimensions]
    if class_name == "Deconvolution2D":
        config.pop("output_shape", None)
    if class_name == "Embedding":
        config.pop("dropout", None)
    return config


def _upgrade_regularizer(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    strengths = {key: float(value.get(key, 0.0)) for key in ("l1", "l2")}
    return {"class_name": "L1L2", "config": strengths}


def _upgrade_constraint(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    name = str(value.get("name", value.get("class_name")))
    renamed = {"m": "max_value"}
    config = {renamed.get(key, key): item for key, item in value.items() if key != "name"}
    return {
        "class_name": {"MaxNorm": "MaxNorm", "NonNeg": "NonNeg"}.get(name, name),
        "config": config,
    }


def _first(axis: Any) -> Any:
    return axis[0] if isinstance(axis, list) else axis
