"""Prune a little, train a little, again: `prune_in_rounds`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import keras
import numpy as np

from edgeprune.allocation import EMPTYING
from edgeprune.cost.budgets import Budget, Budgets
from edgeprune.cost.cost_model import CostModel
from edgeprune.data import Samples
from edgeprune.distillation import Training
from edgeprune.distillation.fine_tuning import FineTuned, fine_tune
from edgeprune.distillation.training_samples import Source
from edgeprune.evaluation.equivalence import check_equivalence
from edgeprune.evaluation.evaluator import Evaluator
from edgeprune.evaluation.preconditions import ArrayData, check_model
from edgeprune.pruning.one_shot import Pruned, divide_samples, prune
from edgeprune.pruning.pruning_settings import Pruning
from edgeprune.surgery.channel_removal import remove_channels
from edgeprune.surgery.plan import Plan
from edgeprune.tracing.groups import Groups, find_groups
from edgeprune.tracing.inference import full_float32
from edgeprune.tracing.outputs import Task

PROBES = 16


def prune_in_rounds(
    model: keras.Model,
    data: ArrayData,
    training_data: ArrayData | Source | None = None,
    *,
    budget: Budgets | Budget | str,
    classes: Sequence[int] | None = None,
    validation: ArrayData | None = None,
    pruning: Pruning | str | None = None,
    training: Training | str = "5min",
    task: Task = "auto",
) -> tuple[Pruned, tuple[FineTuned, ...]]:
    """Prune in several steps, with training towards the original after each.

    Channels are ranked anew on a model that has got used to the loss of the earlier ones (after
    Molchanov et al., 2017; the even steps on a logarithmic scale are ours). Time is shared out
    evenly, with a double share for the last round.

    Args:
        model: the original; it is not changed.
        data: calibration samples, as for `prune`.
        training_data: samples for the training, as for `fine_tune`; `data` by default.
        budget: what the last round meets.
        classes: outputs to keep, in this order; `None` keeps all.
        validation: samples that choose; a quarter of `data` by default.
        pruning: as for `prune`.
        training: how and how long in all, with the number of `rounds`.
        task: as for `prune`.

    Returns:
        The last round's model with a plan, a proof and costs that are those of all rounds together,
        and every round's training.

    Raises:
        EdgepruneError: one of its kinds, as `prune` and `fine_tune` raise them.

    Example:
        >>> model = keras.Sequential([
        ...     keras.Input((8, 8, 1)), keras.layers.Conv2D(16, 3, activation="relu"),
        ...     keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(3)])
        >>> inputs = np.random.default_rng(0).random((64, 8, 8, 1), dtype="float32")
        >>> how = Training(seconds=None, epochs=2, rounds=2)
        >>> pruned, trainings = prune_in_rounds(
        ...     model, inputs, budget="macs=40%", pruning="chapr", training=how)
        >>> pruned.after.macs <= 0.4 * pruned.before.macs, len(trainings)
        (True, 2)
    """
    settings = Training.parse(training)
    chosen = None if classes is None else tuple(int(number) for number in classes)
    check_model(model)
    samples, held_out = divide_samples(model, data, validation, chosen, settings.seed, task)
    groups = find_groups(model)
    kinds = Evaluator(model, held_out, chosen, task=task).kinds
    task = kinds[0].task if len(kinds) == 1 else task  # the same in every round
    current, plan = model, Plan({}, groups.fingerprint, chosen)
    how = Pruning.parse(pruning)
    trainings: list[FineTuned] = []
    for number, step in enumerate(_divide_budgets(Budgets.parse(budget), groups, settings.rounds)):
        first = number == 0
        pruned = prune(
            current,
            samples if first else renumber(samples, chosen),
            budget=step,
            classes=chosen if first else None,
            validation=held_out if first else renumber(held_out, chosen),
            pruning=how if number == settings.rounds - 1 else _keep_branches(how),
            training=None,
            task=task,
        )
        plan = compose(plan, pruned.plan, groups)
        trained = fine_tune(
            pruned.model,
            model,
            samples if training_data is None else training_data,
            settings=_share(settings, number),
            classes=chosen,
            validation=held_out,
            task=task,
        )
        current = trained.model
        trainings.append(trained)
    return _prove_whole(model, replace(pruned, model=current, plan=plan), groups, samples), (
        *trainings,
    )


def _keep_branches(how: Pruning) -> Pruning:
    """Return settings of a round before the last: a branch that went would rename groups."""
    emptying = how.find_method().allocation in EMPTYING
    return replace(how, allocation="gain") if emptying else how


@full_float32()
def _prove_whole(model: keras.Model, pruned: Pruned, groups: Groups, samples: Samples) -> Pruned:
    """Return what all rounds together made of the original, with one proof."""
    smaller = remove_channels(model, pruned.plan, groups=groups)
    proof = check_equivalence(model, smaller, pruned.plan, groups, samples.inputs[:PROBES])
    before = CostModel(groups).full
    return replace(pruned, unrecovered=smaller, groups=groups, before=before, equivalence=proof)


def compose(first: Plan, second: Plan, groups: Groups) -> Plan:
    """Return the plan that does in one step what two plans do one after the other.

    Args:
        first: for the original.
        second: for what `remove_channels` makes of it with the first.
        groups: of the original.
    """
    keep = dict(first.keep)
    for name, channels in second.keep.items():
        before = first.keep.get(name, tuple(range(groups[name].width)))
        keep[name] = tuple(before[channel] for channel in channels)
    return Plan(keep, groups.fingerprint, first.classes)


def _divide_budgets(budgets: Budgets, groups: Groups, rounds: int) -> list[Budgets]:
    """Return the budgets of each round, absolute, in even steps on a logarithmic scale."""
    budgets.require_counted("Rounds")
    costs = CostModel(groups)
    limits = [(b.quantity, costs.spend(b.quantity, {})) for b in budgets]
    shares = [
        min(1.0, b.limit(original) / original)
        for b, (_, original) in zip(budgets, limits, strict=True)
    ]
    return [
        Budgets(
            tuple(
                Budget(quantity, original * share ** (number / rounds), relative=False)
                for (quantity, original), share in zip(limits, shares, strict=True)
            )
        )
        for number in range(1, rounds + 1)
    ]


def _share(settings: Training, number: int) -> Training:
    """Return the settings of a round: twice as much time and epochs for the last as for others."""
    return settings.shorten((2.0 if number == settings.rounds - 1 else 1.0) / (settings.rounds + 1))


def renumber(samples: Samples, classes: tuple[int, ...] | None) -> Samples:
    """Return samples whose targets count the outputs of a model that has only these classes.

    Args:
        samples: with the original's targets, or none.
        classes: in the order of the outputs; `None` for all.
    """
    if classes is None or not samples.targets.size:
        return samples
    return Samples(samples.inputs, np.array([classes.index(t) for t in samples.targets.tolist()]))
