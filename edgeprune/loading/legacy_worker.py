"""The other side of a legacy load: a process with tf_keras, which opens old files as meant.

Started as `python -P -m edgeprune.loading.legacy_worker`; reads one JSON request per line, answers
with one JSON line each. Arrays travel as .npz files, never as pickles. Every configuration has
been checked by the process that asks.
"""

from __future__ import annotations

import json
import math
import os
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

SAMPLES = 2
WATCHED_VALUES = 50_000_000
SAMPLED_VALUES = 512
_UNKNOWN_SIZES = (64, 128, 256)


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """Do what a request asks: describe a SavedModel, or a model with its weights.

    Args:
        request: `{"saved_model": path}`, or the arguments of `LegacyProcess.open` and the folder
            for the arrays.
    """
    if "saved_model" in request:
        return saved_model_configuration(Path(request["saved_model"]))
    model = _open(request)
    if request.get("exact_config"):
        model = _twin(model, request["exact_config"])
    return describe(model, Path(request["folder"]), bool(request.get("with_weights")))


def describe(model: Any, folder: Path, with_weights: bool) -> dict[str, Any]:
    """Write a tf_keras model's weights, and its outputs on fixed random inputs, as .npz files."""
    if with_weights:
        paths, arrays = [], {}
        for number, (path, layer) in enumerate(leaves(model)):
            paths.append(path)
            arrays.update({f"{number}/{i}": w for i, w in enumerate(layer.get_weights())})
        np.savez(folder / "weights.npz", **arrays)
    else:
        paths = []
    try:
        inputs, outputs, layers = evaluate(model)
    except Exception as error:
        return {"paths": paths, "problem": _first_line(error)}
    np.savez(folder / "inputs.npz", **{str(i): x for i, x in enumerate(inputs)})
    np.savez(folder / "outputs.npz", **{str(i): x for i, x in enumerate(outputs)})
    np.savez(folder / "layers.npz", **{str(i): x for i, x in enumerate(layers.values())})
    return {"paths": paths, "layers": list(layers)}


