"""Models that Keras 3 wrote, rebuilt by Keras itself once their configuration has been checked."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import keras

from edgeprune.errors import ModelError
from edgeprune.loading import safety
from edgeprune.loading.hdf5 import open_weights
from edgeprune.loading.sources import Source
from edgeprune.loading.weights import bounded_by
from edgeprune.support.printable import one_line
from edgeprune.tracing.keras_internals import ObjectSharingScope

_SUFFIXES = {"hdf5": ".h5", "store": ".weights.h5", "archive": ".keras"}


def open_archive(source: Source, custom_objects: Mapping[str, Any]) -> keras.Model:
    """Build the model of a `.keras` archive or of a JSON architecture, and load its weights.

    Raises:
        ModelError: the configuration is unsafe, or Keras cannot rebuild the model from it.
    """
    origin = source.path.name
    config = safety.rewrite_configuration(source.config, origin, source.generation, custom_objects)
    check_weights_file(source)
    config = _with_replacements(config, custom_objects)
    try:
        with ObjectSharingScope(), bounded_by(source.weights):
            model = keras.saving.deserialize_keras_object(
                config, custom_objects=dict(custom_objects), safe_mode=True
            )
    except ModelError:
        raise
    except Exception as error:
        raise ModelError(_failure(origin, "rebuild the model in", error)) from error
    if not isinstance(model, keras.Model):
        raise ModelError(f"'{origin}' describes a {type(model).__name__}, which is not a model.")
    load_weights(model, source)
    return model


def load_weights(model: keras.Model, source: Source) -> None:
    """Let Keras fill a model from weights that Keras 3 wrote.

    Raises:
        ModelError: they are those of another model.
    """
    try:
        with readable_weights(source) as path:
            model.load_weights(path)
    except Exception as error:
        raise ModelError(_failure(source.weights.name, "load the weights in", error)) from error


def check_weights_file(source: Source) -> None:
    """Refuse weights that point outside their file.

    Raises:
        ModelError: names the entry and where it points.
    """
    if source.layout not in ("checkpoint", "memory"):
        file = open_weights(source.weights)
        if file is not None:
            file.close()


@contextlib.contextmanager
def readable_weights(source: Source) -> Iterator[Path]:
    """Give the weights under a name whose ending tells Keras what their content is."""
    suffix = _SUFFIXES.get(source.layout)
    name = source.weights.name
    plain_hdf5 = name.endswith((".h5", ".hdf5")) and not name.endswith(".weights.h5")
    is_readable = plain_hdf5 if source.layout == "hdf5" else suffix and name.endswith(suffix)
    if suffix is None or is_readable:
        yield source.weights
        return
    with tempfile.TemporaryDirectory(prefix="edgeprune-") as folder:
        copy = Path(folder) / f"copy{suffix}"
        shutil.copy(source.weights, copy)
        yield copy


def _with_replacements(config: Any, custom_objects: Mapping[str, Any]) -> Any:
    """Put the user's layers in the place of Lambda layers."""
    if isinstance(config, list):
        return [_with_replacements(item, custom_objects) for item in config]
    if not isinstance(config, dict):
        return config
    if config.get("class_name") == "Lambda":
        name = config["config"]["name"]
        layer = custom_objects[name]
        if not isinstance(layer, keras.Layer):
            raise ModelError(
                f"custom_objects['{name}'] is a {type(layer).__name__}; a Lambda layer of a .keras "
                "file can be replaced by a Keras layer only, for example keras.layers.Rescaling."
            )
        given = keras.saving.serialize_keras_object(layer)
        given["config"]["name"] = name
        return {**config, **given}
    return {key: _with_replacements(value, custom_objects) for key, value in config.items()}


def _failure(origin: str, action: str, error: Exception) -> str:
    return (
        f"Keras cannot {action} '{origin}': {one_line(error)}. If keras.models.load_model() opens "
        "it, report it; else copy it again, or ask for another copy."
    )
