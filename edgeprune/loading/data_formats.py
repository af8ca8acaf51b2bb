"""Models that are told `channels_first`, rewritten to `channels_last` and proven equal.

The tensors inside move to channels last, each operation is stated in that order
(`edgeprune.tracing.layouts`), and weights turn with their axes. What is not known to work in
another order sees its tensors as before, between two layers that move axes. Inputs and outputs keep
theirs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from keras import layers

from edgeprune.errors import ModelError
from edgeprune.loading.comparisons import (
    HALF_PRECISION,
    answer_in_full,
    computes_in_half,
    draw_inputs,
    relative_difference,
)
from edgeprune.support.printable import one_line
from edgeprune.tracing.graph import arrange_inputs, map_structure, nodes_in_order
from edgeprune.tracing.layouts import (
    Layout,
    Placement,
    Site,
    find_channels_first,
    has_elementwise_activation,
    place_call,
    place_channels_first,
    plain,
)
from edgeprune.tracing.opening import functional_form, is_model
from edgeprune.tracing.replica import rebuild, renew_input, reproduce, set_weights

TOLERANCE = 1e-4

Place = Callable[[Site], Placement | None]


def move_channels_last(model: keras.Model) -> keras.Model:
    """Return an equal model whose layers are all `channels_last`; itself if they are already.

    Layers keep their names. Where the output of a layer is one of the model's, the name goes to
    what moves its axes back, so that outputs keep theirs.

    Raises:
        ModelError: a layer cannot be stated in the other order and cannot run in its own here, or
            the rewritten model computes something else.
    """
    first = find_channels_first(model)
    if not first:
        return model
    left: dict[str, keras.Operation] = {}
    try:
        rewritten = rewrite(model)
        left = find_channels_first(rewritten)
        inputs = draw_inputs(model)
        found = answer_in_full(rewritten, inputs)
        expected = [answer_in_full(rewrite(model, alone=True), inputs)]
    except ModelError:
        raise
    except Exception as error:  # of Keras or the backend, on a model that nobody knows
        path, operation = next(iter((left or first).items()))
        line = one_line(error)
        if left:
            line = "it has no channels_last form, and does not run in its own here"
        raise ModelError(
            f"Layer '{path}' ({type(operation).__name__}) of model '{model.name}' is "
            f"channels_first and cannot be moved to channels_last: {line}. Build the model "
            "with channels_last layers and copy the weights."
        ) from error
    if not _misplaces_biases(first):
        expected += _answer_if_possible(model, inputs)
    worst = max(
        relative_difference(one, other)
        for outputs in expected
        for one, other in zip(found, outputs, strict=True)
    )
    allowed = HALF_PRECISION if computes_in_half(model) else TOLERANCE
    if not worst < allowed:
        raise ModelError(
            f"Model '{model.name}' is channels_first and, rewritten to channels_last, differs by "
            f"{worst:.1e} of its largest output (allowed: {allowed:.0e}). Build the model with "
            "channels_last layers, and report it."
        )
    return rewritten


def rewrite(model: keras.Model, *, alone: bool = False) -> keras.Model:
    """Return the model in channels last.

    Args:
        model: of any order.
        alone: move axes before and after each `channels_first` layer and leave everything else as
            it is: slow, plain, and what the other way is compared with.
    """
    rewriter = _Rewriter(alone)
    made, _ = rewriter.build(model, [plain(len(x.shape)) for x in functional_form(model).inputs])
    rewriter.fill()
    return made


def _place(site: Site) -> Placement | None:
    return place_channels_first(site) or place_call(site)


class _Value:
    """A tensor in every order of axes in which it has been made."""

    def __init__(self, tensor: Any, layout: Layout, name: str = "") -> None:
        self.forms = {layout: tensor}
        self.layout = layout
        self.name = name


class _Scope:
    """The names of one model, and how its tensors change their order."""

    def __init__(self, model: keras.Model, is_top: bool) -> None:
        form = functional_form(model)
        self.names = {operation.name for operation in form.operations}
        ends = [tensor._keras_history.operation for tensor in form.outputs]
        self.ends = {id(operation) for operation in ends} if is_top else set()
        self._claimed: set[str] = set()

    def name(self, wanted: str) -> str:
        """Return a name that nothing has yet."""
        made, count = wanted, 0
        while made in self.names:
            count += 1
            made = f"{wanted}_{count}"
        self.names.add(made)
        return made

    def give(self, value: _Value, layout: Layout) -> Any:
        """Return a tensor in the order that is asked for."""
        if layout not in value.forms:
            value.forms[layout] = self._convert(value, layout)
        return value.forms[layout]

    def _convert(self, value: _Value, layout: Layout) -> Any:
        tensor, given = value.forms[value.layout], value.layout
        dims = [given.axes.index(axis) for axis in layout.axes] if not given.flattened else []
        if given.flattened:
            tensor = self._layer(
                layers.Reshape, tensor, [given.flattened[a - 1] for a in given.axes[1:]]
            )
            dims = [given.axes.index(axis) for axis in range(len(given.axes))]
        elif layout.flattened:
            tensor = self._layer(layers.Reshape, self.give(value, plain(2)), layout.flattened)
            dims = list(layout.axes)
        flat = bool(given.flattened or layout.flattened)
        name = value.name if layout.is_plain and value.name not in self._claimed else ""
        self._claimed.add(name)
        if dims != sorted(dims):
            tensor = self._layer(layers.Permute, tensor, dims[1:], "" if flat else name)
        return self._layer(layers.Reshape, tensor, (-1,), name) if flat else tensor

    def _layer(self, kind: Any, tensor: Any, argument: Sequence[int], name: str = "") -> Any:
        dtype = tensor.dtype if "float" in tensor.dtype else None
        base = "move_axes" if kind is layers.Permute else "reshape"
        return kind(tuple(argument), name=name or self.name(base), dtype=dtype)(tensor)


class _Rewriter:
    def __init__(self, alone: bool) -> None:
        self.alone = alone
        self.place: Place = place_channels_first if alone else _place
        self._new: dict[int, Any] = {}
        self._placements: dict[int, Placement | None] = {}
        self._nested: dict[int, tuple[Sequence[Layout], Sequence[Layout]]] = {}
        self._filled: list[tuple[keras.Layer, keras.Layer, Placement | None]] = []

    def fill(self) -> None:
        """Give the new layers the weights of the old ones, and whether they are trained."""
        for old, new, placement in self._filled:
            weights = old.get_weights()
            if weights:
                set_weights(new, placement.weights(weights) if placement else weights)
            new.trainable = old.trainable

    def build(
        self, model: keras.Model, given: Sequence[Layout], is_top: bool = True
    ) -> tuple[keras.Model, list[Layout]]:
        """Return a model whose inputs lie in these orders, and the orders of its outputs."""
        form = functional_form(model)
        scope = _Scope(model, is_top)
        values: dict[int, _Value] = {}
        inputs = {}
        for old, layout in zip(form.inputs, given, strict=True):
            inputs[id(old)] = renew_input(old, [old.shape[axis] for axis in layout.axes])
            values[id(old)] = _Value(inputs[id(old)], layout)
        for node in nodes_in_order(form):
            call = self._call_model if is_model(node.operation) else self._call
            made = call(node, [values[id(tensor)] for tensor in node.input_tensors], scope)
            values.update(zip(map(id, node.outputs), made, strict=True))
        ends = [values[id(tensor)] for tensor in form.outputs]
        makes = [
            plain(len(old.shape)) if is_top else value.layout
            for old, value in zip(form.outputs, ends, strict=True)
        ]
        outputs = {
            id(old): scope.give(value, layout)
            for old, value, layout in zip(form.outputs, ends, makes, strict=True)
        }
        made_model = keras.Model(
            map_structure(lambda old: inputs[id(old)], form._inputs_struct),
            map_structure(lambda old: outputs[id(old)], form._outputs_struct),
            name=model.name,
        )
        return made_model, makes

    def _call_model(self, node: Any, values: list[_Value], scope: _Scope) -> list[_Value]:
        operation = node.operation
        form = functional_form(operation)
        by_id = {id(old): value for old, value in zip(node.input_tensors, values, strict=True)}
        args, kwargs = node.arguments.fill_in(by_id)
        values = list(arrange_inputs(form, args, values))
        if id(operation) not in self._new:
            at = [value.layout for value in values]
            made, ends = self.build(operation, at, id(operation) in scope.ends)
            made.trainable = operation.trainable
            self._new[id(operation)], self._nested[id(operation)] = made, (at, ends)
        takes, makes = self._nested[id(operation)]
        tensors = [scope.give(value, layout) for value, layout in zip(values, takes, strict=True)]
        training = kwargs.get("training")
        structure = keras.tree.pack_sequence_as(form._inputs_struct, tensors)
        called = self._new[id(operation)](
            structure, **({} if training is None else {"training": training})
        )
        return [_Value(t, at) for t, at in zip(keras.tree.flatten(called), makes, strict=True)]

    def _call(self, node: Any, values: list[_Value], scope: _Scope) -> list[_Value]:
        operation = node.operation
        placement = self._placement(node, values)
        if placement is not None and placement.is_view:
            tensor, at = values[0].forms[values[0].layout], placement.makes[0]
            if id(operation) in scope.ends and at.is_plain:
                tensor = layers.Identity(name=operation.name, dtype=tensor.dtype)(tensor)
            return [_Value(tensor, at, operation.name)]
        takes = placement.takes if placement else [plain(len(t.shape)) for t in node.input_tensors]
        makes = placement.makes if placement else [plain(len(t.shape)) for t in node.outputs]
        is_moved = any(not at.is_plain for at in makes)
        split = is_moved and not has_elementwise_activation(operation)
        is_end = is_moved and id(operation) in scope.ends and not split
        if id(operation) not in self._new:
            renamed = is_end or split
            name = scope.name(f"{operation.name}_moved") if renamed else operation.name
            self._new[id(operation)] = self._make(operation, placement, name, split)
        tensors = {
            id(old): scope.give(value, layout)
            for old, value, layout in zip(node.input_tensors, values, takes, strict=True)
        }
        args, kwargs = node.arguments.fill_in(tensors)
        for where, argument in (placement.arguments if placement else {}).items():
            if isinstance(where, int):
                args = (*args[:where], argument, *args[where + 1 :])
            else:
                kwargs = {**kwargs, where: argument}
        if kwargs.get("mask", 0) is None:
            del kwargs["mask"]
        made = keras.tree.flatten(self._new[id(operation)](*args, **kwargs))
        end = operation.name if is_end else ""
        found = [_Value(t, at, end) for t, at in zip(made, makes, strict=True)]
        if split:
            activation = layers.Activation(
                operation.activation, name=operation.name, dtype=operation.dtype_policy
            )
            found = [
                _Value(
                    activation(scope.give(found[0], plain(len(makes[0].axes)))),
                    plain(len(makes[0].axes)),
                )
            ]
        if self.alone:
            found = [
                _Value(scope.give(v, plain(len(v.layout.axes))), plain(len(v.layout.axes)))
                for v in found
            ]
        return found

    def _placement(self, node: Any, values: list[_Value]) -> Placement | None:
        operation = node.operation
        known = self._placements.get(id(operation))
        if id(operation) in self._placements and (known is None or not known.is_free):
            return known
        arguments = {**dict(enumerate(node.arguments.args)), **node.arguments.kwargs}
        site = Site(
            operation,
            tuple(value.layout for value in values),
            tuple(tuple(tensor.shape) for tensor in node.input_tensors),
            tuple(tuple(tensor.shape) for tensor in node.outputs),
            {name: value for name, value in arguments.items() if not _holds_tensors(value)},
        )
        placement = self.place(site)
        if known is not None and placement is not None and not placement.is_free:
            placement = None
        self._placements.setdefault(id(operation), placement)
        return placement

    def _make(
        self, operation: Any, placement: Placement | None, name: str, split: bool
    ) -> keras.Operation:
        if isinstance(operation, layers.TimeDistributed) and is_model(operation.layer):
            return layers.TimeDistributed(
                rewrite(operation.layer, alone=self.alone), name=name, dtype=operation.dtype_policy
            )
        changes = dict(placement.config) if placement else {}
        if split:
            changes["activation"] = "linear"
        if name != operation.name:
            changes["name"] = name
        if changes:
            made = rebuild(name, operation, lambda config: config.update(changes))
        else:
            made = reproduce(name, operation)
        if isinstance(operation, keras.Layer):
            self._filled.append((operation, made, placement))
        return made


def _holds_tensors(value: Any) -> bool:
    return any(isinstance(one, keras.KerasTensor) for one in keras.tree.flatten(value))


def _misplaces_biases(first: dict[str, keras.Operation]) -> bool:
    """Whether Keras 3.15 on TensorFlow may add a bias along the width: the filters are as many."""
    return keras.backend.backend() == "tensorflow" and any(
        tensor.shape[-1] in (None, bias.shape[0])
        for operation in first.values()
        if (bias := getattr(operation, "bias", None)) is not None
        for node in operation._inbound_nodes
        for tensor in node.outputs
    )


def _answer_if_possible(model: keras.Model, inputs: list[np.ndarray]) -> list[list[np.ndarray]]:
    """Ask the original where the backend runs it."""
    try:
        return [answer_in_full(model, inputs)]
    except Exception:  # the very reason for rewriting it
        return []