def leaves(model: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield the layers of a tf_keras model that hold weights themselves, with the way to each."""
    for layer in model.layers:
        yield from _leaves_of(layer, (*path, layer.name))


def _leaves_of(layer: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    if hasattr(layer, "layers"):
        yield from leaves(layer, path)
    elif hasattr(layer, "forward_layer"):
        yield from _leaves_of(layer.forward_layer, (*path, "forward_layer"))
        yield from _leaves_of(layer.backward_layer, (*path, "backward_layer"))
    elif hasattr(layer, "layer"):
        yield from _leaves_of(layer.layer, (*path, "layer"))
    elif layer.weights:
        yield path, layer


def evaluate(model: Any) -> tuple[list[Any], list[Any], dict[str, Any]]:
    """Give fixed inputs, the outputs, and samples of the output of each plain layer by name."""
    import tensorflow as tf
    import tf_keras

    probes = {layer.name: layer.output for layer in _watched_layers(model)}
    watched = tf_keras.Model(model.inputs, [*model.outputs, *probes.values()])
    parts = model._flatten_layers(include_self=False)
    if any(getattr(part, "data_format", "") == "channels_first" for part in parts):
        watched = tf.function(watched, jit_compile=True)  # XLA convolves these on every CPU
    for size in _UNKNOWN_SIZES:
        inputs = random_inputs([(tuple(x.shape), x.dtype.name) for x in model.inputs], size)
        try:
            with tf.device("/CPU:0"):
                values = [np.asarray(x) for x in tf.nest.flatten(watched(inputs, training=False))]
        except (ValueError, tf.errors.InvalidArgumentError):
            if size == _UNKNOWN_SIZES[-1]:
                raise
            continue
        break
    count = len(model.outputs)
    samples = [sample(value) for value in values[count:]]
    return inputs, values[:count], dict(zip(probes, samples, strict=True))


def _watched_layers(model: Any) -> list[Any]:
    """Choose the layers called once whose outputs fit into memory together, smallest first."""
    sizes = {}
    for layer in model.layers:
        if len(layer.inbound_nodes) == 1 and not hasattr(layer, "layers"):
            shape = getattr(layer.output, "shape", None)
            if shape is not None and shape.rank is not None:
                unknown = _UNKNOWN_SIZES[-1] if None in shape[1:] else 1
                sizes[layer] = SAMPLES * math.prod(size or unknown for size in shape[1:])
    chosen, total = [], 0
    for layer in sorted(sizes, key=sizes.__getitem__):
        total += sizes[layer]
        if total > WATCHED_VALUES:
            break
        chosen.append(layer)
    return [layer for layer in model.layers if layer in chosen]


def random_inputs(specifications: list[tuple[tuple[Any, ...], str]], size: int) -> list[Any]:
    """Draw the inputs of a comparison: half of the samples in -1..1, half in 0..16.

    Larger values would drive most networks into saturation, where nothing is compared.


    Args:
        specifications: shape with the batch first, and dtype, of each input.
        size: stands for every other dimension that is None.
    """
    generator = np.random.default_rng(20181)
    inputs = []
    for shape, dtype in specifications:
        full = (shape[0] or SAMPLES, *(size if d is None else d for d in shape[1:]))
        if np.issubdtype(np.dtype(dtype), np.integer):
            inputs.append(generator.integers(0, 2, full).astype(dtype))
            continue
        values = generator.uniform(-1, 1, full)
        values[full[0] // 2 :] = generator.uniform(0, 16, values[full[0] // 2 :].shape)
        inputs.append(values.astype(dtype))
    return inputs


def sample(values: np.ndarray) -> np.ndarray:
    """Take evenly spaced values of an array, the same ones for every array of its shape."""
    flat = values.reshape(-1)
    return flat[:: max(1, flat.size // SAMPLED_VALUES)]


def _open(request: dict[str, Any]) -> Any:
    import tf_keras

    model = tf_keras.models.model_from_json(json.dumps(request["config"]))
    if request["layout"] == "tree":
        with np.load(request["weights"], allow_pickle=False) as arrays:
            layers = {path: layer for path, layer in leaves(model)}
            for number, path in enumerate(request["paths"]):
                layer = layers[tuple(path)]
                layer.set_weights([arrays[f"{number}/{i}"] for i in range(len(layer.weights))])
        return model
    status = model.load_weights(request["weights"])
    if request["layout"] == "checkpoint":
        status.expect_partial()
        status.assert_existing_objects_matched()
    return model


def _twin(model: Any, config: dict[str, Any]) -> Any:
    import tf_keras

    twin = tf_keras.models.model_from_json(json.dumps(config))
    twin.set_weights(model.get_weights())
    return twin


def saved_model_configuration(folder: Path) -> dict[str, Any]:
    """Read the Keras part of a SavedModel, as data: no graph is loaded.

    Returns:
        `{"config": ..., "identifier": ...}` of the root, both None when it holds no Keras model.
    """
    from tensorflow.core.protobuf import saved_model_pb2
    from tf_keras.protobuf import saved_metadata_pb2

    metadata = folder / "keras_metadata.pb"
    if metadata.exists():  # TensorFlow 2.5 and later
        saved = saved_metadata_pb2.SavedMetadata.FromString(metadata.read_bytes())
        nodes = [(node.node_path, node.identifier, node.metadata) for node in saved.nodes]
    else:
        proto = saved_model_pb2.SavedModel.FromString((folder / "saved_model.pb").read_bytes())
        objects = proto.meta_graphs[0].object_graph_def.nodes if proto.meta_graphs else []
        nodes = [
            ("root" if number == 0 else "", node.user_object.identifier, node.user_object.metadata)
            for number, node in enumerate(objects)
        ]
    for path, identifier, text in nodes:
        if path == "root" and identifier.startswith("_tf_keras_") and text:
            root = json.loads(text)
            config = {"class_name": root["class_name"], "config": root.get("config")}
            return {"config": config, "identifier": identifier}
    return {"config": None, "identifier": None}


def _first_line(error: BaseException) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0]


def main() -> None:
    """Serve requests until standard input ends."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print must not mix with the answers
    try:
        import tf_keras  # noqa: F401

        hello: dict[str, Any] = {"ready": True}
    except ImportError as error:
        hello = {"problem": _first_line(error)}
    print(json.dumps(hello), file=answers, flush=True)
    for line in sys.stdin:
        try:
            reply = answer(json.loads(line))
        except Exception as error:
            traceback.print_exc()
            reply = {"problem": _first_line(error), "failed": True}
        print(json.dumps(reply), file=answers, flush=True)


if __name__ == "__main__":
    main()
