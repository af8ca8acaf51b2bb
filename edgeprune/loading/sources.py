"""What a file states about a model, before anything is built: configuration and weights."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import h5py

from edgeprune.errors import ModelError
from edgeprune.loading.formats import KERAS_COPY, Format, identify
from edgeprune.loading.hdf5 import has_dependencies, open_hdf5, open_weights
from edgeprune.loading.zip_files import MOST_TEXT_BYTES, open_zip, read_text
from edgeprune.support.files import check_regular

_KERAS1_WORDS = frozenset({"nb_filter", "border_mode", "dim_ordering", "W_regularizer", "init"})
_CUDNN = frozenset({"CuDNNLSTM", "CuDNNGRU"})
_CONVOLUTIONS = "Conv"
_MOST_LEVELS = 150


@dataclass(frozen=True)
class Source:
    """An architecture as a file states it.

    Attributes:
        path: the file that was named.
        config: `{"class_name": ..., "config": ...}` in plain JSON types.
        generation: major version of the Keras that wrote the configuration: 1, 2 or 3.
        weights: where the weights lie; the same file, or another.
        layout: how: `hdf5` (one group per layer), `store` (.weights.h5 of Keras 3), `archive`
            (.keras), `tree` (either, of TensorFlow 2.12 and 2.13), `checkpoint`
            or, of a model that exists, `memory`.
        convertible: whether the weights only need to be put in place; else tf_keras converts them.
    """

    path: Path
    config: dict[str, Any]
    generation: int
    weights: Path
    layout: str
    convertible: bool = True


def read_source(path: Path, weights: Path | None) -> Source:
    """Read a .keras, .h5 or .json file, with the weights of another file if one is given.

    Raises:
        ModelError: the file is damaged or half of a model: what is missing and how to give it.
    """
    kind = identify(path)
    if kind is Format.SAVED_MODEL and weights is not None:
        raise ModelError(f"'{path}' is a SavedModel and holds its own weights; give it alone.")
    if kind is Format.SAVED_MODEL:
        return Source(path, {}, 2, path / "variables" / "variables", "checkpoint", False)
    consumers = {Format.ARCHIVE: _read_archive, Format.HDF5: _read_hdf5, Format.JSON: _read_json}
    source = consumers[kind](path)
    if weights is not None:
        source = _with_weights(source, weights)
    elif kind is Format.JSON:
        raise ModelError(_missing_weights(path))
    return _checked(_with_layout(source))


def _with_layout(source: Source) -> Source:
    """Tell the weights of TensorFlow 2.12 and 2.13 from those of later ones in the same file."""
    if source.generation < 3 and source.layout in ("archive", "store"):
        file = open_weights(source.weights)
        if file is not None:
            with file:
                return replace(source, layout="tree") if has_dependencies(file) else source
    return source


def _read_archive(path: Path) -> Source:
    with open_zip(path) as archive:
        names = archive.namelist()
        if any(name.startswith("assets/") and not name.endswith("/") for name in names):
            raise ModelError(
                f"'{path}' holds files that its layers read (assets: vocabularies and the like). "
                "Save the model from the numbers on, without those layers."
            )
        config = _parse(read_text(path, archive, "config.json"), path)
        about = b"{}"
        if "metadata.json" in names:
            about = read_text(path, archive, "metadata.json")
    generation = _generation(config, str(_parse(about, path).get("keras_version", "")))
    return Source(path, config, generation, path, "archive", generation >= 3)


def _read_hdf5(path: Path) -> Source:
    with open_hdf5(path) as file:
        text = file.attrs.get("model_config")
        if text is None:
            raise ModelError(_weights_only(path, file))
        version = _text(file.attrs.get("keras_version", ""))
        config = _parse(text, path)
        if "model_weights" not in file:
            raise ModelError(f"'{path}' holds an architecture but no weights: it is damaged.")
        _check_backend(path, _text(file.attrs.get("backend", "")), config)
        generation = _generation(config, version)
        convertible = generation >= 3 or _is_convertible(config, file["model_weights"])
    return Source(path, config, generation, path, "hdf5", convertible)


def _read_json(path: Path) -> Source:
    check_regular(path, ModelError, MOST_TEXT_BYTES)
    config = _parse(path.read_bytes(), path)
    if "modelTopology" in config or config.get("format") in ("layers-model", "graph-model"):
        raise ModelError(
            f"'{path}' is a TensorFlow.js model; convert it first: tensorflowjs_converter "
            "--input_format tfjs_layers_model --output_format keras model.json model.h5."
        )
    if not isinstance(config.get("class_name"), str) or "config" not in config:
        raise ModelError(
            f"'{path}' is JSON but not the architecture of a Keras model, as model.to_json() "
            "writes it: it has no class_name and config."
        )
    _check_backend(path, str(config.get("backend", "")), config)
    generation = _generation(config, str(config.get("keras_version", "")))
    return Source(path, config, generation, path, "hdf5")


def _with_weights(source: Source, weights: Path) -> Source:
    is_new = source.generation >= 3
    if Path(f"{weights}.index").exists() and not weights.exists() and not is_new:
        return replace(source, weights=weights, layout="checkpoint", convertible=False)
    kind = identify(weights)
    if kind is Format.ARCHIVE:
        if (_read_archive(weights).generation >= 3) != is_new:
            raise ModelError(
                f"'{weights}' is a whole model, of another Keras version than '{source.path}'; "
                "give it alone."
            )
        return replace(source, weights=weights, layout="archive", convertible=is_new)
    if kind is not Format.HDF5:
        raise ModelError(
            f"'{weights}' is a {kind.value} and holds no weights for '{source.path}'; expected "
            "an .h5, .weights.h5 or .keras file."
        )
    with open_hdf5(weights) as file:
        group = file.get("model_weights", file)
        if "layer_names" in group.attrs or "layer_names0" in group.attrs:
            convertible = is_new or _is_convertible(source.config, group)
            return replace(source, weights=weights, layout="hdf5", convertible=convertible)
    return replace(source, weights=weights, layout="store", convertible=is_new)


def strings(config: Any) -> Iterator[str]:
    """Yield every string value of a configuration, at any depth."""
    if isinstance(config, str):
        yield config
    elif isinstance(config, list):
        for item in config:
            yield from strings(item)
    elif isinstance(config, dict):
        for item in config.values():
            yield from strings(item)


def _parse(text: Any, path: Path) -> dict[str, Any]:
    try:
        config = json.loads(_text(text))
        if isinstance(config, str):  # as json.dump(model.to_json()) writes it
            config = json.loads(config)
    except (ValueError, RecursionError) as error:
        raise ModelError(
            f"'{path}' holds a configuration that is no valid JSON: {error}."
        ) from error
    if not isinstance(config, dict):
        raise ModelError(f"'{path}' holds a {type(config).__name__} instead of a configuration.")
    if _is_deep(config):
        raise ModelError(f"'{path}' nests its configuration too deeply to be a model.")
    return config


def _is_deep(config: Any) -> bool:
    """Whether following a configuration may exhaust the stack: a model in a model takes four."""
    level = [config]
    for _ in range(_MOST_LEVELS):
        inside = [node.values() if isinstance(node, dict) else node for node in level]
        level = [node for nodes in inside for node in nodes if isinstance(node, dict | list)]
    return bool(level)


def _text(value: Any) -> str:
    return value.decode("utf-8", errors="replace") if isinstance(value, bytes) else str(value)


def _generation(config: dict[str, Any], version: str) -> int:
    """Give the major version of Keras: as stated, else by the words it uses."""
    if version[:1] in "123" and version:
        return int(version[0])
    keys = set(_keys(config))
    if keys & _KERAS1_WORDS:
        return 1
    return 3 if "module" in config and "batch_input_shape" not in keys else 2


def _keys(config: Any) -> Iterator[str]:
    if isinstance(config, dict):
        for key, value in config.items():
            yield key
            yield from _keys(value)
    elif isinstance(config, list):
        for item in config:
            yield from _keys(item)


def _is_convertible(config: dict[str, Any], group: h5py.Group) -> bool:
    version = _text(group.attrs.get("keras_version", "1"))
    return not version.startswith("1") and not _CUDNN & set(strings(config))


def _check_backend(path: Path, backend: str, config: dict[str, Any]) -> None:
    if backend == "theano" and any(_CONVOLUTIONS in text for text in strings(config)):
        raise ModelError(
            f"'{path}' was trained with Theano, which stores convolution kernels flipped. Open it "
            "with Keras 2.2 on TensorFlow, which turns them round, and save it again from there."
        )


def _checked(source: Source) -> Source:
    if not isinstance(source.config.get("class_name"), str):
        raise ModelError(f"'{source.path}' holds a configuration without a class_name.")
    return source


def _weights_only(path: Path, file: h5py.File) -> str:
    names = file.attrs.get("layer_names")
    count = f" of {len(names)} layers" if names is not None else ""
    known = names is not None or {"layers", "_layer_checkpoint_dependencies", "vars"} & set(file)
    if not known:
        return (
            f"'{path}' is an HDF5 file but not a Keras model: it has no model_config and no "
            f"layers; {KERAS_COPY}."
        )
    near = [item.name for item in sorted(path.parent.glob("*.json"))]
    stem = path.name.split(".")[0]
    example = next((name for name in near if name.split(".")[0] == stem), f"{stem}.json")
    return (
        f"'{path}' holds only weights{count}, without an architecture. Give the architecture too, "
        f"as model.to_json() writes it: load_model('{path.parent / example}', weights='{path}')."
    )


def _missing_weights(path: Path) -> str:
    stem = path.name.split(".")[0]
    near = [
        item.name
        for pattern in ("*.h5", "*.hdf5", "*.keras")
        for item in sorted(path.parent.glob(pattern))
        if item.name.split(".")[0] == stem
    ]
    example = near[0] if near else f"{stem}.h5"
    return (
        f"'{path}' is an architecture without weights. Give them too: load_model('{path}', "
        f"weights='{path.parent / example}')."
    )
