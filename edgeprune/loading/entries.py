"""Entries of a configuration, one per layer: their names, and the inputs they imply."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import keras

from edgeprune.errors import ModelError
from edgeprune.loading.repairs import policy_name
from edgeprune.support.printable import one_line


def entry_name(entry: dict[str, Any]) -> str:
    """Give the name of a layer, which some versions wrote beside its configuration only."""
    config = entry["config"]
    inner = config.get("name") if isinstance(config, dict) else None
    return str(entry.get("name") or inner or entry["class_name"].lower())


def entry_names(entries: list[dict[str, Any]]) -> list[str]:
    """Give the names of all layers of a model.

    Raises:
        ModelError: two of them are alike.
    """
    names = [entry_name(entry) for entry in entries]
    for name in names:
        if names.count(name) > 1:
            raise ModelError(f"The configuration is damaged: two layers are named '{name}'.")
    return names


def renamed_entry(entry: dict[str, Any], name: str) -> dict[str, Any]:
    """Return the entry under another name."""
    config = entry["config"]
    renamed = {**config, "name": name} if isinstance(config, dict) else config
    return {**entry, "name": name, "config": renamed}


def is_model_entry(entry: dict[str, Any]) -> bool:
    """Say whether an entry is a nested model; early versions list its layers without a name."""
    return isinstance(entry["config"], list) or "layers" in entry["config"]


def input_tensor(config: dict[str, Any]) -> Any:
    """Make the symbolic input that an InputLayer describes.

    Raises:
        ModelError: it is ragged.
    """
    if config.get("ragged"):
        raise ModelError(f"Input '{config['name']}' is ragged, which Keras 3 does not support.")
    old = "batch_input_shape" in config
    return keras.Input(
        batch_shape=tuple(config["batch_input_shape" if old else "batch_shape"]),
        dtype=policy_name(config.get("dtype") or config.get("input_dtype")),
        sparse=bool(config.get("sparse")),
        name=config["name"],
    )


def implied_input(first: dict[str, Any], config: dict[str, Any]) -> list[dict[str, Any]]:
    """Give the input that a Sequential model states through its first layer, if it does."""
    settings = first["config"] if isinstance(first["config"], dict) else {}
    shape = settings.get("batch_input_shape") or config.get("build_input_shape")
    if shape is None and isinstance(settings.get("input_dim"), int):
        shape = [None, settings["input_dim"]]
    if not isinstance(shape, list):
        return []
    dtype = "int32" if first["class_name"] == "Embedding" else settings.get("dtype")
    implied = {"batch_input_shape": shape, "dtype": dtype, "name": f"{entry_name(first)}_input"}
    return [{"class_name": "InputLayer", "config": implied}]


def unbuildable(entry: dict[str, Any], reason: str) -> ModelError:
    """Make the error for a layer that Keras 3 does not take."""
    return ModelError(
        f"Layer '{entry_name(entry)}' ({entry['class_name']}) cannot be rebuilt: {reason}. Rebuild "
        "it with other layers in the program that made the model, and save the model again."
    )


@contextlib.contextmanager
def explained(entry: dict[str, Any]) -> Iterator[None]:
    """Turn whatever Keras raises for a layer into one line that names the layer."""
    try:
        yield
    except ModelError:
        raise
    except Exception as error:
        raise unbuildable(entry, one_line(error)) from error
