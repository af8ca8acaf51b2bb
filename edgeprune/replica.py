"""Build a new model over the graph of another one: what surgery, logits and copies are made with.

Nested models stay nested, names and signatures stay. `keras.models.clone_model` would rename the
inputs, which changes the signature of a later `.tflite`, and keeps the configs of `keras.ops` nodes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras.src.models.functional import Functional

from edgeprune.graph import functional_form, is_model, map_structure, nodes_in_order

Make = Callable[[str, keras.Operation], keras.Operation]


def reproduce(path: str, operation: keras.Operation) -> keras.Operation:
    """Return a new operation with the same config and no weights yet."""
    return type(operation).from_config(operation.get_config())


def replicate(
    model: keras.Model, make: Make = reproduce
) -> tuple[keras.Model, dict[str, keras.Operation]]:
    """Build a new model with the same graph, from new operations.

    Args:
        model: a Functional or Sequential model; it is not changed.
        make: gives the new operation for `(path, operation)`; its weights are freshly initialised.

    Returns:
        The new model, and its operations by path.
    """
    replica = _Replica(make)
    return replica.build(model, "", [t.shape for t in model.inputs]), replica.made


def copy_weights(source: keras.Model, made: Mapping[str, keras.Operation]) -> None:
    """Set the weights of replicated operations to those of the model they came from."""
    for path, operation in operations_by_path(source).items():
        if isinstance(operation, keras.Layer) and operation.weights:
            made[path].set_weights(operation.get_weights())


def duplicate(model: keras.Model) -> keras.Model:
    """Return an equal model that shares nothing with the given one."""
    copy, made = replicate(model)
    copy_weights(model, made)
    return copy


def operations_by_path(model: keras.Model, prefix: str = "") -> dict[str, keras.Operation]:
    """Return every operation that is called inside a model, nested models opened, by path."""
    found: dict[str, keras.Operation] = {}
    for node in nodes_in_order(functional_form(model)):
        operation = node.operation
        path = prefix + operation.name
        if is_model(operation):
            found.update(operations_by_path(operation, path + "/"))
        else:
            found[path] = operation
    return found


class _Replica:
    def __init__(self, make: Make) -> None:
        self.make = make
        self.made: dict[str, keras.Operation] = {}
        self._new: dict[int, Any] = {}

    def build(self, model: keras.Model, prefix: str, shapes: Sequence[Any]) -> keras.Model:
        form = functional_form(model)
        inputs = [
            self._new_input(tensor, shape)
            for tensor, shape in zip(form.inputs, shapes, strict=True)
        ]
        if isinstance(model, keras.Sequential):
            return self._build_sequential(model, prefix, inputs[0])
        values = {id(old): new for old, new in zip(form.inputs, inputs, strict=True)}
        self._connect(form, prefix, values)

        def look_up(tensor: Any) -> Any:
            return values[id(tensor)]

        new_model = keras.Model(
            inputs=map_structure(look_up, form._inputs_struct),
            outputs=map_structure(look_up, form._outputs_struct),
            name=model.name,
        )
        new_model.trainable = model.trainable
        return new_model

    @staticmethod
    def _new_input(tensor: keras.KerasTensor, shape: Any) -> keras.KerasTensor:
        layer = tensor._keras_history.operation
        config = layer.get_config()
        sizes = zip(tensor.shape, shape, strict=True)
        config["batch_shape"] = tuple(None if old is None else new for old, new in sizes)
        return type(layer).from_config(config).output

    def _build_sequential(
        self, model: keras.Sequential, prefix: str, tensor: keras.KerasTensor
    ) -> keras.Model:
        layers: list[Any] = [tensor._keras_history.operation]
        for layer in model.layers:
            shapes = []
            if is_model(layer):
                so_far = keras.Sequential(layers)
                shapes = [so_far.output_shape if len(layers) > 1 else tensor.shape]
            layers.append(self._new_operation(layer, prefix, shapes))
        new_model = keras.Sequential(layers, name=model.name)
        new_model.trainable = model.trainable
        return new_model

    def _connect(self, form: Functional, prefix: str, values: dict[int, Any]) -> None:
        for node in nodes_in_order(form):
            args, kwargs = node.arguments.fill_in(values)
            if kwargs.get("mask", 0) is None:
                del kwargs["mask"]
            shapes = [values[id(t)].shape for t in node.input_tensors]
            outputs = self._new_operation(node.operation, prefix, shapes)(*args, **kwargs)
            values.update(
                zip(map(id, node.outputs), keras.tree.flatten(outputs), strict=True)
            )

    def _new_operation(self, operation: Any, prefix: str, shapes: Sequence[Any]) -> Any:
        key = id(operation)
        if key not in self._new:
            path = prefix + operation.name
            if is_model(operation):
                self._new[key] = self.build(operation, path + "/", shapes)
            else:
                self._new[key] = self.made[path] = self.make(path, operation)
        return self._new[key]


def replace_softmax(model: keras.Model) -> keras.Model:
    """Return a copy that ends in logits: a final softmax or sigmoid becomes linear.

    Softmax hides differences between logits and is blind to their common offset, so models are
    compared without it. A model that ends otherwise is returned as an equal copy.
    """
    form = functional_form(model)
    ends = {id(tensor._keras_history.operation) for tensor in form.outputs}

    def make(path: str, operation: keras.Operation) -> keras.Operation:
        if id(operation) in ends:
            activation = getattr(getattr(operation, "activation", None), "__name__", "")
            if isinstance(operation, keras.layers.Softmax):
                return keras.layers.Activation("linear", name=operation.name)
            if activation in ("softmax", "sigmoid"):
                config = operation.get_config() | {"activation": "linear"}
                return type(operation).from_config(config)
        return reproduce(path, operation)

    copy, made = replicate(model, make)
    copy_weights(model, made)
    return copy


def ends_in_softmax(model: keras.Model) -> bool:
    """Tell whether the only output of a model is a softmax."""
    ends = [tensor._keras_history.operation for tensor in functional_form(model).outputs]
    activation = getattr(getattr(ends[0], "activation", None), "__name__", "")
    return len(ends) == 1 and (activation == "softmax" or isinstance(ends[0], keras.layers.Softmax))


def count_weights(model: keras.Model) -> int:
    """Count the numbers stored in a model's weights (parameters, BatchNorm statistics included)."""
    return sum(int(np.prod(weight.shape)) for weight in model.weights)
