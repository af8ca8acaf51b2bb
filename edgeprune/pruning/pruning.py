"""From a model, a few samples and a budget to a smaller model: decide, cut, prove, recover."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import keras
import numpy as np

from edgeprune.allocation import ALLOCATIONS, DEFAULT_STEP, check_budget, fix_classes
from edgeprune.boards.recipes import DEFAULT_BUDGET
from edgeprune.cost.budgets import Budget, Budgets
from edgeprune.cost.cost_model import NOWHERE, Cost, CostModel
from edgeprune.errors import EdgepruneError
from edgeprune.evaluation.equivalence import Equivalence
from edgeprune.evaluation.evaluator import Judge, hold_out
from edgeprune.evaluation.preconditions import Data, check_classes, check_model, make_samples
from edgeprune.latency import Deployment
from edgeprune.pruning.methods import (
    DEFAULT_METHOD,
    METHODS,
    RECALIBRATIONS,
    Recalibration,
    find_method,
)
from edgeprune.pruning.search import Candidate, Contest, Entry
from edgeprune.recovery import RECOVERIES
from edgeprune.scoring.collection import collect_statistics
from edgeprune.scoring.context import Evidence
from edgeprune.scoring.criteria import CRITERIA
from edgeprune.scoring.observations import Observations
from edgeprune.support.gradients import without_gradients
from edgeprune.support.progress import SILENT, Progress
from edgeprune.support.stopwatch import Stopwatch
from edgeprune.surgery.plan import Plan
from edgeprune.surgery.precision import full_float32
from edgeprune.tracing.groups import Groups, find_groups


@dataclass(frozen=True)
class Pruned:
    """A smaller model and how it came about.

    Attributes:
        model: the recovered model, a plain Keras model.
        slim: the model as surgery left it, proven equal to the original with channels silenced.
        plan: what was kept.
        groups: of the original.
        before: cost of the original.
        after: cost of the new model.
        equivalence: the proof.
        chosen: the method and recovery that validation preferred.
        candidates: all that were tried, best first.
        seconds: per stage.
    """

    model: keras.Model = field(repr=False)
    slim: keras.Model = field(repr=False)
    plan: Plan = field(repr=False)
    groups: Groups = field(repr=False)
    before: Cost
    after: Cost
    equivalence: Equivalence
    chosen: Candidate
    candidates: tuple[Candidate, ...]
    seconds: Mapping[str, float]


@full_float32()
@without_gradients
def prune(
    model: keras.Model,
    data: Data,
    *,
    budget: Budget | Budgets | str | Sequence[str | Budget] = DEFAULT_BUDGET,
    method: str = DEFAULT_METHOD,
    criterion: str | None = None,
    allocation: str | None = None,
    recovery: str | None = None,
    classes: Sequence[int] | None = None,
    validation: Data | None = None,
    recalibration: Recalibration | None = None,
    step: int = DEFAULT_STEP,
    time_limit: float | None = None,
    deployment: Deployment = NOWHERE,
    seed: int = 0,
    progress: Progress = SILENT,
) -> Pruned:
    """Return a smaller model that meets a budget, recovered in closed form, without training.

    Args:
        model: a trained Functional or Sequential model with one input; it is not changed.
        data: preprocessed calibration samples `(n, ...)`, alone or with their class indices `(n,)`;
            50 to 100 per class are enough. With `classes`, samples of other classes are left out.
        budget: the most it may cost, such as `"macs=50%"`, `"params=120k"` or, with a `deployment`,
            `"latency=20ms,size=500KB"`; all of several are met.
        method: name in `METHODS`: a criterion, an allocation and a recovery.
        criterion: name in `CRITERIA`, in place of the method's own.
        allocation: name in `ALLOCATIONS`, likewise.
        recovery: name in `RECOVERIES`, likewise, or `auto` to try the strongest (`CONTENDERS`)
            and keep the best on validation.
        classes: outputs to keep, in this order; `None` keeps all.
        validation: samples that choose among candidates; a quarter of `data` by default.
        recalibration: of BatchNorm after the recovery: `auto` (where validation gains), `on` or
            `off`; by default the method's.
        step: widths are multiples of it, finer in narrow layers (see `allowed_widths`).
        time_limit: seconds after which a method that tries several tries no more; by default the
            method's.
        deployment: number format and board that budgets of size, memory, latency and energy mean.
        seed: of everything that is drawn.
        progress: told about stages.

    Returns:
        The model, the plan, the proof and what was tried.

    Raises:
        BudgetError: the budget cannot be met.
        ClassError: the classes cannot be cut out of this model, or have no samples.
        DataError: the samples do not fit the model.
        EdgepruneError: a name, a step or a time limit that does not exist.
        EquivalenceError: the slim model is not what the plan says.
        ModelError: the model cannot be traced, has several inputs, or weights that are not finite.

    Example:
        >>> model = keras.Sequential([
        ...     keras.Input((8, 8, 1)), keras.layers.Conv2D(16, 3, activation="relu"),
        ...     keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(3)])
        >>> inputs = np.random.default_rng(0).random((32, 8, 8, 1), dtype="float32")
        >>> pruned = prune(model, inputs, budget="macs=50%", method="chapr")
        >>> pruned.after.macs <= pruned.before.macs / 2
        True
    """
    budgets = Budgets.parse(budget)
    check_methods(method, criterion, allocation, recovery, recalibration)
    _check_numbers(step, time_limit)
    entries = list_entries(method, criterion, allocation, recovery, recalibration)
    chosen = None if classes is None else tuple(int(number) for number in classes)
    contest = open_contest(
        model, data, budgets,
        classes=chosen, validation=validation, step=step, deployment=deployment, seed=seed,
        progress=progress,
    )  # fmt: skip
    limit = METHODS[method].time_limit if time_limit is None else time_limit
    best, candidates = contest.hold(entries, limit)
    after = CostModel(find_groups(best.model)).full
    return Pruned(
        best.model, best.slim, best.plan, contest.evidence.groups, contest.costs.full, after,
        best.equivalence, candidates[0], candidates, contest.stages.seconds,
    )  # fmt: skip


def open_contest(
    model: keras.Model,
    data: Data,
    budgets: Budgets,
    *,
    classes: tuple[int, ...] | None,
    validation: Data | None,
    step: int,
    deployment: Deployment = NOWHERE,
    seed: int = 0,
    progress: Progress = SILENT,
) -> Contest:
    """Check what is given, trace the model, and collect what all methods need.

    Args:
        model: as for `prune`; likewise the others.
        data: see `prune`.
        budgets: all of them must be met.
        classes: see `prune`.
        validation: see `prune`.
        step: see `prune`.
        deployment: see `prune`.
        seed: see `prune`.
        progress: told about stages.

    Raises:
        EdgepruneError: as for `prune`.
    """
    stages = Stopwatch()
    with stages.time("trace"):
        groups = find_groups(model)
        check_model(model)
        check_classes(groups, classes)
        costs = CostModel(groups, deployment)
        check_budget(groups, costs, budgets, step, fix_classes(groups, classes))
    calibration = make_samples(model, data, classes)
    if validation is None:
        calibration, held_out = hold_out(calibration, seed=seed)
    else:
        held_out = make_samples(model, validation, classes, name="validation data")
    judge = Judge(model, held_out, classes)
    with stages.time("statistics"):
        present, targets = _renumber(calibration.targets)
        statistics = collect_statistics(
            groups,
            calibration.inputs,
            targets,
            num_classes=len(present),
            seed=seed,
            progress=progress,
        )
    observations = Observations(groups, calibration.inputs, calibration.targets, classes, seed)
    evidence = Evidence(groups, statistics, classes, seed, observations, present)
    return Contest(
        model, evidence, calibration.inputs, costs, budgets, judge, step, stages, progress
    )


def list_entries(
    method: str,
    criterion: str | None = None,
    allocation: str | None = None,
    recovery: str | None = None,
    recalibration: Recalibration | None = None,
) -> tuple[Entry, ...]:
    """Return what takes part: a method and those that it tries as well, each combination once.

    Args:
        method: as for `prune`; likewise the others.
        criterion: see `method`.
        allocation: see `method`.
        recovery: see `method`.
        recalibration: see `method`.
    """
    names = [method, *METHODS[method].tries]
    changed = {
        name: find_method(
            name,
            criterion=criterion,
            allocation=allocation,
            recovery=recovery,
            recalibration=recalibration,
        )
        for name in names
    }
    different: dict[object, Entry] = {}
    for name, found in changed.items():
        key = found.criterion, found.allocation, found.recovery, found.recalibration
        different.setdefault((key, found.settings), Entry(name, found))
    return tuple(different.values())


def _renumber(targets: np.ndarray) -> tuple[tuple[int, ...], np.ndarray | None]:
    """Return the classes that occur, and for each sample which of them it is."""
    if not targets.size:
        return (0,), None
    found, numbers = np.unique(targets, return_inverse=True)
    return tuple(found.tolist()), numbers


def check_methods(
    method: str,
    criterion: str | None = None,
    allocation: str | None = None,
    recovery: str | None = None,
    recalibration: str | None = None,
) -> None:
    """Refuse names that do not exist.

    Args:
        method: as for `prune`.
        criterion: likewise.
        allocation: likewise.
        recovery: likewise.
        recalibration: likewise.

    Raises:
        EdgepruneError: says which there are.
    """
    for what, given, known in (
        ("method", method, list(METHODS)),
        ("criterion", criterion, list(CRITERIA)),
        ("allocation", allocation, list(ALLOCATIONS)),
        ("recovery", recovery, ["auto", *RECOVERIES]),
        ("recalibration", recalibration, list(RECALIBRATIONS)),
    ):
        if given is not None and given not in known:
            raise EdgepruneError(f"Unknown {what} '{given}'. Choose from: {', '.join(known)}.")


def _check_numbers(step: int, time_limit: float | None) -> None:
    if step < 1:
        raise EdgepruneError(f"The step of widths must be at least 1. Got {step}.")
    if time_limit is not None and not time_limit >= 0:
        raise EdgepruneError(f"The time limit must be at least 0 seconds. Got {time_limit}.")
