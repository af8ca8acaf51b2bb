"""Build a new model over the graph of another one: what surgery, logits and copies are made with.

Nested models stay nested, names and signatures stay. `keras.models.clone_model` would rename the
inputs, which changes the signature of a later `.tflite`, and keep `keras.ops` nodes as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from edgeprune.errors import ModelError
from edgeprune.support.printable import one_line
from edgeprune.tracing.graph import arrange_inputs, build_graph, map_structure, nodes_in_order
from edgeprune.tracing.keras_internals import Functional, Node
from edgeprune.tracing.opening import functional_form, is_model, repeats_over_time
from edgeprune.tracing.outputs import ending_of, last_call

Make = Callable[[str, keras.Operation], keras.Operation]
Arguments = tuple[tuple[Any, ...], dict[str, Any]]
Adapt = Callable[[str, int, Arguments], Arguments]


@dataclass(frozen=True)
class Detour:
    """What takes the place of a call that loses inputs.

    Attributes:
        inputs: which of the call's tensors stay. With none the call is left out, and with it what
            it makes; a single one is handed on as it is; several are given to the operation.
        then: layers that the result goes through.
    """

    inputs: tuple[int, ...] = ()
    then: tuple[keras.Layer, ...] = ()


Reroute = Callable[[str, int], Detour | None]
"""From `(path, which of its calls)` to what takes its place; a nested model counts as call 0."""


def reproduce(path: str, operation: keras.Operation) -> keras.Operation:
    """Return a new operation with the same config and no weights yet.

    Raises:
        ModelError: the operation cannot be made from its config.
    """
    return rebuild(path, operation, None)


def rebuild(
    path: str, operation: keras.Operation, change: Callable[[dict[str, Any]], None] | None
) -> keras.Operation:
    """Return a new operation from the config of another one.

    Args:
        path: names the operation in errors.
        operation: what to make anew; it is not changed.
        change: adapts the config in place.

    Raises:
        ModelError: the operation has no config that it can be made from.
    """
    if isinstance(operation, keras.layers.Lambda):
        return _copy_lambda(operation)
    try:
        config = _unbuilt(operation.get_config())
        if change is not None:
            change(config)
        return type(operation).from_config(config)
    except Exception as error:  # get_config and from_config of custom layers are users' code
        if change is None and not isinstance(operation, keras.Layer):
            return _copy_node(operation)
        raise ModelError(
            f"Layer '{path}' ({type(operation).__name__}) cannot be built again from its config: "
            f"{one_line(error)}. Expected get_config() to return every argument of the constructor."
        ) from error


def _unbuilt(config: Any) -> Any:
    """Leave out what would build wrapped layers for the old input shape."""
    if isinstance(config, dict):
        return {key: _unbuilt(value) for key, value in config.items() if key != "build_config"}
    return [_unbuilt(value) for value in config] if type(config) is list else config


def _copy_lambda(layer: keras.layers.Lambda) -> keras.layers.Lambda:
    """Copy a Lambda of a living model: its config would hold bytecode."""
    return keras.layers.Lambda(
        layer.function,
        output_shape=layer._output_shape,
        mask=layer.mask,
        arguments=dict(layer.arguments),
        name=layer.name,
        dtype=layer.dtype_policy,
    )


def _copy_node(operation: keras.Operation) -> keras.Operation:
    """Copy a `keras.ops` node that Keras itself could not save: arrays in its constructor."""
    made = object.__new__(type(operation))
    made.__dict__.update(operation.__dict__, _inbound_nodes=[], _outbound_nodes=[])
    return made


def replicate(
    model: keras.Model,
    make: Make = reproduce,
    adapt: Adapt | None = None,
    *,
    reroute: Reroute | None = None,
    shapes: Sequence[Sequence[int | None]] | None = None,
    inside: bool = True,
) -> tuple[keras.Model, dict[str, keras.Operation]]:
    """Build a new model with the same graph, from new operations.

    Subclassed models, and custom layers made of layers, become nested functional models.

    Args:
        model: a Functional or Sequential model; it is not changed.
        make: gives the new operation for `(path, operation)`; its weights are freshly initialised.
        adapt: gives the new arguments for `(path, which of its calls, (args, kwargs))`.
        reroute: says which calls lose inputs, or are left out.
        shapes: of the new inputs, batch included; those of the old ones if not given.
        inside: whether nested models get the sizes of their first call where theirs are open.

    Returns:
        The new model, and its operations by path.
    """
    replica = _Replica(make, adapt, reroute, shapes is not None, inside)
    made = replica.build(model, "", shapes or [x.shape for x in functional_form(model).inputs])
    for path, operation in operations_by_path(model).items():
        if isinstance(operation, keras.Layer) and path in replica.made:
            replica.made[path].trainable = operation.trainable
    return made, replica.made


def copy_weights(source: keras.Model, made: Mapping[str, keras.Operation]) -> None:
    """Set the weights of replicated operations to those of the model they came from."""
    for path, operation in operations_by_path(source).items():
        if isinstance(operation, keras.Layer) and operation.weights and path in made:
            set_weights(made[path], operation.get_weights())


def set_weights(layer: keras.Layer, weights: Sequence[np.ndarray]) -> None:
    """Set the weights of a layer, and what it derives from them.

    Normalization computes with a copy of its weights, which `Layer.set_weights` leaves as it was.
    """
    layer.set_weights(weights)
    if hasattr(layer, "finalize_state"):
        layer.finalize_state()


def duplicate(model: keras.Model) -> keras.Model:
    """Return an equal model that shares nothing with the given one."""
    copy, made = replicate(model)
    copy_weights(model, made)
    return copy


def with_any_batch(model: keras.Model) -> keras.Model:
    """Return the model, or an equal one for batches of any size where a call on data fixed one."""
    return duplicate(model) if _has_needless_batch(model) else model


def _has_needless_batch(model: keras.Model) -> bool:
    """Whether a Sequential model, which keeps the batch it was first called on, can do without."""
    return (
        isinstance(model, keras.Sequential)
        and any(tensor.shape[0] is not None for tensor in getattr(model, "inputs", ()))
        and not any(getattr(layer, "stateful", False) for layer in model._flatten_layers())
    )


def operations_by_path(model: keras.Model) -> dict[str, keras.Operation]:
    """Return every operation that is called inside a model, nested models opened, by path.

    What is called in several places has the path of the first. What a TimeDistributed repeats
    stands in its place.
    """
    found: dict[str, keras.Operation] = {}
    _collect_operations(model, "", found, set())
    return found


def _collect_operations(
    model: keras.Model, prefix: str, found: dict[str, keras.Operation], met: set[int]
) -> None:
    for node in nodes_in_order(functional_form(model)):
        operation = node.operation
        if id(operation) in met:
            continue
        met.add(id(operation))
        path = prefix + operation.name
        inside = operation
        while repeats_over_time(inside):
            inside = inside.layer
        if inside is not operation and id(inside) in met:
            continue
        met.add(id(inside))
        operation = inside
        if is_model(operation):
            _collect_operations(operation, path + "/", found, met)
        else:
            found[path] = operation


def renew_input(tensor: keras.KerasTensor, shape: Sequence[int | None]) -> keras.KerasTensor:
    """Return a new input like another one, of a shape of its own with the batch axis."""
    layer = tensor._keras_history.operation
    made = type(layer).from_config(layer.get_config() | {"batch_shape": tuple(shape)}).output
    made.name = tensor.name
    return made


class _Replica:
    def __init__(
        self, make: Make, adapt: Adapt | None, reroute: Reroute | None, fills: bool, inside: bool
    ) -> None:
        self.make = make
        self.adapt = adapt
        self.reroute = reroute
        self.fills = fills
        self.inside = inside
        self.made: dict[str, keras.Operation] = {}
        self._new: dict[int, Any] = {}
        self._paths: dict[int, str] = {}
        self._calls_of: dict[str, int] = {}

    def build(self, model: keras.Model, prefix: str, shapes: Sequence[Any]) -> keras.Model:
        form = functional_form(model)
        if _has_needless_batch(model):
            shapes = [(None, *shape[1:]) for shape in shapes]
        fills, self.fills = self.fills, self.fills and self.inside
        inputs = [
            renew_input(
                tensor,
                [
                    None if old is None and not fills else new
                    for old, new in zip(tensor.shape, shape, strict=True)
                ],
            )
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

    def _build_sequential(
        self, model: keras.Sequential, prefix: str, tensor: keras.KerasTensor
    ) -> keras.Model:
        layers: list[Any] = [tensor._keras_history.operation]
        for layer in model.layers:
            shapes = []
            if is_model(layer) or repeats_over_time(layer):
                so_far = keras.Sequential(layers)
                shapes = [so_far.outputs[0].shape if len(layers) > 1 else tensor.shape]
            layers.append(self._new_operation(layer, prefix, shapes))
        new_model = keras.Sequential(layers, name=model.name)
        new_model.trainable = model.trainable
        return new_model

    def _connect(self, form: Functional, prefix: str, values: dict[int, Any]) -> None:
        for node in nodes_in_order(form):
            operation = node.operation
            path = self._paths.setdefault(id(operation), prefix + operation.name)
            position = 0 if is_model(operation) else self._count(path)
            detour = None if self.reroute is None else self.reroute(path, position)
            if detour is not None:
                outputs = self._take(detour, node, prefix, values)
                values.update(zip(map(id, node.outputs), outputs, strict=bool(outputs)))
                continue
            args, kwargs = node.arguments.fill_in(values)
            tensors = tuple(values[id(tensor)] for tensor in node.input_tensors)
            if is_model(operation):
                tensors = arrange_inputs(functional_form(operation), args, tensors)
            new = self._new_operation(operation, prefix, [tensor.shape for tensor in tensors])
            if is_model(operation):
                training = kwargs.get("training")
                given = tensors[0] if len(tensors) == 1 else list(tensors)
                if isinstance(operation, Functional):
                    given = keras.tree.pack_sequence_as(operation._inputs_struct, tensors)
                outputs = new(given) if training is None else new(given, training=training)
            else:
                if self.adapt is not None:
                    args, kwargs = self.adapt(path, position, (args, kwargs))
                if kwargs.get("mask", 0) is None:
                    del kwargs["mask"]
                outputs = new(*args, **kwargs)
            values.update(zip(map(id, node.outputs), keras.tree.flatten(outputs), strict=True))

    def _count(self, path: str) -> int:
        position = self._calls_of.get(path, 0)
        self._calls_of[path] = position + 1
        return position

    def _take(self, detour: Detour, node: Node, prefix: str, values: dict[int, Any]) -> list[Any]:
        """Return what a call makes of the inputs that it keeps."""
        if not detour.inputs:
            return []
        tensors = [values[id(node.input_tensors[index])] for index in detour.inputs]
        result = tensors[0]
        if len(tensors) > 1:
            new = self._new_operation(node.operation, prefix, [tensor.shape for tensor in tensors])
            result = new(tensors)
        for layer in detour.then:
            result = layer(result)
            self.made[prefix + layer.name] = layer
        return [result]

    def _new_operation(
        self, operation: Any, prefix: str, shapes: Sequence[Any], path: str = ""
    ) -> Any:
        key = id(operation)
        if key in self._new:
            return self._new[key]
        path = self._paths[key] = path or prefix + operation.name
        if repeats_over_time(operation):
            steps = [(shape[0], *shape[2:]) for shape in shapes]
            inside = self._new_operation(operation.layer, prefix, steps, path)
            policy, old, new = operation.dtype_policy, *map(_policy, (operation.layer, inside))
            made = keras.layers.TimeDistributed(
                inside, name=operation.name, dtype=policy if new.name == old.name else new
            )
        elif is_model(operation):
            made = self.build(operation, path + "/", shapes)
        else:
            made = self.made[path] = self.make(path, operation)
        self._new[key] = made
        return made


def _policy(layer: Any) -> Any:
    """Return the types that a layer works with, or the last one of a model."""
    while isinstance(layer, (Functional, keras.Sequential)):
        layer = layer.layers[-1]
    return layer.dtype_policy


def replace_softmax(model: keras.Model) -> keras.Model:
    """Return a copy that ends in logits: a final softmax or sigmoid becomes linear.

    Softmax hides differences between logits and is blind to their common offset, so models are
    compared without it. A model that ends otherwise is returned as an equal copy. What counts as
    the end is what `output_kinds` finds.
    """
    graph = build_graph(model)
    calls = [last_call(graph, ref) for ref in graph.outputs]
    ends = {id(call.operation) for call in calls if call and ending_of(call.operation) != "linear"}

    def make(path: str, operation: keras.Operation) -> keras.Operation:
        if id(operation) not in ends:
            return reproduce(path, operation)
        if not hasattr(operation, "activation"):
            return keras.layers.Activation("linear", name=operation.name)
        return type(operation).from_config(operation.get_config() | {"activation": "linear"})

    copy, made = replicate(model, make)
    copy_weights(model, made)
    return copy
