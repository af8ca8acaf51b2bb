"""From a model, a few samples and a budget to a smaller model: decide, remove, prove, recover."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import keras
import numpy as np

from edgeprune.allocation import EMPTYING, check_budget, fix_classes
from edgeprune.cost.budgets import Budget, Budgets
from edgeprune.cost.cost_model import NOWHERE, Cost, CostModel
from edgeprune.data import Samples
from edgeprune.distillation import Training
from edgeprune.distillation.fine_tuning import FineTuned, fine_tune
from edgeprune.errors import DataError
from edgeprune.evaluation.equivalence import Equivalence
from edgeprune.evaluation.evaluator import Evaluator, hold_out
from edgeprune.evaluation.preconditions import ArrayData, check_classes, check_model, make_samples
from edgeprune.latency import Deployment
from edgeprune.pruning.drop_search import meet_drop
from edgeprune.pruning.pruning_settings import Pruning, choose_step
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
        model: the trained model, or the recovered one where nothing was trained; plain Keras.
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
        training: how the model was trained; `None` where it was not.
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
    training: Training | str | None = "balanced",
    deployment: Deployment = NOWHERE,
    task: Task = "auto",
) -> Pruned:
    """Return a smaller model that meets a budget, recovered in closed form, then trained briefly.

    Args:
        model: a trained Functional or Sequential model with one input; it is not changed.
        data: preprocessed calibration samples `(n, ...)`, alone or with their class indices `(n,)`;
            50 to 100 per class are enough. With `classes`, samples of other classes are left out.
        budget: the most it may cost, such as `"macs=50%"`, `"params=120k"` or, with a `deployment`,
            `"latency=20ms,size=500KB"`; all of several are met. `"drop=1%"` asks for the fewest
            MACs that lose at most one point of accuracy on validation.
        classes: outputs to keep, in this order; `None` keeps all.
        validation: samples that choose among candidates; a quarter of `data` by default.
        pruning: how; a text is the name of a method.
        training: towards the original's outputs, on `data`, which needs no labels: `"balanced"`
            (at most 90 s), `"thorough"` (at most 5 minutes) where there are at least 200 samples to
            learn from, a length such as `"5min"`, `"fast"` or `None` for none.
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
    training = Training.choose(training)
    chosen = None if classes is None else tuple(int(number) for number in classes)
    with timing() as opening:
        search = open_search(model, data, budgets, chosen, validation, pruning, deployment, task)

    def train(pruned: Pruned, settings: Training | None) -> Pruned:
        if settings is None:
            return pruned
        samples, held_out = divide_samples(model, data, validation, chosen, pruning.seed, task)
        if len(samples.inputs) < settings.least_samples:
            return pruned
        trained = fine_tune(
            pruned.model, model, samples,
            settings=settings, classes=chosen, validation=held_out, task=task,
        )  # fmt: skip
        return replace(pruned, model=trained.model, training=trained)

    if budgets.drop is None:
        pruned = train(run_search(search, budgets, pruning), training)
        return replace(pruned, seconds={**opening, **pruned.seconds})
    evaluator = search.evaluator
    require_answers(evaluator)
    in_closed_form = functools.cache(lambda asked: run_search(search, asked, pruning))

    def make(asked: Budgets, share: float) -> tuple[Pruned, float]:
        pruned = train(in_closed_form(asked), training and training.shorten(share))
        return pruned, evaluator.original.accuracy - evaluator.evaluate(pruned.model).accuracy

    pruned, _ = meet_drop(make, budgets, "macs")
    return replace(pruned, seconds={**opening, **pruned.seconds})


def require_answers(evaluator: Evaluator) -> None:
    """Refuse to look for a drop where it cannot be told.

    Raises:
        DataError: there are no classes.
    """
    if not evaluator.answers:
        raise DataError(
            "A budget for the drop needs samples with class indices: without them nobody can tell "
            "what is answered rightly. Give labels, or another budget such as macs=50%."
        )


@full_float32()
@without_gradients
def run_search(search: Search, budgets: Budgets, pruning: Pruning) -> Pruned:
    """Prune in closed form with statistics that were collected before.

    Args:
        search: see `open_search`.
        budgets: of cost, all of them must be met.
        pruning: how.

    Raises:
        BudgetError: the budgets cannot be met.
        EquivalenceError: the pruned model is not what the plan says.
    """
    with timing() as seconds:
        found = replace(search, budgets=budgets).run(pruning.find_method(), pruning.search_seconds)
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

    All parameters are those of `prune`; the seed is that of the choice.

    Raises:
        DataError: the samples do not fit the model.
    """
    samples = make_samples(model, data, classes, task=task)
    if validation is None:
        return hold_out(samples, seed=seed)
    return samples, make_samples(model, validation, classes, task=task, name="validation data")


@full_float32()
@without_gradients
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

    All parameters are those of `prune`.

    Raises:
        EdgepruneError: as for `prune`.
    """
    empties = pruning.find_method().allocation in EMPTYING
    step = choose_step(budgets) if pruning.step is None else pruning.step
    with stage("tracing"):
        groups = find_groups(model)
        check_model(model)
        check_classes(groups, classes)
        costs = CostModel(groups, deployment)
        if budgets.costs is not None:
            fixed = fix_classes(groups, classes)
            check_budget(groups, costs, budgets.costs, step, fixed, empties)
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
