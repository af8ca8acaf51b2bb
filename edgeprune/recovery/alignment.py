"""The calls of a pruned model beside those of the original, on the original's tensors."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import keras

from edgeprune.recovery.batches import Values, execute
from edgeprune.surgery.constants import list_added_constants, name_layer
from edgeprune.surgery.plan import Plan
from edgeprune.tracing.graph import Call, Graph, TensorRef, build_graph, map_structure
from edgeprune.tracing.groups import Groups
from edgeprune.tracing.replica import Detour, copy_weights, replicate
from edgeprune.tracing.vanishing import Vanished, find_handed_on, is_relu


@dataclass(frozen=True)
class Counterpart:
    """What a pruned model does in place of one call of the original.

    Attributes:
        call: its own call, or nothing.
        handed_on: tensors of the original -> the tensor that stands for each; `None` where there is
            nothing left, which adds nothing to a sum.
    """

    call: Call | None
    handed_on: tuple[tuple[int, int | None], ...] = ()

    def run(self, values: Values) -> None:
        """Add what it makes to what is known, and nothing in place of what is gone."""
        if self.call is not None:
            execute(self.call, values)
        for number, source in self.handed_on:
            values[number] = None if source is None else values[source]


def align(groups: Groups, vanished: Vanished, pruned: keras.Model) -> list[Counterpart]:
    """Return what a pruned model does for each call of the original, in order.

    Args:
        groups: of the original.
        vanished: what is gone.
        pruned: the pruned model, without the constants that emptied branches leave in sums.
    """
    graph, own = groups.graph, _Own(build_graph(pruned))
    handed_on = find_handed_on(graph, vanished)
    found = []
    for call in graph.calls:
        stay = vanished.remaining.get((call.path, call.position))
        inputs = [call.inputs[i] for i in (range(len(call.inputs)) if stay is None else stay)]
        gone = [ref.number for ref in call.outputs if ref.number not in vanished.computed]
        if gone:
            found.append(Counterpart(None, tuple((number, None) for number in gone)))
        elif call.outputs[0].number in handed_on:
            found.append(Counterpart(None, ((call.outputs[0].number, inputs[0].number),)))
        else:
            scaled = stay is not None and len(stay) == 1
            path = name_layer(groups, vanished, call) if scaled else call.path
            found.append(Counterpart(_renumber(own.take(path), inputs, call.outputs)))
    return found


class _Own:
    """The calls of a pruned model by path, each handed out once, in order."""

    def __init__(self, graph: Graph) -> None:
        self._calls: dict[str, deque[Call]] = {}
        for call in graph.calls:
            self._calls.setdefault(call.path, deque()).append(call)

    def take(self, path: str) -> Call:
        return self._calls[path].popleft()


def _renumber(call: Call, inputs: Sequence[TensorRef], outputs: tuple[TensorRef, ...]) -> Call:
    """Return a call that takes and makes the tensors of the original that stand for its own."""
    table = dict(zip((ref.number for ref in call.inputs), inputs, strict=True))

    def look_up(argument: Any) -> Any:
        return table[argument.number] if isinstance(argument, TensorRef) else argument

    return replace(
        call,
        args=map_structure(look_up, call.args),
        kwargs=map_structure(look_up, dict(call.kwargs)),
        inputs=tuple(inputs),
        outputs=outputs,
    )


def leave_out_constants(pruned: keras.Model, groups: Groups, plan: Plan) -> keras.Model:
    """Return a pruned model without the constants that emptied branches have left in sums.

    They cost an operator each, and a refit of what follows makes up for them. So does a ReLU go
    that then follows another one.

    Args:
        pruned: `remove_channels(model, plan)` or a fold of it; not changed. Itself, if no branch
            has gone.
        groups: of the original.
        plan: what was kept.
    """
    if not plan.emptied:
        return pruned
    added = list_added_constants(groups, groups.vanishing.close(plan.emptied))
    detours = _find_detours(build_graph(pruned), added)
    result, made = replicate(pruned, reroute=lambda path, position: detours.get((path, position)))
    copy_weights(pruned, made)
    return result


def _find_detours(graph: Graph, added: frozenset[str]) -> dict[tuple[str, int], Detour]:
    makers = {ref.number: call for call in graph.calls for ref in call.outputs}
    stands_for: dict[int, int] = {}
    detours = {}
    for call in graph.calls:
        if len(call.inputs) != 1:
            continue
        number = call.inputs[0].number
        origin = makers.get(stands_for.get(number, -1))
        again = origin is not None and is_relu(call) and is_relu(origin)
        if call.path in added or again:
            stands_for[call.outputs[0].number] = stands_for.get(number, number)
            detours[call.path, call.position] = Detour((0,))
    return detours
