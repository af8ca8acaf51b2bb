"""Parts of tensors: what names a position or a size is rewritten for the channels that stay."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from edgeprune.tracing.keras_internals import array_operations as operations
from edgeprune.tracing.keras_internals import core_operations as core
from edgeprune.tracing.labels import CallChange, Keep
from edgeprune.tracing.rules.movement import UNKNOWN_SIZE, execute_on_labels, move
from edgeprune.tracing.rules.registry import Labels, Tracing, place, rule, varying_axes


def holding_axis(tracing: Tracing, x: Labels) -> tuple[int, Labels] | None:
    """Return the axis that holds channels, batch not counted, and its labels."""
    axes = varying_axes(x)
    return (axes[0], tracing.on_axis(x, axes[0])) if axes else None


def change_argument(index: int, name: str, change: Callable[[Any, Keep], Any]) -> CallChange:
    """Return a change of one argument, wherever it was given."""

    def change_call(args: tuple[Any, ...], kwargs: dict[str, Any], keep: Keep) -> Any:
        if name in kwargs:
            return args, {**kwargs, name: change(kwargs[name], keep)}
        return (*args[:index], change(args[index], keep), *args[index + 1 :]), kwargs

    return change_call


def argument(tracing: Tracing, index: int, name: str) -> Any:
    """Return an argument of the call, wherever it was given."""
    call = tracing.call
    return call.kwargs[name] if name in call.kwargs else call.args[index]


@rule(operations.Split)
def split(tracing: Tracing, operation: Any, x: Labels) -> list[Labels]:
    """Equal sections become unequal: name the positions instead of their number."""
    held = holding_axis(tracing, x)
    axis = operation.axis % len(tracing.call.inputs[0].shape) - 1
    made = move(tracing, [x])
    if held is not None and held[0] == axis:
        along = held[1]
        sizes = [shape[axis] or 0 for shape in tracing.output_shapes]
        positions = np.cumsum(sizes)[:-1].tolist()

        def change(config: dict[str, Any], keep: Keep) -> None:
            if positions and len(keep(along)) < len(along):
                config["indices_or_sections"] = tuple(len(keep(along[:p])) for p in positions)

        tracing.change_config(change)
    return made


@rule(core.Unstack)
def unstack(tracing: Tracing, operation: Any, x: Labels) -> list[Labels]:
    """One tensor per position: positions stay."""
    held = holding_axis(tracing, x)
    if held is not None and held[0] == operation.axis % len(tracing.call.inputs[0].shape) - 1:
        return tracing.opaque(f"'{tracing.call.path}' makes a tensor of each channel", [x])
    return move(tracing, [x])


@rule(core.Slice)
def slice_block(tracing: Tracing, operation: Any, x: Labels, *computed: Labels) -> list[Labels]:
    """A block of every axis: start and size count what stays."""
    if computed:
        reason = f"'{tracing.call.path}' slices at computed positions"
        return tracing.opaque(reason, [x, *computed])
    starts = argument(tracing, 1, "start_indices")
    held = holding_axis(tracing, x)
    made = move(tracing, [x])
    if held is not None:
        axis, along = held[0] + 1, held[1]
        start, size = int(starts[axis]), int(operation.shape[axis])

        def change_start(given: Any, keep: Keep) -> list[int]:
            changed = [int(position) for position in given]
            changed[axis] = len(keep(along[:start]))
            return changed

        def change_size(config: dict[str, Any], keep: Keep) -> None:
            sizes = list(config["shape"])
            sizes[axis] = len(keep(along[start : start + size]))
            config["shape"] = tuple(sizes)

        tracing.change_call(change_argument(1, "start_indices", change_start))
        if size != -1:
            tracing.change_config(change_size)
    return made


@rule(operations.GetItem)
def get_item(tracing: Tracing, operation: Any, x: Labels) -> list[Labels]:
    """`x[..., a:b]`: bounds count what stays; a step ties the channels that it steps over."""
    key = argument(tracing, 1, "key")
    parts = list(key) if isinstance(key, (tuple, list)) else [key]
    simple = (int, slice, type(None), type(Ellipsis))
    if not all(isinstance(part, simple) and not isinstance(part, bool) for part in parts):
        return tracing.opaque(f"'{tracing.call.path}' selects positions by a tensor", [x])
    held = holding_axis(tracing, x)
    made = execute_on_labels(tracing, [x])
    if made is None:
        return tracing.opaque(f"'{tracing.call.path}' needs {UNKNOWN_SIZE}", [x])
    where = None if held is None else _part_of_axis(parts, held[0] + 1, x.ndim + 1)
    if held is not None and where is not None:
        along, part = held[1], parts[where]
        if isinstance(part, slice):
            start, stop, step = part.indices(len(along))
            if step < -1 or (step == -1 and part != slice(None, None, -1)):
                return tracing.opaque(f"'{tracing.call.path}' takes channels backwards", [x])
            for block in range(start, stop, step) if step > 1 else ():
                for other in along[block + 1 : min(block + step, stop)]:
                    tracing.space.tie(along[block], other)
        if part not in (slice(None), slice(None, None, -1)):

            def change(given: Any, keep: Keep) -> tuple[Any, ...]:
                changed = list(given) if isinstance(given, (tuple, list)) else [given]
                changed[where] = _count_bounds(part, along, keep)
                return tuple(changed)

            tracing.change_call(change_argument(1, "key", change))
    return [tracing.space.rectangular(one) for one in made]


def _part_of_axis(parts: list[Any], axis: int, rank: int) -> int | None:
    """Return which part of a key selects on an axis; `None` where an ellipsis covers it."""
    consuming = sum(part is not None and part is not Ellipsis for part in parts)
    current = 0
    for index, part in enumerate(parts):
        if part is Ellipsis:
            current += rank - consuming
        elif part is not None:
            if current == axis:
                return index
            current += 1
        if current > axis:
            return None
    return None


def _count_bounds(part: int | slice, along: Labels, keep: Keep) -> int | slice:
    if isinstance(part, int):
        return len(keep(along[: part % len(along)]))
    start, stop, step = part.indices(len(along))
    return slice(len(keep(along[:start])), len(keep(along[:stop])), step if step != 1 else None)


@rule(operations.Take)
def take(tracing: Tracing, operation: Any, x: Labels, *indices: Labels) -> list[Labels]:
    """Constant positions are renumbered; computed ones may be any."""
    rank = len(tracing.call.inputs[0].shape)
    if indices or operation.axis is None:
        reason = f"'{tracing.call.path}' selects positions by a tensor"
        return tracing.opaque(reason, [x, *indices])
    positions = np.asarray(argument(tracing, 1, "indices"))
    held = holding_axis(tracing, x)
    if held is not None and held[0] == operation.axis % rank - 1:
        along = held[1]
        if positions.ndim != 1:
            return tracing.opaque(f"'{tracing.call.path}' selects positions by a table", [x])
        wanted = positions % len(along)

        def change(given: Any, keep: Keep) -> list[int]:
            return [len(keep(along[: wanted[i]])) for i in keep(along[wanted])]

        tracing.change_call(change_argument(1, "indices", change))
    return move(tracing, [x])


@rule(operations.Pad)
def pad(tracing: Tracing, operation: Any, x: Labels) -> list[Labels]:
    """Constant channels at the border are channels like others: they go if nothing needs them."""
    held = holding_axis(tracing, x)
    if held is None:
        return [x]
    axis, along = held
    rank = x.ndim + 1
    widths = [tuple(width) for width in operation.pad_width]
    widths = widths * rank if len(widths) == 1 else widths
    before, after = widths[axis + 1]
    if before == after == 0:
        return [x]
    if operation.mode != "constant" or tracing.input_shapes[0][axis] is None:
        return tracing.opaque(f"'{tracing.call.path}' repeats channels at the border", [x])
    first, last = tracing.space.fresh(before), tracing.space.fresh(after)

    def change(config: dict[str, Any], keep: Keep) -> None:
        changed = list(widths)
        changed[axis + 1] = (len(keep(first)), len(keep(last)))
        config["pad_width"] = tuple(changed)

    tracing.change_config(change)
    return [place(np.concatenate([first, along, last]), axis, x.ndim)]
