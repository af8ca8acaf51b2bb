"""Opening a model: which way a file takes from its bytes to a Keras 3 model."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeprune.errors import EdgepruneError, ModelError
from edgeprune.loading.model_file import ModelFile
from edgeprune.loading.references import LegacyProcess
from edgeprune.loading.silence import quiet_frameworks
from edgeprune.loading.sources import Source, read_source
from edgeprune.support.printable import one_line

if TYPE_CHECKING:
    import keras


def load_model(
    path: Any,
    *,
    weights: str | os.PathLike[str] | None = None,
    custom_objects: Mapping[str, Any] | None = None,
    input_size: Sequence[int] | None = None,
) -> keras.Model:
    """Open a trained model of any Keras since 1.2, without running anything that is in the file.

    A file of Keras 1 or 2 is rebuilt in Keras 3 and compared with what tf_keras, in a process of
    its own, computes from the same file. Names of layers, inputs and outputs are kept; a `/`,
    which Keras 3 does not allow, becomes `_`.

    Args:
        path: a `.keras`, `.h5` or `.hdf5` file, the JSON of an architecture, or the folder of a
            SavedModel. Also a `ModelFile`, or a model of Keras 3, which is returned as it is, or of
            tf_keras.
        weights: the file with the weights, when `path` is an architecture or the weights are to be
            replaced: `.h5`, `.weights.h5`, `.keras`, or the prefix of a TensorFlow checkpoint.
        custom_objects: classes and functions of your own by the name they have in the file. A
            Lambda layer is replaced by the layer, or the function of tensors, under its name.
        input_size: of every axis between batch and channels, such as (96, 96), where the model
            leaves it open.

    Returns:
        A Functional or Sequential model, not compiled. One for batches of several samples is
        rebuilt for batches of any size, where that computes the same.

    Raises:
        ModelError: the path holds no such model, holds code or unknown classes, has NaN weights,
            or does not compute in Keras 3 what it did: each with what to do.

    Example:
        >>> import keras, tempfile
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, name="head")])
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     model.save(f"{folder}/model.keras")
        ...     load_model(f"{folder}/model.keras").layers[0].name
        'head'
    """
    if isinstance(path, ModelFile):
        weights, custom_objects, input_size = path.weights, path.custom_objects, path.input_size
        path = path.path
    custom = dict(custom_objects or {})
    if not isinstance(path, str | os.PathLike):
        if weights is not None:
            raise ModelError("'weights' goes with the path of an architecture, not with a model.")
        model = _from_memory(path, custom)
        return model if input_size is None else _sized(model, input_size)
    try:
        return _sized(_open_file(Path(path).expanduser(), weights, custom), input_size)
    except EdgepruneError:
        raise
    except Exception as error:  # damage shows wherever its bytes are first used
        raise ModelError(
            f"'{path}' cannot be opened ({type(error).__name__}: {one_line(error)}): it is "
            "damaged, or of a kind that edgeprune does not know. Copy it again; if it opens in "
            "Keras, report it."
        ) from error


def _sized(model: keras.Model, size: Sequence[int] | None) -> keras.Model:
    from edgeprune.loading.input_sizes import set_input_sizes

    with quiet_frameworks():
        return set_input_sizes(model, size)


def _open_file(
    path: Path, weights: str | os.PathLike[str] | None, custom: Mapping[str, Any]
) -> keras.Model:
    source = read_source(path, Path(weights).expanduser() if weights else None)
    if source.generation >= 3 and source.convertible:
        return _open_current(source, custom)
    with LegacyProcess() as legacy, quiet_frameworks():
        from edgeprune.loading.legacy_models import open_legacy

        return open_legacy(source, custom, legacy)


def _open_current(source: Source, custom: Mapping[str, Any]) -> keras.Model:
    """Open what Keras 3 wrote: archives and JSON through Keras itself, HDF5 call by call."""
    with quiet_frameworks():
        from edgeprune.loading.archives import load_weights, open_archive
        from edgeprune.loading.legacy_models import open_hdf5_of_keras3

        if "module" in source.config:
            return _finished(open_archive(source, custom), source.path.name)
        model = open_hdf5_of_keras3(source, custom).model
        if source.layout != "hdf5":
            load_weights(model, source)
        return _finished(model, source.path.name)


def _from_memory(model: Any, custom: Mapping[str, Any]) -> keras.Model:
    import keras

    with quiet_frameworks():
        if any(cls.__module__.split(".")[0] == "tf_keras" for cls in type(model).__mro__):
            from edgeprune.loading.legacy_models import open_tf_keras

            return open_tf_keras(model, custom)
        if isinstance(model, keras.Model):
            return _finished(model, model.name)
    raise ModelError(
        "load_model() takes the path of a model or a Keras model; it got "
        f"{type(model).__module__}.{type(model).__qualname__}."
    )


def _finished(model: keras.Model, origin: str) -> keras.Model:
    from edgeprune.loading.data_formats import move_channels_last
    from edgeprune.loading.subclassed import as_graph
    from edgeprune.loading.weights import check_finite

    check_finite(model, origin)
    return move_channels_last(as_graph(model))
