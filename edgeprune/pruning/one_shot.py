"""From a model, a few samples and a budget to a smaller model: decide, remove, prove, recover."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import keras
import numpy as np

from edgeprune.allocation import check_budget, fix_classes
from edgeprune.cost.budgets import Budget, Budgets
from edgeprune.cost.cost_model import NOWHERE, Cost, CostModel
from edgeprune.data import Samples
from edgeprune.distillation import Training
from edgeprune.distillation.fine_tuning import FineTuned, fine_tune
from edgeprune.evaluation.equivalence import Equivalence
from edgeprune.evaluation.evaluator import Evaluator, hold_out
from edgeprune.evaluation.preconditions import ArrayData, check_classes, check_model, make_samples
from edgeprune.latency import Deployment
from edgeprune.pruning.pruning_settings import DEFAULT_STEP, Pruning
from edgeprune.pruning.search import Candidate, Search
from edgeprune.scoring.calibration_samples import CalibrationSamples
from edgeprune.scoring.collection import collect_statistics
from edgeprune.scoring.context import PruningContext
from edgeprune.support.deprecation import PRUNING, moved_keywords
from edgeprune.support.gradients import without_gradients
from edgeprune.support.progress import stage, timing
from edgeprune.surgery.plan import Plan
from edgeprune.tracing.groups import Groups, find_groups
from edgeprune.tracing.inference import full_float32
from edgeprune.tracing.outputs import Task

DEFAULT_BUDGET = "macs=50%"
BudgetLike = Budget | Budgets | str | Sequence[str | Budget]


@dataclass(frozen=True)
class Pruned:
    """A smaller model and how it came about.

    Attributes:
        model: the recovered model, a plain Keras model; the trained one where that was asked for.
        unrecovered: the model as surgery left it, proven equal to the original with channels
            silenced.
        recovered: the model in closed form, before any training.
        plan: what was kept.
        groups: of the original.
        before: cost of the original.
        after: cost of the new model.
        equivalence: the proof.
        candidates: all recoveries that were tried, best on validation first; the first was taken.
        seconds: per stage.
        training: how the model was trained; `None` where that was not asked for.
        tasks: what each output was taken for: `classify`, `multilabel`, `binary` or `regress`.
    """

    model: keras.Model = field(repr=False)
    unrecovered: keras.Model = field(repr=False)
    recovered: keras.Model = field(repr=False)
    plan: Plan = field(repr=False)
    groups: Groups = field(repr=False)
    before: Cost
    after: Cost
    equivalence: Equivalence
    candidates: tuple[Candidate, ...]
    seconds: Mapping[str, float]
    training: FineTuned | None = None
    tasks: tuple[Task, ...] = ()

    @property
    def chosen(self) -> Candidate:
        """The recovery that validation preferred."""
        return self.candidates[0]


@moved_keywords(PRUNING)
def prune(
    model: keras.Model,
    data: ArrayData,
    *,
    budget: BudgetLike = DEFAULT_BUDGET,
    classes: Sequence[int] | None = None,
    validation: ArrayData | None = None,
    pruning: Pruning | str | None = None,
    training: Training | str | None = None,
    deployment: Deployment = NOWHERE,
    task: Task = "auto",
) -> Pruned:
    """Return a smaller model that meets a budget, recovered in closed form, then trained if asked.

    Args:
        model: a trained Functional or Sequential model with one input; it is not changed.
        data: preprocessed calibration samples `(n, ...)`, alone or with their class indices `(n,)`;
            50 to 100 per class are enough. With `classes`, samples of other classes are left out.
        budget: the most it may cost, such as `"macs=50%"`, `"params=120k"` or, with a `deployment`,
            `"latency=20ms,size=500KB"`; all of several are met.
        classes: outputs to keep, in this order; `None` keeps all.
        validation: samples that choose among candidates; a quarter of `data` by default.
        pruning: how; a text is the name of a method.
        training: towards the original's outputs, on `data`; a text says how long, as in `"5min"`.
            `None`, the default, trains nothing.
        deployment: number format and board that budgets of size, memory, latency and energy mean.
        task: what the outputs mean: `classify`, `multilabel`, `binary` or `regress`. `auto` tells
            it by how the model ends: softmax, sigmoid, or classes where `data` has one index per
            sample and there are several outputs; else numbers.

    Returns:
        The model, the plan, the proof and what was tried.

    Raises:
        BudgetError: the budget cannot be met.
        ClassError: the classes cannot be cut out of this model, or have no samples.
        DataError: the samples do not fit the model.
        EdgepruneError: a name, a step or a time limit that does not exist.
        EquivalenceError: the pruned model is not what the plan says.
        ModelError: the model cannot be traced, has several inputs, or weights that are not finite.

    Example:
        >>> model = keras.Sequential([
        ...     keras.Input((8, 8, 1)), keras.layers.Conv2D(16, 3, activation="relu"),
        ...     keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(3)])
        >>> inputs = np.random.default_rng(0).random((32, 8, 8, 1), dtype="float32")
        >>> pruned = prune(model, inputs, budget="macs=50%", pruning="chapr")
        >>> pruned.after.macs <= pruned.before.macs / 2
        True
    """
    pruning, budgets = Pruning.parse(pruning), Budgets.parse(budget)
    chosen = None if classes is None else tuple(int(number) for number in classes)
    pruned = _prune(model, data, budgets, chosen, validation, pruning, deployment, task)
    if training is None:
        return pruned
    samples, held_out = divide_samples(model, data, validation, chosen, pruning.seed, task)
    trained = fine_tune(
        pruned.model, model, samples,
        settings=training, classes=chosen, validation=held_out, task=task,
    )  # fmt: skip
    return replace(pruned, model=trained.model, training=trained)


@full_float32()
@without_gradients
def _prune(
    model: keras.Model,
    data: ArrayData,
    budgets: Budgets,
    classes: tuple[int, ...] | None,
    validation: ArrayData | None,
    pruning: Pruning,
    deployment: Deployment,
    task: Task,
) -> Pruned:
    method = pruning.find_method()
    with timing() as seconds:
        search = open_search(model, data, budgets, classes, validation, pruning, deployment, task)
        found = search.run(method, pruning.search_seconds)
        after = CostModel(find_groups(found.model)).full
    return Pruned(
        found.model, found.unrecovered, found.model, found.plan, search.context.groups,
        search.costs.full, after, found.equivalence, found.candidates, seconds,
        tasks=tuple(kind.task for kind in search.evaluator.kinds),
    )  # fmt: skip


def divide_samples(
    model: keras.Model,
    data: ArrayData,
    validation: ArrayData | None,
    classes: tuple[int, ...] | None,
    seed: int,
    task: Task = "auto",
) -> tuple[Samples, Samples]:
    """Return samples to work with, and those that choose: a quarter where none are given.

    Args:
        model: that they must fit.
        data: as for `prune`; likewise the others.
        validation: see `data`.
        classes: see `data`.
        seed: of the choice.
        task: as for `prune`.

    Raises:
        DataError: the samples do not fit the model.
    """
    samples = make_samples(model, data, classes, task=task)
    if validation is None:
        return hold_out(samples, seed=seed)
    return samples, make_samples(model, validation, classes, task=task, name="validation data")


def open_search(
    model: keras.Model,
    data: ArrayData,
    budgets: Budgets,
    classes: tuple[int, ...] | None,
    validation: ArrayData | None,
    pruning: Pruning,
    deployment: Deployment = NOWHERE,
    task: Task = "auto",
) -> Search:
    """Check what is given, trace the model, and collect what all methods need.

    Args:
        model: as for `prune`; likewise the others.
        data: see `model`.
        budgets: all of them must be met.
        classes: see `model`.
        validation: see `model`.
        pruning: see `model`.
        deployment: see `model`.
        task: see `model`.

    Raises:
        EdgepruneError: as for `prune`.
    """
    step = DEFAULT_STEP if pruning.step is None else pruning.step
    with stage("tracing"):
        groups = find_groups(model)
        check_model(model)
        check_classes(groups, classes)
        costs = CostModel(groups, deployment)
        check_budget(groups, costs, budgets, step, fix_classes(groups, classes))
    samples, held_out = divide_samples(model, data, validation, classes, pruning.seed, task)
    evaluator = Evaluator(model, held_out, classes, task=task)
    present, targets = _renumber(samples.targets)
    statistics = collect_statistics(
        groups, samples.inputs, targets, num_classes=len(present), seed=pruning.seed
    )
    calibration = CalibrationSamples(
        groups, samples.inputs, samples.targets, classes, pruning.seed, task
    )
    context = PruningContext(
        groups, statistics, classes, pruning.seed, calibration, present, task=task
    )
    return Search(model, context, samples.inputs, costs, budgets, evaluator, step)


def _renumber(targets: np.ndarray) -> tuple[tuple[int, ...], np.ndarray | None]:
    """Return the classes that occur, and for each sample which of them it is."""
    if not targets.size:
        return (0,), None
    found, numbers = np.unique(targets, return_inverse=True)
    return tuple(found.tolist()), numbers
