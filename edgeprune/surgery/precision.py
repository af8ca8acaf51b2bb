"""Float32 and nothing less: for comparisons, for sums, and for TensorFlow Lite."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from importlib import import_module
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


@contextlib.contextmanager
def full_float32(backend: str | None = None) -> Iterator[None]:
    """Switch TF32 off while a block, or as a decorator a function, runs.

    GPUs since Ampere multiply float32 with ten bits of mantissa unless told otherwise, which is
    enough to train and too little to prove that two models are equal or to solve for kernels.

    Args:
        backend: `tensorflow`, `jax` or `torch`; by default the one that Keras runs on.
    """
    name = keras.backend.backend() if backend is None else backend
    if name == "tensorflow":
        settings = import_module("tensorflow").config.experimental
        before = settings.tensor_float_32_execution_enabled()
        settings.enable_tensor_float_32_execution(False)
        try:
            yield
        finally:
            settings.enable_tensor_float_32_execution(before)
    elif name == "jax":
        with import_module("jax").default_matmul_precision("highest"):
            yield
    elif name == "torch":
        backends = import_module("torch").backends
        places = (backends.cudnn, backends.cuda.matmul)
        allowed = [place.allow_tf32 for place in places]
        for place in places:
            place.allow_tf32 = False
        try:
            yield
        finally:
            for place, value in zip(places, allowed, strict=True):
                place.allow_tf32 = value
    else:
        yield
