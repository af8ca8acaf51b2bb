"""Opening a model: which way a file takes from its bytes to a Keras 3 model."""

from __future__ import annotations

import json
import logging
import os
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeprune.errors import ModelError
from edgeprune.loading.formats import KERAS_COPY, WRITTEN_AS_CLASS
from edgeprune.loading.references import LegacyProcess, Reference, read_reference
from edgeprune.loading.silence import quiet_frameworks
from edgeprune.loading.sources import Source, open_hdf5, read_source, strings

if TYPE_CHECKING:
    import keras

    from edgeprune.loading.parts import Architecture

_log = logging.getLogger(__name__)


def load_model(
    path: Any,
    *,
    weights: str | os.PathLike[str] | None = None,
    custom_objects: Mapping[str, Any] | None = None,
) -> keras.Model:
    """Open a trained model of any Keras since 1.2, without running anything that is in the file.

    A file of Keras 1 or 2 is rebuilt in Keras 3 and compared with what tf_keras, in a process of
    its own, computes from the same file. Names of layers, inputs and outputs are kept; a `/`,
    which Keras 3 does not allow, becomes `_`.

    Args:
        path: a `.keras`, `.h5` or `.hdf5` file, the JSON of an architecture, or the folder of a
            SavedModel. Also a model of Keras 3, which is returned as it is, or of tf_keras.
        weights: the file with the weights, when `path` is an architecture or the weights are to be
            replaced: `.h5`, `.weights.h5`, `.keras`, or the prefix of a TensorFlow checkpoint.
        custom_objects: classes and functions of your own by the name they have in the file. A
            Lambda layer is replaced by the layer, or the function of tensors, under its name.

    Returns:
        A Functional or Sequential model, not compiled.

    Raises:
        ModelError: the path holds no such model, holds code or unknown classes, has NaN weights,
            or does not compute in Keras 3 what it did: each with what to do.

    Example:
        >>> import keras, tempfile
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, name="head")])
        >>> model.save(f"{tempfile.gettempdir()}/edgeprune_example.keras")
        >>> load_model(f"{tempfile.gettempdir()}/edgeprune_example.keras").layers[0].name
        'head'
    """
    custom = dict(custom_objects or {})
    if not isinstance(path, str | os.PathLike):
        if weights is not None:
            raise ModelError("'weights' goes with the path of an architecture, not with a model.")
        return _from_memory(path, custom)
    source = read_source(Path(path).expanduser(), Path(weights).expanduser() if weights else None)
    if source.generation >= 3 and source.convertible:
        return _finished(_open_current(source, custom), source.path.name)
    with LegacyProcess() as legacy:
        return open_legacy(source, custom, legacy)


def open_legacy(source: Source, custom: Mapping[str, Any], legacy: LegacyProcess) -> keras.Model:
    """Rebuild a model of Keras 1 or 2, fill it and compare it with tf_keras.

    Raises:
        ModelError: as `load_model`.
    """
    with quiet_frameworks():
        if source.layout == "checkpoint" and not source.config:
            source = _saved_model_source(source, legacy)
        config, architecture = _rebuilt(source, custom)
        foreign = bool(set(custom) & set(strings(config)))
        reference = Reference(problem="its custom objects exist in Keras 3 only")
        if not foreign:
            from edgeprune.loading.archives import readable_weights

            with readable_weights(source) as path:
                reference = legacy.open(config, path, source.layout, not source.convertible)
        _fill(architecture, source, reference)
    model = _finished(architecture.model, source.path.name)
    _compare(architecture, reference, source.path.name)
    return model


def _rebuilt(source: Source, custom: Mapping[str, Any]) -> tuple[dict[str, Any], Architecture]:
    from edgeprune.loading import architectures, archives, keras1, repairs, safety

    origin = source.path.name
    config = repairs.plain(source.config)
    safety.check_configuration(config, origin, custom)
    archives.check_weights_file(source)
    if source.generation == 1:
        config = keras1.upgrade_configuration(config)
    config = repairs.without_gpu_layers(config)
    return config, architectures.build_architecture(config, source.generation, custom)


