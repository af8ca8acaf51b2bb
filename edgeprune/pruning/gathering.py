"""Prune residual streams reader by reader: `prune_with_gathers`.

A stream is as wide as the most demanding of its readers; each of the others multiplies with
channels that it hardly needs. A gather in front of a reader leaves them out. It costs time of its
own, so it is for readers that do much with every value.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import keras
import numpy as np
from keras import layers

from edgeprune.cost.budgets import Budget, Budgets
from edgeprune.cost.cost_model import CostModel
from edgeprune.errors import BudgetError
from edgeprune.evaluation.equivalence import check_equivalence
from edgeprune.evaluation.evaluator import Judge, hold_out
from edgeprune.evaluation.preconditions import Data, make_samples
from edgeprune.pruning.pruning import Pruned, prune
from edgeprune.pruning.rounds import compose, renumber
from edgeprune.scoring.consumers import Reader, find_readers
from edgeprune.support.progress import SILENT, Progress
from edgeprune.surgery.channel_removal import channel_ranks, kept_positions, slim
from edgeprune.surgery.gathers import close_gathers, list_gathers, open_gathers
from edgeprune.surgery.plan import Plan
from edgeprune.tracing.groups import Groups, find_groups

LEAST_MACS = 128
"""Multiply-accumulates that a reader must do with every value that it reads."""
SHARES = (0.85, 0.7)
"""How much of what is left after pruning as usual the gathers and a second pruning leave."""
GATHERED = (layers.Conv1D, layers.Conv2D, layers.Dense)
PROBES = 16


def prune_with_gathers(
    model: keras.Model,
    data: Data,
    *,
    budget: Budget | Budgets | str,
    classes: Sequence[int] | None = None,
    validation: Data | None = None,
    least_macs: float = LEAST_MACS,
    progress: Progress = SILENT,
    **options: Any,
) -> Pruned:
    """Prune as `prune` does, then with channel gathers as well, and keep what validation prefers.

    With gathers, the model is pruned to a looser budget first; then gathers are put in front of the
    readers of its streams, and it is pruned again, what they hand on included. Ours, for the
    residual technique of Zhang et al., CHaPR (2020), whose own was not available.

    Args:
        model: as for `prune`; likewise the others.
        data: see `prune`.
        budget: of MACs, parameters or both.
        classes: see `prune`.
        validation: see `prune`.
        least_macs: multiply-accumulates that a layer must do with every value that it reads for a
            gather in front of it to pay: a value that is gathered takes about as long as so many.
        progress: told about stages.
        options: further arguments of `prune`.

    Returns:
        As `prune` does; the plan names `gathers` if the model has some.

    Raises:
        BudgetError: the budget is of something else, or cannot be met.
        EdgepruneError: as for `prune`.

    Example:
        >>> inputs = keras.Input((8, 8, 1))
        >>> x = layers.Conv2D(16, 3, padding="same", activation="relu")(inputs)
        >>> y = layers.Conv2D(16, 3, padding="same", activation="relu")(x)
        >>> x = layers.GlobalAveragePooling2D()(layers.Add()([x, y]))
        >>> model = keras.Model(inputs, layers.Dense(3)(x))
        >>> samples = np.random.default_rng(0).random((32, 8, 8, 1), dtype="float32")
        >>> pruned = prune_with_gathers(model, samples, budget="macs=50%", method="chapr")
        >>> pruned.after.macs <= pruned.before.macs / 2
        True
    """
    budgets = Budgets.parse(budget)
    budgets.require_counted("Gathers")
    chosen = None if classes is None else tuple(int(number) for number in classes)
    samples = make_samples(model, data, chosen)
    if validation is None:
        samples, held_out = hold_out(samples, seed=options.get("seed", 0))
    else:
        held_out = make_samples(model, validation, chosen, name="validation data")
    options["progress"] = progress
    plain = prune(model, samples, budget=budgets, classes=chosen, validation=held_out, **options)
    limits = _limit(budgets, plain)
    judge = Judge(model, held_out, chosen)
    found = [plain]
    for share in SHARES:
        try:
            first = prune(
                model, samples, budget=_loosen(limits, share), classes=chosen, validation=held_out,
                **options,
            )  # fmt: skip
            readers = find_gatherable(find_groups(first.model), least_macs)
            if not readers:
                continue
            opened = open_gathers(first.model, [reader.path for reader in readers])
            second = prune(
                opened, renumber(samples, chosen), budget=limits,
                validation=renumber(held_out, chosen), **options,
            )  # fmt: skip
        except BudgetError:
            continue
        found.append(_join(model, plain, first, second, readers, samples.inputs[:PROBES]))
    return max(found, key=lambda pruned: judge.grade(pruned.model))


def _limit(budgets: Budgets, plain: Pruned) -> Budgets:
    """Return the budgets as absolute ones."""
    return Budgets(
        tuple(
            Budget(b.quantity, b.limit(getattr(plain.before, b.quantity)), relative=False)
            for b in budgets
        )
    )


def _loosen(limits: Budgets, share: float) -> Budgets:
    return Budgets(tuple(replace(budget, amount=budget.amount / share) for budget in limits))


def _join(
    model: keras.Model,
    plain: Pruned,
    first: Pruned,
    second: Pruned,
    readers: Sequence[Reader],
    probes: np.ndarray,
) -> Pruned:
    """Return both steps as one: a plan for the original, its proof, and the finished model."""
    groups = plain.groups
    handed_on = list_gathers(second.model)
    ordinary = {name: kept for name, kept in second.plan.keep.items() if name in groups}
    plan = compose(first.plan, replace(second.plan, keep=ordinary), groups)
    ranks = channel_ranks(groups, first.plan)
    axes = {axis.layer: axis for axis in groups.axes if axis.role == "reads"}
    gathers = {}
    for reader in readers:
        before = kept_positions(axes[reader.path], ranks)
        taken = handed_on[reader.path.replace("/", "_") + "_gather"]
        if len(taken) < len(before):
            gathers[reader.path] = tuple(before[list(taken)].tolist())
    plan = Plan(plan.keep, plan.fingerprint, plan.classes, gathers)
    smaller = slim(model, plan, groups=groups)
    proof = check_equivalence(model, smaller, plan, groups, probes)
    finished = close_gathers(second.model)
    after = CostModel(find_groups(finished)).full
    return replace(
        second, model=finished, slim=smaller, plan=plan, groups=groups, before=plain.before,
        after=after, equivalence=proof,
    )  # fmt: skip


def find_gatherable(groups: Groups, least_macs: float = LEAST_MACS) -> tuple[Reader, ...]:
    """Return the layers in front of which a gather may pay, in call order.

    They share what they read with other layers, and do enough with every value of it.

    Args:
        groups: of the model.
        least_macs: see `LEAST_MACS`.

    Example:
        >>> from edgeprune.tracing.groups import find_groups
        >>> inputs = keras.Input((8, 8, 3))
        >>> x = layers.Conv2D(16, 3, padding="same", name="stem")(inputs)
        >>> y = layers.Conv2D(16, 3, padding="same", name="block")(x)
        >>> x = layers.Conv2D(2, 1, name="head")(layers.Add()([x, y]))
        >>> [reader.path for reader in find_gatherable(find_groups(keras.Model(inputs, x)))]
        ['block']
    """
    return tuple(
        reader
        for reader in find_readers(groups)
        if _shares_a_stream(reader, groups) and _macs_per_value(reader) >= least_macs
    )


def _shares_a_stream(reader: Reader, groups: Groups) -> bool:
    layer = reader.layer
    if type(layer) not in GATHERED or reader.shared or reader.axis.group.size < 2:
        return False
    if getattr(layer, "groups", 1) > 1 or getattr(layer, "data_format", "") == "channels_first":
        return False
    held = set(reader.axis.group.tolist())
    return -1 not in held and any(len(groups.groups[number].layers("reads")) > 1 for number in held)


def _macs_per_value(reader: Reader) -> float:
    kernel = reader.layer.kernel.shape
    made, read = (
        float(np.prod([size or 1 for size in refs[0].shape[1:-1]]))
        for refs in (reader.call.outputs, reader.call.inputs)
    )
    return float(np.prod(kernel[:-2]) * kernel[-1]) * made / read
