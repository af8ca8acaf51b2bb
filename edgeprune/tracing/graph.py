"""One flat list of calls for any Keras model: what tracing, costs and statistics walk over.

Nested models are inlined, a layer called twice appears twice, and what a TimeDistributed repeats
appears once, on samples that are steps of sequences (`MergeTime`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras

from edgeprune.tracing.keras_internals import Functional, Node
from edgeprune.tracing.opening import (
    MergeTime,
    SplitTime,
    functional_form,
    is_model,
    repeats_over_time,
)

Shape = tuple[int | None, ...]


@dataclass(frozen=True)
class TensorRef:
    """One tensor of the flat graph.

    Attributes:
        number: unique in the graph.
        shape: with the batch axis.
        dtype: its type.
        times: how many of it there are per sample of the model: steps of a sequence inside a
            TimeDistributed, NaN where these are open.
    """

    number: int
    shape: Shape
    dtype: str = "float32"
    times: float = 1.0

    @property
    def size(self) -> int:
        """Numbers per sample of the model; 64 stands for every size that is open."""
        times = 64 if math.isnan(self.times) else int(self.times)
        return times * math.prod(64 if size is None else size for size in self.shape[1:])


@dataclass(frozen=True)
class Call:
    """One call of one operation.

    Attributes:
        path: name of the operation, after the names of the models around it: `encoder/conv1`.
        operation: the layer or `keras.ops` operation that is called.
        args: positional arguments with `TensorRef`s in place of tensors.
        kwargs: keyword arguments, likewise.
        inputs: every `TensorRef` among the arguments, in order.
        outputs: the tensors it makes.
        position: which of the operation's calls this is, the same in every run of a nested model.
    """

    path: str
    operation: keras.Operation
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    inputs: tuple[TensorRef, ...]
    outputs: tuple[TensorRef, ...]
    position: int = 0

    @property
    def is_layer(self) -> bool:
        """Whether the operation is a layer (else a `keras.ops` node)."""
        return isinstance(self.operation, keras.Layer)

    @property
    def times(self) -> float:
        """How often it works per sample of the model, see `TensorRef`."""
        return self.outputs[0].times if self.outputs else 1.0


@dataclass(frozen=True)
class Graph:
    """Calls in an order in which they can be executed.

    Attributes:
        calls: every call, nested models inlined.
        inputs: the tensors that go into the model.
        outputs: the tensors that come out.
        entrances: for each input of a nested model, the tensors given to it, one per call of that
            model: they must keep one shape.
    """

    calls: tuple[Call, ...]
    inputs: tuple[TensorRef, ...]
    outputs: tuple[TensorRef, ...]
    entrances: tuple[tuple[TensorRef, ...], ...] = ()

    def last_uses(self) -> dict[int, int]:
        """Return, for each tensor number, the index of the last call that needs it."""
        last = {ref.number: len(self.calls) for ref in self.outputs}
        for index in range(len(self.calls) - 1, -1, -1):
            for ref in self.calls[index].inputs:
                last.setdefault(ref.number, index)
        return last

    def consumers(self) -> dict[int, list[Call]]:
        """Return, for each tensor number, the calls that take it."""
        found: dict[int, list[Call]] = {}
        for call in self.calls:
            for number in {ref.number for ref in call.inputs}:
                found.setdefault(number, []).append(call)
        return found


def nodes_in_order(model: Functional) -> Iterator[Node]:
    """Yield the call nodes of one functional model, inputs first, without its input layers."""
    for depth in sorted(model._nodes_by_depth, reverse=True):
        for node in model._nodes_by_depth[depth]:
            if not node.is_input:
                yield node


def layer_outputs(model: keras.Model) -> dict[str, keras.KerasTensor]:
    """Return the first tensor that each layer makes in a model's own graph, by the layer's name.

    `layer.output` may belong to another call: of a nested model it is the tensor inside.
    """
    found: dict[str, keras.KerasTensor] = {}
    for node in nodes_in_order(functional_form(model)):
        found.setdefault(node.operation.name, node.outputs[0])
    return found


def describe_graph(graph: Graph) -> list[Any]:
    """Return all that a model computes by, for a fingerprint: types, settings, wiring, weights.

    Names of layers do not count: Keras numbers them anew for every model of a process.
    """
    found: list[Any] = [ref.shape for ref in graph.inputs]
    for call in graph.calls:
        operation = call.operation
        try:
            config = operation.get_config()
        except Exception:  # of the user's own layers; their weights and wiring count
            config = {}
        settings = re.sub(r" at 0x[0-9a-f]+", "", str(_unnamed(config)))
        wiring = [[ref.number for ref in refs] for refs in (call.inputs, call.outputs)]
        found.append([type(operation).__name__, settings, wiring])
        if isinstance(operation, keras.Layer):
            found.append([keras.ops.convert_to_numpy(weight) for weight in operation.weights])
    return [*found, [ref.number for ref in graph.outputs]]


def _unnamed(config: Any) -> Any:
    """Leave names, and what follows from where a layer was built, out of a config."""
    if isinstance(config, Mapping):
        left = ("name", "build_config", "function")
        return {key: _unnamed(value) for key, value in config.items() if key not in left}
    return [_unnamed(value) for value in config] if type(config) in (list, tuple) else config


def map_structure(function: Callable[[Any], Any], structure: Any) -> Any:
    """Apply a function to the leaves of nested lists, tuples and dicts."""
    return keras.tree.map_structure(function, structure)


def build_graph(model: keras.Model) -> Graph:
    """Flatten a Functional or Sequential model, nested models included.

    Returns:
        The calls, in execution order; tensor numbers are unique over the whole graph.

    Raises:
        ModelError: the model, or one inside it, has no functional graph.

    Example:
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, name="head")])
        >>> [call.path for call in build_graph(model).calls]
        ['head']
    """
    builder = _GraphBuilder()
    form = functional_form(model)
    inputs = [builder.new_tensor(tensor.shape, tensor.dtype) for tensor in form.inputs]
    outputs = builder.inline(form, inputs, "")
    entrances = tuple(tuple(given) for given in builder.entrances.values() if len(given) > 1)
    return Graph(tuple(builder.calls), tuple(inputs), tuple(outputs), entrances)


class _GraphBuilder:
    def __init__(self) -> None:
        self.calls: list[Call] = []
        self._count = 0
        self._paths: dict[int, str] = {}
        self._positions: dict[int, int] = {}
        self._calls_of: dict[str, int] = {}
        self._times = 1.0
        self.entrances: dict[tuple[str, int], list[TensorRef]] = {}

    def new_tensor(self, shape: Shape, dtype: str) -> TensorRef:
        self._count += 1
        return TensorRef(self._count - 1, tuple(shape), dtype, self._times)

    def add_call(
        self, path: str, operation: keras.Operation, refs: Sequence[TensorRef], shape: Shape
    ) -> TensorRef:
        """Add a call of an operation that has no arguments but tensors."""
        made = self.new_tensor(shape, refs[0].dtype)
        self.calls.append(Call(path, operation, tuple(refs), {}, tuple(refs), (made,)))
        return made

    def inline(
        self, model: Functional, inputs: Sequence[TensorRef], prefix: str
    ) -> list[TensorRef]:
        known = {id(t): ref for t, ref in zip(model.inputs, inputs, strict=True)}
        reshaped = any(
            ref.shape != tuple(t.shape) for t, ref in zip(model.inputs, inputs, strict=True)
        )
        for node in nodes_in_order(model):
            if any(id(t) not in known for t in node.input_tensors):
                continue
            operation = node.operation
            path = self._paths.setdefault(id(operation), prefix + operation.name)
            args, kwargs = node.arguments.fill_in(known)
            refs = tuple(known[id(t)] for t in node.input_tensors)
            if repeats_over_time(operation):
                (found,) = self._outputs(node, args, kwargs, reshaped)
                shape = tuple(found.shape)
                made = [self._inline_steps(node, operation.layer, path, refs[0], shape)]
            elif is_model(operation):
                nested = functional_form(operation)
                refs = arrange_inputs(nested, args, refs)
                for index, ref in enumerate(refs):
                    self.entrances.setdefault((path, index), []).append(ref)
                made = self.inline(nested, refs, path + "/")
            else:
                made = [
                    self.new_tensor(tensor.shape, tensor.dtype)
                    for tensor in self._outputs(node, args, kwargs, reshaped)
                ]
                position = self._position(node, path)
                self.calls.append(Call(path, operation, args, kwargs, refs, tuple(made), position))
            known.update(zip(map(id, node.outputs), made, strict=True))
        return [known[id(t)] for t in model.outputs]

    def _inline_steps(
        self, node: Node, layer: keras.Layer, path: str, whole: TensorRef, made: Shape
    ) -> TensorRef:
        """Follow what a TimeDistributed repeats, with the steps as samples.

        Args:
            node: the call of the outermost one, where they are nested.
            layer: what is repeated.
            path: of the outermost one.
            whole: what is taken, with the axis of time.
            made: shape of what is given, likewise.
        """
        outer, outside = path, self._times
        path = self._paths.setdefault(id(layer), path)
        steps = whole.shape[1]
        self._times *= math.nan if steps is None else steps
        ref = self.add_call(f"{outer}/merge_time", MergeTime(), [whole], (None, *whole.shape[2:]))
        if repeats_over_time(layer):
            ref = self._inline_steps(node, layer.layer, path, ref, (None, *made[2:]))
        elif is_model(layer):
            self.entrances.setdefault((path, 0), []).append(ref)
            (ref,) = self.inline(functional_form(layer), [ref], path + "/")
        else:
            inside = self.new_tensor((None, *made[2:]), node.outputs[0].dtype)
            position = self._position(node, path)
            self.calls.append(Call(path, layer, (ref,), {}, (ref,), (inside,), position))
            ref = inside
        self._times = outside
        return self.add_call(f"{outer}/split_time", SplitTime(), [ref, whole], made)

    def _position(self, node: Node, path: str) -> int:
        if id(node) not in self._positions:
            self._positions[id(node)] = self._calls_of.get(path, 0)
            self._calls_of[path] = self._positions[id(node)] + 1
        return self._positions[id(node)]

    @staticmethod
    def _outputs(node: Node, args: Any, kwargs: Any, reshaped: bool) -> list[Any]:
        """Outputs of a call; worked out again where a nested model gets another size."""
        if not reshaped:
            return list(node.outputs)

        def to_symbol(value: Any) -> Any:
            if isinstance(value, TensorRef):
                return keras.KerasTensor(value.shape, value.dtype)
            return value

        spec = node.operation.compute_output_spec(
            *map_structure(to_symbol, args), **map_structure(to_symbol, kwargs)
        )
        return list(keras.tree.flatten(spec))


def arrange_inputs(
    model: Functional, args: Sequence[Any], tensors: Sequence[Any]
) -> tuple[Any, ...]:
    """Return what a nested model was called with in the order of its inputs.

    A model whose inputs are a list may be called with a dict by name, like in Keras.
    """
    if args and isinstance(args[0], Mapping) and not isinstance(model._inputs_struct, dict):
        return tuple(args[0][tensor.name] for tensor in model.inputs)
    return tuple(tensors)


def run(
    graph: Graph,
    inputs: Sequence[Any],
    on_call: Callable[[Call, tuple[Any, ...], dict[str, Any]], Any] | None = None,
) -> list[Any]:
    """Execute a graph eagerly on backend tensors, freeing each tensor after its last use.

    Args:
        graph: what to execute.
        inputs: one tensor per graph input, batch first.
        on_call: called as `on_call(call, args, kwargs)` in place of `call.operation(*args,
            **kwargs)`; its result is the call's result.

    Returns:
        One tensor per graph output.
    """
    last_uses = graph.last_uses()
    values: dict[int, Any] = {
        ref.number: value for ref, value in zip(graph.inputs, inputs, strict=True)
    }
    for index, call in enumerate(graph.calls):
        args, kwargs = fill_in(call, values)
        result = call.operation(*args, **kwargs) if on_call is None else on_call(call, args, kwargs)
        values.update(
            zip((ref.number for ref in call.outputs), keras.tree.flatten(result), strict=True)
        )
        for ref in call.inputs:
            if last_uses[ref.number] == index:
                values.pop(ref.number, None)
    return [values[ref.number] for ref in graph.outputs]


def fill_in(call: Call, values: Mapping[int, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return a call's arguments with tensors in place of `TensorRef`s."""

    def look_up(argument: Any) -> Any:
        return values[argument.number] if isinstance(argument, TensorRef) else argument

    return map_structure(look_up, call.args), map_structure(look_up, dict(call.kwargs))
