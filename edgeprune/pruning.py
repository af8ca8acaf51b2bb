"""From a model, a few samples and a budget to a smaller model: decide, cut, prove, recover."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import keras
import numpy as np

from edgeprune.allocation import (
    DEFAULT_STEP,
    CostLimits,
    Problem,
    Ranking,
    allocate_by_gain,
    check_budget,
    fix_classes,
    keep_channels,
)
from edgeprune.cost import Cost, CostModel
from edgeprune.criteria import CRITERIA, Evidence
from edgeprune.criteria.norms import score_l1
from edgeprune.criteria.subsets import follow_order
from edgeprune.errors import EdgepruneError
from edgeprune.groups import Group, Groups, find_groups
from edgeprune.plan import Budget, Plan
from edgeprune.preconditions import Data, check_classes, check_model, make_samples
from edgeprune.progress import SILENT, Progress
from edgeprune.recipes import DEFAULT_BUDGET
from edgeprune.recovery import RECOVERIES, Loss, recalibrate
from edgeprune.statistics import Statistics, collect_statistics
from edgeprune.stopwatch import Stopwatch
from edgeprune.surgery import slim
from edgeprune.validation import Grade, Judge, hold_out
from edgeprune.verification import Equivalence, check_equivalence

DEFAULT_CRITERION = "greedy_least_squares"
PROBES = 16
TINY = float(np.finfo(np.float32).tiny)

Recalibration = Literal["auto", "on", "off"]


@dataclass(frozen=True)
class Candidate:
    """One recovery that was tried.

    Attributes:
        recovery: name in `RECOVERIES`.
        recalibrated: whether BatchNorm was recalibrated after it.
        grade: on validation samples.
    """

    recovery: str
    recalibrated: bool
    grade: Grade

    @property
    def name(self) -> str:
        """The recovery, and what followed it."""
        return f"{self.recovery} + BatchNorm" if self.recalibrated else self.recovery


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
        chosen: the recovery that validation preferred.
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


def prune(
    model: keras.Model,
    data: Data,
    *,
    budget: Budget | str = DEFAULT_BUDGET,
    classes: Sequence[int] | None = None,
    validation: Data | None = None,
    criterion: str = DEFAULT_CRITERION,
    recovery: str = "auto",
    recalibration: Recalibration = "auto",
    step: int = DEFAULT_STEP,
    seed: int = 0,
    progress: Progress = SILENT,
) -> Pruned:
    """Return a smaller model that meets a budget, recovered in closed form, without training.

    Args:
        model: a trained Functional or Sequential model with one input; it is not changed.
        data: preprocessed calibration samples `(n, ...)`, alone or with their class indices `(n,)`;
            50 to 100 per class are enough. With `classes`, samples of other classes are left out.
        budget: the most it may cost, such as `"macs=50%"` or `"params=120k"`.
        classes: outputs to keep, in this order; `None` keeps all.
        validation: samples that choose among recoveries; a quarter of `data` by default.
        criterion: name in `CRITERIA`.
        recovery: name in `RECOVERIES`, or `auto` to try all and keep the best on validation.
        recalibration: of BatchNorm after the recovery; `auto` keeps it where validation gains.
        step: widths are multiples of it, finer in narrow layers (see `allowed_widths`).
        seed: of everything that is drawn.
        progress: told about stages.

    Returns:
        The model, the plan, the proof and what was tried.

    Raises:
        BudgetError: the budget cannot be met.
        ClassError: the classes cannot be cut out of this model, or have no samples.
        DataError: the samples do not fit the model.
        EdgepruneError: a name or a step that does not exist.
        EquivalenceError: the slim model is not what the plan says.
        ModelError: the model cannot be traced, has several inputs, or weights that are not finite.

    Example:
        >>> model = keras.Sequential([
        ...     keras.Input((8, 8, 1)), keras.layers.Conv2D(16, 3, activation="relu"),
        ...     keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(3)])
        >>> inputs = np.random.default_rng(0).random((32, 8, 8, 1), dtype="float32")
        >>> pruned = prune(model, inputs, budget="macs=50%")
        >>> pruned.after.macs <= pruned.before.macs / 2
        True
    """
    budget = Budget.parse(budget)
    check_methods(criterion, recovery, recalibration)
    _check_step(step)
    chosen = None if classes is None else tuple(int(number) for number in classes)
    stages = Stopwatch()
    with stages.time("trace"):
        groups = find_groups(model)
        check_model(model)
        check_classes(groups, chosen)
        costs = CostModel(groups)
        check_budget(groups, costs, budget, step, fix_classes(groups, chosen))
    calibration = make_samples(model, data, chosen)
    if validation is None:
        calibration, held_out = hold_out(calibration, seed=seed)
    else:
        held_out = make_samples(model, validation, chosen, name="validation data")
    judge = Judge(model, held_out, chosen)
    with stages.time("statistics"):
        targets, num_classes = _renumber(calibration.targets)
        statistics = collect_statistics(
            groups,
            calibration.inputs,
            targets,
            num_classes=num_classes,
            seed=seed,
            progress=progress,
        )
    with stages.time("plan"):
        plan = make_plan(
            groups, costs, statistics, budget,
            classes=chosen, criterion=criterion, step=step, seed=seed, progress=progress,
        )  # fmt: skip
    with stages.time("surgery"):
        smaller = slim(model, plan, groups=groups)
    with stages.time("proof"):
        probes = calibration.inputs[:PROBES]
        equivalence = check_equivalence(model, smaller, plan, groups, probes)
    with stages.time("recovery"):
        loss = Loss(smaller, groups, plan, statistics, calibration.inputs, seed, progress)
        recovered, candidates = _recover(loss, judge, recovery, recalibration)
    after = CostModel(find_groups(recovered)).full
    return Pruned(
        recovered, smaller, plan, groups, costs.full, after, equivalence,
        candidates[0], candidates, stages.seconds,
    )  # fmt: skip


def make_plan(
    groups: Groups,
    costs: CostModel,
    statistics: Statistics,
    budget: Budget,
    *,
    classes: Sequence[int] | None = None,
    criterion: str = DEFAULT_CRITERION,
    step: int = DEFAULT_STEP,
    seed: int = 0,
    progress: Progress = SILENT,
) -> Plan:
    """Rank the channels of every group, choose widths for the budget, and write down what stays.

    Args:
        groups: of the model.
        costs: of the model.
        statistics: of calibration data.
        budget: what must be met.
        classes: outputs that will be kept.
        criterion: name in `CRITERIA`.
        step: see `allowed_widths`.
        seed: for criteria that draw.
        progress: told after every group.

    Raises:
        BudgetError: the budget cannot be met.
    """
    chosen = None if classes is None else tuple(classes)
    evidence = Evidence(groups, statistics, chosen, seed)
    rankings = {}
    with progress.stage("ranking channels", len(groups.removable)) as advance:
        for group in groups.removable:
            rankings[group.name] = rank(evidence, group, criterion)
            advance()
    limits = CostLimits(costs, budget, fixed=fix_classes(groups, chosen))
    widths = allocate_by_gain(Problem(groups, rankings, limits, step))
    keep = {
        name: keep_channels(rankings[name], width)
        for name, width in widths.items()
        if width < groups[name].width
    }
    return Plan(keep, groups.fingerprint, chosen)


def rank(evidence: Evidence, group: Group, criterion: str) -> Ranking:
    """Order a group's channels by a criterion and say what its readers lose at every width.

    Where no reader has statistics, the loss is taken to be the share of the filters' squared L1
    norms that is gone: 1 for all of them, as for a reader that has lost its signal.

    Args:
        evidence: weights and statistics of the model.
        group: whose channels are ranked.
        criterion: name in `CRITERIA`.
    """
    scores = CRITERIA[criterion](evidence, group)
    order = np.argsort(-scores, kind="stable")
    views = evidence.views(group)
    if views:
        return Ranking(order, follow_order(views, order))
    power = score_l1(evidence, group)[order] ** 2 + TINY
    return Ranking(order, 1 - np.append(0, np.cumsum(power) / power.sum()))


def _recover(
    loss: Loss, judge: Judge, recovery: str, recalibration: Recalibration
) -> tuple[keras.Model, tuple[Candidate, ...]]:
    """Try the recoveries that are asked for; return the best model, and all, best first."""
    names = list(RECOVERIES) if recovery == "auto" else [recovery]
    tried: list[tuple[Candidate, keras.Model]] = []
    options = {"auto": (False, True), "on": (True,), "off": (False,)}[recalibration]
    with loss.progress.stage("recovery", len(names) * len(options)) as advance:
        for name in names:
            model = RECOVERIES[name](loss)
            for recalibrated in options:
                found = recalibrate(model, loss.inputs) if recalibrated else model
                tried.append((Candidate(name, recalibrated, judge.grade(found)), found))
                advance()
    tried.sort(key=lambda pair: pair[0].grade, reverse=True)
    return tried[0][1], tuple(candidate for candidate, _ in tried)


def _renumber(targets: np.ndarray) -> tuple[np.ndarray | None, int]:
    """Number the classes that occur from 0."""
    if not targets.size:
        return None, 1
    found, numbers = np.unique(targets, return_inverse=True)
    return numbers, len(found)


def check_methods(criterion: str, recovery: str, recalibration: str) -> None:
    """Refuse names that do not exist.

    Args:
        criterion: as for `prune`.
        recovery: likewise.
        recalibration: likewise.

    Raises:
        EdgepruneError: says which there are.
    """
    for what, given, known in (
        ("criterion", criterion, list(CRITERIA)),
        ("recovery", recovery, ["auto", *RECOVERIES]),
        ("recalibration", recalibration, ["auto", "on", "off"]),
    ):
        if given not in known:
            raise EdgepruneError(f"Unknown {what} '{given}'. Choose from: {', '.join(known)}.")


def _check_step(step: int) -> None:
    if step < 1:
        raise EdgepruneError(f"The step of widths must be at least 1. Got {step}.")
