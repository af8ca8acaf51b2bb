"""Models in float32, whatever they were trained in: for comparisons and for TensorFlow Lite."""

from __future__ import annotations

from typing import Any

import keras

from edgeprune.tracing.replica import copy_weights, operations_by_path, rebuild, replicate

_OTHER_FLOATS = ("float16", "bfloat16", "float64", "mixed_float16", "mixed_bfloat16")


def in_float32(model: keras.Model) -> keras.Model:
    """Return the model, or an equal one in float32 when it computes in other floats."""
    types = {getattr(layer, "compute_dtype", None) for layer in operations_by_path(model).values()}
    if types.isdisjoint(_OTHER_FLOATS):
        return model
    single, made = replicate(model, lambda path, layer: rebuild(path, layer, _set_float32))
    copy_weights(model, made)
    return single


def _set_float32(config: dict[str, Any]) -> None:
    config.update(_float32_config(config))


def _float32_config(config: Any) -> Any:
    """Replace every dtype (policy) of a config, those of wrapped layers included."""
    if isinstance(config, list | tuple):
        return type(config)(_float32_config(entry) for entry in config)
    if not isinstance(config, dict):
        return config
    return {
        key: "float32" if key == "dtype" and _is_other_float(value) else _float32_config(value)
        for key, value in config.items()
    }


def _is_other_float(dtype: Any) -> bool:
    name = dtype.get("config", {}).get("name") if isinstance(dtype, dict) else dtype
    return name in _OTHER_FLOATS
