"""Models of Keras 1 and 2, rebuilt in Keras 3, filled with their weights and proven equal."""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np

from edgeprune.errors import ModelError
from edgeprune.loading import keras1, legacy_worker, repairs, safety
from edgeprune.loading.architectures import build_architecture
from edgeprune.loading.archives import check_weights_file, readable_weights
from edgeprune.loading.comparisons import check_same_outputs
from edgeprune.loading.data_formats import move_channels_last
from edgeprune.loading.formats import KERAS_COPY, WRITTEN_AS_CLASS
from edgeprune.loading.hdf5 import open_hdf5, open_weights
from edgeprune.loading.parts import Architecture
from edgeprune.loading.references import LegacyProcess, Reference, read_reference
from edgeprune.loading.sources import Source, strings
from edgeprune.loading.weight_trees import read_by_path
from edgeprune.loading.weights import (
    assign_by_path,
    assign_from_hdf5,
    bounded_by,
    check_finite,
)

Names = tuple[str, ...]
_log = logging.getLogger(__name__)


def open_legacy(source: Source, custom: Mapping[str, Any], legacy: LegacyProcess) -> keras.Model:
    """Rebuild a model of Keras 1 or 2, fill it and compare it with tf_keras.

    Raises:
        ModelError: the file is unsafe or damaged, cannot be rebuilt, or computes something else.
    """
    if source.layout == "checkpoint" and not source.config:
        source = _with_configuration(source, legacy)
    config = checked_configuration(source, custom)
    with bounded_by(source.weights):
        architecture = build_architecture(config, source.generation, custom)
    reference = Reference(problem="its custom objects exist in Keras 3 only")
    if source.layout == "tree":
        reference = replace(reference, weights=_read_tree(architecture, source))
    if not set(custom) & set(strings(config)):
        with readable_weights(source) as path:
            reference = legacy.open(
                config,
                path,
                source.layout,
                with_weights=not source.convertible,
                given=reference.weights,
            )
            _fill(architecture, source, reference)
            architecture = _in_channels_last(architecture)
            _compare(architecture, reference, source, config, legacy, path)
    else:
        _fill(architecture, source, reference)
        architecture = _in_channels_last(architecture)
        _warn(source, reference)
    return architecture.model


def open_tf_keras(model: Any, custom: Mapping[str, Any]) -> keras.Model:
    """Rebuild a tf_keras model that exists in this process.

    Raises:
        ModelError: it is no graph of layers, cannot be rebuilt, or computes something else.
    """
    if not getattr(model, "_is_graph_network", False):
        name = f"Model '{model.name}' of tf_keras"
        raise ModelError(WRITTEN_AS_CLASS.format(name, type(model).__name__))
    memory = Path(model.name)
    source = Source(memory, json.loads(model.to_json()), 2, memory, "memory", False)
    architecture = build_architecture(checked_configuration(source, custom), 2, custom)
    with tempfile.TemporaryDirectory(prefix="edgeprune-") as folder:
        reply = legacy_worker.describe(model, Path(folder), with_weights=True)
        reference = read_reference(Path(folder), reply)
    _fill(architecture, source, reference)
    architecture = _in_channels_last(architecture)
    if reference.outputs:
        check_same_outputs(architecture, reference, model.name)
    else:
        _warn(source, reference)
    return architecture.model


def open_hdf5_of_keras3(source: Source, custom: Mapping[str, Any]) -> Architecture:
    """Rebuild a model from HDF5 of Keras 3, which Keras itself cannot where operations are used.

    Raises:
        ModelError: the file is unsafe or damaged, or cannot be rebuilt.
    """
    config = checked_configuration(source, custom)
    with bounded_by(source.weights):
        architecture = build_architecture(config, source.generation, custom)
    if source.layout == "hdf5":
        _fill(architecture, source, Reference())
    return architecture


def checked_configuration(source: Source, custom: Mapping[str, Any]) -> dict[str, Any]:
    """Return the configuration in the words of Keras 2 or 3, if nothing in it can do harm.

    Raises:
        ModelError: it holds code, foreign classes or paths of files, by layer and class.
    """

    def rewrite(config: dict[str, Any]) -> dict[str, Any]:
        return safety.rewrite_configuration(config, source.path.name, source.generation, custom)

    config = rewrite(repairs.plain(source.config))
    check_weights_file(source)
    if source.generation == 1:  # what the upgrade makes of a file's names is judged as well
        config = rewrite(keras1.upgrade_configuration(config))
    upgraded: dict[str, Any] = repairs.without_gpu_layers(config)
    return upgraded


def _with_configuration(source: Source, legacy: LegacyProcess) -> Source:
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


def _fill(architecture: Architecture, source: Source, reference: Reference) -> None:
    if source.convertible:
        try:
            with open_hdf5(source.weights) as file:
                assign_from_hdf5(architecture, file.get("model_weights", file))
        except (KeyError, OSError) as error:
            raise ModelError(f"'{source.weights.name}' is damaged: {error}.") from error
    elif reference.weights:
        assign_by_path(architecture, reference.weights)
    else:
        raise ModelError(
            f"The weights of '{source.weights.name}' need tf_keras to be read, and it did not open "
            f"them: {reference.problem}."
        )
    check_finite(architecture.model, source.path.name)


def _read_tree(architecture: Architecture, source: Source) -> dict[Names, list[np.ndarray]]:
    file = open_weights(source.weights)
    assert file is not None  # or it would have another layout
    with file:
        return read_by_path(architecture, file)


def _in_channels_last(architecture: Architecture) -> Architecture:
    """Move axes where the file has channels first; its layers are then no longer watched."""
    model = move_channels_last(architecture.model)
    return architecture if model is architecture.model else Architecture(model, ())


def _compare(
    architecture: Architecture,
    reference: Reference,
    source: Source,
    config: dict[str, Any],
    legacy: LegacyProcess,
    weights: Path,
) -> None:
    """Compare outputs; where rounding may be the difference, compare again in double precision."""
    origin = source.path.name
    if not reference.outputs:
        _warn(source, reference)
        return
    try:
        difference = check_same_outputs(architecture, reference, origin)
    except ModelError:
        exact_config = repairs.in_double_precision(config)
        exact = legacy.open(
            config, weights, source.layout, exact_config=exact_config, given=reference.weights
        )
        if not _is_same_in_double_precision(exact_config, exact, source, reference):
            raise
        _log.info("'%s' differs from tf_keras by rounding only.", origin)
        return
    _log.info("'%s' differs from tf_keras by %.1e of the largest output.", origin, difference)


def _is_same_in_double_precision(
    config: dict[str, Any], exact: Reference, source: Source, single: Reference
) -> bool:
    if not exact.outputs or exact.outputs[0].dtype != "float64":
        return False
    twin = build_architecture(config, source.generation)
    _fill(twin, source, single)
    try:
        check_same_outputs(_in_channels_last(twin), exact, source.path.name)
    except ModelError:
        return False
    return True


def _warn(source: Source, reference: Reference) -> None:
    _log.warning(
        "'%s' was opened but could not be compared with tf_keras: %s.",
        source.path.name,
        reference.problem,
    )
