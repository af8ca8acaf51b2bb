"""What is inside a model: its functional graph, found by following its code where it has none.

Subclassed models, and custom layers made of other layers, are opened by calling them on symbolic
tensors. That works for code written with Keras layers and `keras.ops`.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from typing import Any

import keras

from edgeprune.errors import ModelError
from edgeprune.tracing.keras_internals import Functional

Shape = tuple[int | None, ...]


class MergeTime(keras.Operation):
    """Make every step of a sequence a sample: what goes into the layer of a TimeDistributed."""

    def call(self, x: Any) -> Any:
        """Take `(batch, time, ...)`, return `(batch * time, ...)`."""
        batch, steps = x.shape[:2]
        count = batch * steps if batch and steps else -1
        return keras.ops.reshape(x, (count, *keras.ops.shape(x)[2:]))

    def compute_output_spec(self, x: Any) -> keras.KerasTensor:
        """Leave the number of samples open, unless it is known."""
        batch, steps = x.shape[:2]
        return keras.KerasTensor(
            (batch * steps if batch and steps else None, *x.shape[2:]), x.dtype
        )


class SplitTime(keras.Operation):
    """Make sequences of samples again: what comes out of a TimeDistributed."""

    def call(self, x: Any, original: Any) -> Any:
        """Take `(batch * time, ...)` and what it was made of, return `(batch, time, ...)`."""
        steps = original.shape[1] or keras.ops.shape(original)[1]
        return keras.ops.reshape(x, (-1, steps, *keras.ops.shape(x)[1:]))

    def compute_output_spec(self, x: Any, original: Any) -> keras.KerasTensor:
        """Take batch and time from the original."""
        return keras.KerasTensor((*original.shape[:2], *x.shape[1:]), x.dtype)


SEALED_TYPES: set[type] = set()
"""Layer types that have a channel rule of their own and are not opened."""
_OPENED: weakref.WeakKeyDictionary[keras.Layer, Functional | None] = weakref.WeakKeyDictionary()


def functional_form(model: keras.Layer) -> Functional:
    """Return the functional graph inside a model, or inside a layer made of layers.

    Raises:
        ModelError: the model has no graph: a Sequential that was never built, or a subclassed model
            whose Python code cannot be followed.
    """
    if isinstance(model, keras.Sequential):
        if model._functional is None:
            raise ModelError(
                f"Sequential model '{model.name}' has no input shape yet. Call it on data once, or "
                "add keras.Input(shape) as its first layer, and try again."
            )
        return model._functional
    if isinstance(model, Functional):
        return model
    opened = _open(model)
    if opened is None:
        raise ModelError(
            f"Model '{model.name}' ({type(model).__name__}) is subclassed, and its Python code "
            "cannot be followed. Call it on data once so that it knows its input shape, and write "
            "its call() with Keras layers and keras.ops only, without weights of its own; or build "
            "it as keras.Model(inputs, outputs) from inputs = keras.Input(shape)."
        )
    return opened


def is_model(operation: Any) -> bool:
    """Whether an operation has a graph inside: a nested model, or a custom layer made of layers."""
    if isinstance(operation, (Functional, keras.Sequential)):
        return True
    if not isinstance(operation, keras.Layer) or type(operation) in SEALED_TYPES:
        return False
    return _open(operation) is not None


def repeats_over_time(operation: Any) -> bool:
    """Whether an operation does with every step of a sequence what the layer inside it does."""
    return type(operation) is keras.layers.TimeDistributed


def _open(layer: keras.Layer) -> Functional | None:
    """Follow the Python code of a custom layer or model on symbolic tensors, once."""
    if not _is_made_of_layers(layer):
        return None
    if layer not in _OPENED:
        _OPENED[layer] = _follow(layer)
    return _OPENED[layer]


def _is_made_of_layers(layer: keras.Layer) -> bool:
    """Whether a layer is the user's own and all its weights belong to layers inside it."""
    if type(layer).__module__.partition(".")[0] == "keras" or not layer.built:
        return False
    inside = {id(weight) for part in layer._layers for weight in part.weights}
    return bool(inside) and all(id(weight) in inside for weight in layer.weights)


def _follow(layer: keras.Layer) -> Functional | None:
    inputs: list[keras.KerasTensor] = []

    def new_input(shape: Shape, dtype: str) -> keras.KerasTensor:
        name = f"input_{len(inputs)}"
        inputs.append(keras.Input(batch_shape=shape, dtype=dtype, name=name))
        return inputs[-1]

    def to_input(argument: Any) -> Any:
        if isinstance(argument, keras.KerasTensor):
            return new_input(argument.shape, argument.dtype)
        return argument

    def from_shapes(shapes: Any) -> Any:
        if isinstance(shapes, Mapping):
            return {name: from_shapes(shape) for name, shape in shapes.items()}
        if all(size is None or isinstance(size, int) for size in shapes):
            return new_input((None, *shapes[1:]), layer.input_dtype)
        return [from_shapes(shape) for shape in shapes]

    try:
        if layer._inbound_nodes:
            args, kwargs = layer._inbound_nodes[0].arguments.convert(to_input)
        else:
            args, kwargs = tuple(map(from_shapes, layer._build_shapes_dict.values())), {}
        return Functional(inputs, layer.call(*args, **kwargs), name=layer.name)
    except Exception:  # the user's own code, run on symbols: anything may come out of it
        return None