def _fill(architecture: Architecture, source: Source, reference: Reference) -> None:
    from edgeprune.loading.weights import assign_by_path, assign_from_hdf5

    if not source.convertible:
        if not reference.weights:
            raise ModelError(
                f"The weights of '{source.weights.name}' need tf_keras to be read, and it did not "
                f"open them: {reference.problem}."
            )
        assign_by_path(architecture, reference.weights)
        return
    with open_hdf5(source.weights) as file:
        assign_from_hdf5(architecture, file.get("model_weights", file))


def _compare(architecture: Architecture, reference: Reference, origin: str) -> None:
    from edgeprune.loading.comparisons import check_same_outputs

    if not reference.outputs:
        _log.warning(
            "'%s' was opened but could not be compared with tf_keras: %s.",
            origin,
            reference.problem,
        )
        return
    with quiet_frameworks():
        difference = check_same_outputs(architecture, reference, origin)
    _log.info("'%s' differs from tf_keras by %.1e of the largest output.", origin, difference)


def _open_current(source: Source, custom: Mapping[str, Any]) -> keras.Model:
    """Open what Keras 3 wrote: archives and JSON through Keras itself, HDF5 call by call."""
    with quiet_frameworks():
        from edgeprune.loading.archives import load_weights, open_archive

        if "module" in source.config:
            return open_archive(source, custom)
        _, architecture = _rebuilt(source, custom)
        if source.layout == "hdf5":
            _fill(architecture, source, Reference())
        else:
            load_weights(architecture.model, source)
        return architecture.model


def _finished(model: keras.Model, origin: str) -> keras.Model:
    from edgeprune.loading.tracing import as_graph
    from edgeprune.loading.weights import check_finite

    with quiet_frameworks():
        check_finite(model, origin)
        return as_graph(model)


def _saved_model_source(source: Source, legacy: LegacyProcess) -> Source:
    """Find the Keras configuration in a SavedModel."""
    found = legacy.saved_model(source.path)
    if "problem" in found:
        raise ModelError(
            f"'{source.path}' is a SavedModel, which needs tf_keras to be read: {found['problem']}."
        )
    if found["identifier"] == "_tf_keras_model":
        raise ModelError(WRITTEN_AS_CLASS.format(f"'{source.path}'", found["config"]["class_name"]))
    if found["config"] is None:
        raise ModelError(
            f"'{source.path}' is a SavedModel that was exported for inference: a graph without the "
            f"layers of a Keras model. To get one, {KERAS_COPY}."
        )
    return replace(source, config=found["config"])


def _from_memory(model: Any, custom: Mapping[str, Any]) -> keras.Model:
    if any(cls.__module__.split(".")[0] == "tf_keras" for cls in type(model).__mro__):
        return _from_tf_keras(model, custom)
    import keras

    if not isinstance(model, keras.Model):
        raise ModelError(
            "load_model() takes the path of a model or a Keras model; it got "
            f"{type(model).__module__}.{type(model).__qualname__}."
        )
    return _finished(model, model.name)


def _from_tf_keras(model: Any, custom: Mapping[str, Any]) -> keras.Model:
    from edgeprune.loading import legacy_worker

    if not hasattr(model, "_is_graph_network") or not model._is_graph_network:
        name = f"Model '{model.name}' of tf_keras"
        raise ModelError(WRITTEN_AS_CLASS.format(name, type(model).__name__))
    config = json.loads(model.to_json())
    if not model.built:
        raise ModelError(
            f"Model '{model.name}' of tf_keras has no input shape yet. Call it once on a sample."
        )
    memory = Path(f"tf_keras model {model.name}")
    source = Source(memory, config, 2, memory, "memory", False)
    with quiet_frameworks(), tempfile.TemporaryDirectory(prefix="edgeprune-") as folder:
        _, architecture = _rebuilt(source, custom)
        reply = legacy_worker.describe(model, Path(folder), with_weights=True)
        reference = read_reference(Path(folder), reply)
        _fill(architecture, source, reference)
    rebuilt = _finished(architecture.model, model.name)
    _compare(architecture, reference, model.name)
    return rebuilt
