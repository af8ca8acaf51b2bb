"""Models written as classes, followed once with symbolic inputs to get the graph they compute."""

from __future__ import annotations

import inspect
from typing import Any

import keras
import numpy as np

from edgeprune.errors import ModelError
from edgeprune.support.printable import one_line
from edgeprune.tracing.keras_internals import Functional
from edgeprune.tracing.layouts import channels_first_problem

_TOLERANCE = 1e-5
_UNKNOWN_SIZE = 64


def as_graph(model: keras.Model) -> keras.Model:
    """Return a model that has a graph of layers: itself, or the graph its `call` walks through.

    The layers and weights of a traced model are the original ones.

    Raises:
        ModelError: the model has no input shape yet, or its `call` does more than call layers.
    """
    if isinstance(model, Functional):
        return model
    if isinstance(model, keras.Sequential):
        if not getattr(model, "_functional", None):
            raise ModelError(_not_built(model))
        return model
    return _traced(model)


def _traced(model: keras.Model) -> keras.Model:
    inputs = _symbolic_inputs(model)
    arguments = {"training": None} if "training" in inspect.signature(model.call).parameters else {}
    try:
        outputs = model.call(inputs, **arguments)
        graph = keras.Model(inputs, outputs, name=model.name)
    except Exception as error:
        raise ModelError(_not_followed(model, one_line(error))) from error
    missing = {id(weight) for weight in model.weights} - {id(weight) for weight in graph.weights}
    if missing:
        raise ModelError(
            f"{_named(model)} is written as a class with weights ({len(missing)}) that the graph "
            f"of its layers does not reach. {_WAY_OUT}"
        )
    _check_same(model, graph)
    return graph


_WAY_OUT = (
    "Build keras.Model(inputs, outputs) from keras.Input and its layers, copy the weights with "
    "set_weights(model.get_weights()), and give that model."
)


def _symbolic_inputs(model: keras.Model) -> Any:
    shapes = model.get_build_config() if model.built else None
    if not shapes or "input_shape" not in shapes:
        reason = "its input shape is not recorded" if model.weights else ""
        raise ModelError(_not_followed(model, reason) if reason else _not_built(model))
    return _map_shapes(
        shapes["input_shape"], lambda shape: keras.Input(batch_shape=(None, *shape[1:]))
    )


def _check_same(model: keras.Model, graph: keras.Model) -> None:
    generator = np.random.default_rng(20181)

    def draw(tensor: Any) -> np.ndarray:
        shape = [2, *(size or _UNKNOWN_SIZE for size in tensor.shape[1:])]
        return generator.normal(size=shape).astype("float32")

    values = keras.tree.map_structure(draw, graph.input)
    if problem := channels_first_problem(graph):
        raise ModelError(
            f"{_named(model)} is written as a class, which is run once to be compared with its "
            f"graph. {problem.split('. edgeprune')[0]}. {_WAY_OUT}"
        )
    with keras.device("cpu:0"):
        expected = keras.tree.flatten(model(values, training=False))
        found = keras.tree.flatten(graph(values, training=False))
    for ours, theirs in zip(found, expected, strict=True):
        theirs = keras.ops.convert_to_numpy(theirs)
        difference = np.max(np.abs(keras.ops.convert_to_numpy(ours) - theirs))
        scale = np.max(np.abs(theirs)) or 1.0
        if not difference < _TOLERANCE * scale:
            raise ModelError(
                f"{_named(model)} is written as a class; the graph of its layers differs from it "
                f"by {difference / scale:.1e} of the largest output (allowed: {_TOLERANCE:.0e}), "
                f"so its call() does more than the graph shows. {_WAY_OUT}"
            )


def _map_shapes(shape: Any, function: Any) -> Any:
    if isinstance(shape, dict):
        return {key: _map_shapes(item, function) for key, item in shape.items()}
    if shape and isinstance(shape[0], list | tuple | dict):
        return [_map_shapes(item, function) for item in shape]
    return function(tuple(shape))


def _not_followed(model: keras.Model, reason: str) -> str:
    return (
        f"{_named(model)} is written as a class whose call() cannot be followed with symbolic "
        f"inputs: {reason}. {_WAY_OUT}"
    )


def _named(model: keras.Model) -> str:
    return f"Model '{model.name}' ({type(model).__name__})"


def _not_built(model: keras.Model) -> str:
    return (
        f"{_named(model)} has no input shape yet, so its layers have no weights. Call it once on a "
        "sample, or begin it with keras.Input(shape)."
    )
