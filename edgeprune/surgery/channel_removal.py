"""Apply a plan: `remove_channels` makes the pruned model, `mask_channels` the masked one.

The masked model keeps all channels and silences whoever reads those that go.

Both return a new model. They must agree on every input: that is the proof, run on every build
(`edgeprune.evaluation.equivalence`), that the groups were traced correctly.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from edgeprune.errors import PlanError
from edgeprune.surgery.constants import (
    describe_constants,
    evaluate_constants,
    find_detours,
    set_constant,
)
from edgeprune.surgery.plan import Plan
from edgeprune.tracing.groups import Axis, Groups, find_groups, find_head
from edgeprune.tracing.replica import (
    Arguments,
    duplicate,
    operations_by_path,
    rebuild,
    replicate,
    reproduce,
    set_weights,
)
from edgeprune.tracing.vanishing import Vanished


def remove_channels(model: keras.Model, plan: Plan, *, groups: Groups | None = None) -> keras.Model:
    """Return a smaller model without the channels (and classes) that the plan leaves out.

    Args:
        model: the original; it is not changed.
        plan: what to keep.
        groups: the model's groups, if already traced.

    Returns:
        A plain Keras model, same names and inputs; with `plan.classes`, one output per kept class.

    Raises:
        PlanError: the plan is for another model, names unknown or locked groups, or channels that
            do not exist; or a group would keep none that must (see `Groups.vanishing`).
        ClassError: `plan.classes` cannot be cut out of this model.

    Example:
        >>> model = keras.Sequential([
        ...     keras.Input((4,)), keras.layers.Dense(8, name="hidden"), keras.layers.Dense(2)])
        >>> remove_channels(model, Plan({"hidden": (0, 3, 5)})).get_layer("hidden").units
        3
    """
    groups = find_groups(model) if groups is None else groups
    ranks = channel_ranks(groups, plan)
    vanished = groups.vanishing.close(plan.emptied)
    detours = find_detours(groups, vanished) if plan.emptied else {}

    def keep(labels: np.ndarray) -> np.ndarray:
        return kept_positions(groups.locate(labels), ranks)

    sizes: dict[str, dict[tuple[str, int | None], int]] = {}
    for (path, entry, position), axis in groups.extents.items():
        sizes.setdefault(path, {})[entry, position] = len(kept_positions(axis, ranks))

    def make(path: str, operation: keras.Operation) -> keras.Operation:
        if path not in sizes and path not in groups.config_changes:
            return reproduce(path, operation)

        def change(config: dict[str, Any]) -> None:
            for (entry, position), size in sizes.get(path, {}).items():
                set_entry(config, entry, position, size)
            if path in groups.config_changes:
                groups.config_changes[path](config, keep)

        return rebuild(path, operation, change)

    def adapt(path: str, position: int, arguments: Arguments) -> Arguments:
        change = groups.call_changes.get((path, position))
        return arguments if change is None else change(*arguments, keep)

    smaller, made = replicate(
        model, make, adapt, reroute=lambda path, position: detours.get((path, position))
    )
    axes_of: dict[str, list[Axis]] = {}
    for axis in groups.axes:
        axes_of.setdefault(axis.layer, []).append(axis)
    for path, operation in operations_by_path(model).items():
        if not isinstance(operation, keras.Layer) or not operation.weights or path not in made:
            continue
        weights = operation.get_weights()
        for axis in axes_of.get(path, []):
            kept = kept_positions(axis, ranks)
            if not np.array_equal(kept, np.arange(len(axis.group))):
                weights[axis.weight] = np.take(weights[axis.weight], kept, axis=axis.axis)
        set_weights(made[path], weights)
    if plan.emptied:
        write_constants(made, groups, vanished, ranks)
    return smaller


def write_constants(
    made: Mapping[str, Any],
    groups: Groups,
    vanished: Vanished,
    ranks: list[np.ndarray],
    offsets: Mapping[str, np.ndarray] | None = None,
) -> None:
    """Write what emptied branches leave into the layers that stand for them.

    Args:
        made: operations of the pruned model, by path; changed in place.
        groups: of the original.
        vanished: what is gone.
        ranks: see `channel_ranks`.
        offsets: see `evaluate_constants`.
    """
    constants = evaluate_constants(groups, vanished, offsets)
    described = describe_constants(groups, vanished, constants)
    for call in groups.graph.calls:
        path, constant = described.get((call.path, call.position), ("", np.empty(0)))
        if path:
            kept = kept_positions(groups.tensors[call.outputs[0].number], ranks)
            set_constant(made[path], constant[kept])


def set_entry(config: dict[str, Any], entry: str, position: int | None, size: int) -> None:
    """Write a size into a config: `filters`, or `layer/config/filters` of a wrapped layer."""
    *outer, name = entry.split("/")
    for key in outer:
        config = config[key]
    if position is None:
        config[name] = size
    else:
        sizes = list(config[name])
        sizes[position] = size
        config[name] = tuple(sizes)


def mask_channels(model: keras.Model, plan: Plan, *, groups: Groups | None = None) -> keras.Model:
    """Return the full model with the weight slices that read removed channels set to zero.

    Zeroing what *writes* a channel would be wrong: the shift of a BatchNorm leaks through.

    Args:
        model: the original; it is not changed.
        plan: what to keep. Its `classes` are ignored: the outputs stay whole.
        groups: the model's groups, if already traced.

    Returns:
        A model of the original's size, the oracle for `remove_channels`.
    """
    groups = find_groups(model) if groups is None else groups
    ranks = channel_ranks(groups, Plan(plan.keep, plan.fingerprint))
    silenced = duplicate(model)
    operations = operations_by_path(silenced)
    for axis in groups.axes:
        if axis.role != "reads":
            continue
        kept = kept_positions(axis, ranks)
        if len(kept) == len(axis.group):
            continue
        layer = operations[axis.layer]
        weights = layer.get_weights()
        silent = np.ones(len(axis.group), bool)
        silent[kept] = False
        weights[axis.weight][(slice(None),) * axis.axis + (silent,)] = 0
        layer.set_weights(weights)
    return silenced


def channel_ranks(groups: Groups, plan: Plan) -> list[np.ndarray]:
    """Return for each group the new position of each channel, -1 where it goes.

    Raises:
        PlanError: the plan does not fit the groups.
        ClassError: the plan's classes cannot be cut out.
    """
    if plan.fingerprint and plan.fingerprint != groups.fingerprint:
        raise PlanError(
            f"The plan was made for another model (fingerprint {plan.fingerprint}, this model has "
            f"{groups.fingerprint}). Make a new plan for this model."
        )
    ranks = [np.arange(group.width) for group in groups]
    for name, channels in plan.keep.items():
        if name not in groups:
            raise PlanError(f"The plan names group '{name}', which this model does not have.")
        group = groups[name]
        if group.locked and len(channels) < group.width:
            raise PlanError(f"Group '{name}' cannot shrink: {'; '.join(group.locked)}.")
        if channels and channels[-1] >= group.width:
            raise PlanError(
                f"The plan keeps channel {channels[-1]} of group '{name}', which has "
                f"{group.width} channels (0 to {group.width - 1})."
            )
        ranks[groups.index[name]] = _rank(channels, group.width)
    for name in groups.vanishing.close(plan.emptied).groups:
        ranks[groups.index[name]] = _rank((), groups[name].width)
    if plan.classes is not None:
        head = find_head(groups)
        channel = groups.output_channels[0].channel
        if max(plan.classes) >= len(channel):
            raise PlanError(
                f"The plan keeps class {max(plan.classes)} of a model with {len(channel)} outputs."
            )
        ranks[groups.index[head.name]] = _rank(channel[list(plan.classes)], head.width)
    return ranks


def _rank(channels: Any, width: int) -> np.ndarray:
    rank = np.full(width, -1)
    rank[list(channels)] = np.arange(len(channels))
    return rank


def kept_positions(axis: Axis, ranks: list[np.ndarray]) -> np.ndarray:
    """Return the positions of a weight's axis that stay, in their new order.

    The order is the old one, except for classes that the user put in another order.
    """
    rank = np.zeros(len(axis.group), dtype=np.int64)
    for number in np.unique(axis.group[axis.group >= 0]).tolist():
        held = axis.group == number
        order = ranks[number]
        rank[held] = order[axis.channel[held]]
        if (np.diff(order[order >= 0]) > 0).all():
            rank[held] = np.minimum(rank[held], 0)
    kept = np.nonzero(rank >= 0)[0]
    return kept[np.argsort(rank[kept], kind="stable")]
