"""One flat list of calls for any Keras model: what tracing, costs, statistics and recovery walk over.

Nested models are inlined, a layer called twice appears twice. Keras offers no public way to walk a
functional graph, so this is the only module that touches Keras' node structures.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
from keras.src.models.functional import Functional
from keras.src.ops.node import Node

from edgeprune.errors import ModelError

Shape = tuple[int | None, ...]


@dataclass(frozen=True)
class TensorRef:
    """One tensor of the flat graph: its number and its shape with the batch axis."""

    number: int
    shape: Shape


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
    """

    path: str
    operation: keras.Operation
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    inputs: tuple[TensorRef, ...]
    outputs: tuple[TensorRef, ...]

    @property
    def is_layer(self) -> bool:
        """Whether the operation is a layer (else a `keras.ops` node)."""
        return isinstance(self.operation, keras.Layer)


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


def functional_form(model: keras.Model) -> Functional:
    """Return the functional graph inside a model.

    Raises:
        ModelError: the model has no graph (subclassed, or a Sequential that was never built).
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
    raise ModelError(
        f"Model '{model.name}' ({type(model).__name__}) is subclassed: its layers are called in "
        "Python code that cannot be followed. Build it as keras.Model(inputs, outputs), where "
        "inputs = keras.Input(shape) and outputs = its call(inputs), and try again."
    )


def is_model(operation: Any) -> bool:
    """Whether an operation is a nested Functional or Sequential model."""
    return isinstance(operation, (Functional, keras.Sequential))


def nodes_in_order(model: Functional) -> Iterator[Node]:
    """Yield the call nodes of one functional model, inputs first, without its input layers."""
    for depth in sorted(model._nodes_by_depth, reverse=True):
        for node in model._nodes_by_depth[depth]:
            if not node.is_input:
                yield node


def map_structure(function: Callable[[Any], Any], structure: Any) -> Any:
    """Apply a function to the leaves of nested lists, tuples and dicts."""
    return keras.tree.map_structure(function, structure)


def build_graph(model: keras.Model) -> Graph:
    """Flatten a Functional or Sequential model, nested models included.

    Args:
        model: any model with a functional graph.

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
    inputs = [builder.new_tensor(tensor.shape) for tensor in form.inputs]
    outputs = builder.inline(form, inputs, "")
    entrances = tuple(tuple(given) for given in builder.entrances.values() if len(given) > 1)
    return Graph(tuple(builder.calls), tuple(inputs), tuple(outputs), entrances)


class _GraphBuilder:
    def __init__(self) -> None:
        self.calls: list[Call] = []
        self._count = 0
        self._paths: dict[int, str] = {}
        self.entrances: dict[tuple[str, int], list[TensorRef]] = {}

    def new_tensor(self, shape: Shape) -> TensorRef:
        self._count += 1
        return TensorRef(self._count - 1, tuple(shape))

    def inline(self, model: Functional, inputs: Sequence[TensorRef], prefix: str) -> list[TensorRef]:
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
            if is_model(operation):
                for index, ref in enumerate(refs):
                    self.entrances.setdefault((path, index), []).append(ref)
                made = self.inline(functional_form(operation), refs, path + "/")
            else:
                shapes = self._output_shapes(node, args, kwargs, reshaped)
                made = [self.new_tensor(shape) for shape in shapes]
                self.calls.append(Call(path, operation, args, kwargs, refs, tuple(made)))
            known.update(zip(map(id, node.outputs), made, strict=True))
        return [known[id(t)] for t in model.outputs]

    @staticmethod
    def _output_shapes(node: Node, args: Any, kwargs: Any, reshaped: bool) -> list[Shape]:
        """Shapes of a call's outputs; worked out again where a nested model gets another size."""
        if not reshaped:
            return [tuple(t.shape) for t in node.outputs]

        def to_symbol(value: Any) -> Any:
            return keras.KerasTensor(value.shape) if isinstance(value, TensorRef) else value

        spec = node.operation.compute_output_spec(
            *map_structure(to_symbol, args), **map_structure(to_symbol, kwargs)
        )
        return [tuple(t.shape) for t in keras.tree.flatten(spec)]


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
        result = (
            call.operation(*args, **kwargs) if on_call is None else on_call(call, args, kwargs)
        )
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
