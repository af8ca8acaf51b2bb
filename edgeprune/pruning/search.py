"""Several ways to prune one model, tried in turn while time is left: validation chooses."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

import keras
import numpy as np

from edgeprune.cost.budgets import Budgets
from edgeprune.cost.cost_model import CostModel
from edgeprune.evaluation.equivalence import Equivalence, check_equivalence
from edgeprune.evaluation.evaluator import Grade, Judge
from edgeprune.pruning.blending import search_blends
from edgeprune.pruning.methods import Method
from edgeprune.pruning.planning import make_plan
from edgeprune.recovery import CONTENDERS, RECOVERIES, REFITS, Loss, recalibrate
from edgeprune.scoring.context import Evidence
from edgeprune.support.progress import Progress
from edgeprune.support.stopwatch import Stopwatch
from edgeprune.surgery.channel_removal import slim
from edgeprune.surgery.plan import Plan

PROBES = 16


@dataclass(frozen=True)
class Candidate:
    """One combination that was tried.

    Attributes:
        recovery: name in `RECOVERIES`.
        recalibrated: whether BatchNorm was recalibrated after it.
        grade: on validation samples.
        method: name in `METHODS` that it was tried for; what a search was compared with follows.
    """

    recovery: str
    recalibrated: bool
    grade: Grade
    method: str = "auto"

    @property
    def name(self) -> str:
        """The recovery, and what followed it."""
        return f"{self.recovery} + BatchNorm" if self.recalibrated else self.recovery


@dataclass(frozen=True)
class Entry:
    """A method that takes part, with the parts that the user replaced.

    Attributes:
        name: in `METHODS`.
        method: what is done.
    """

    name: str
    method: Method


@dataclass(frozen=True)
class Contestant:
    """A model that takes part, and how it came about.

    Attributes:
        candidate: what it is called and its grade.
        model: recovered.
        slim: as cut.
        plan: what was kept.
        equivalence: of slim and cut.
    """

    candidate: Candidate
    model: keras.Model = field(repr=False)
    slim: keras.Model = field(repr=False)
    plan: Plan = field(repr=False)
    equivalence: Equivalence


@dataclass(frozen=True)
class Contest:
    """What all who take part have in common.

    Attributes:
        model: the original.
        evidence: of the original on calibration samples.
        inputs: the calibration samples.
        costs: of the original.
        budgets: what must be met.
        judge: grades on validation samples.
        step: see `allowed_widths`.
        stages: gets the seconds of each stage.
        progress: told about stages.
    """

    model: keras.Model
    evidence: Evidence
    inputs: np.ndarray
    costs: CostModel
    budgets: Budgets
    judge: Judge
    step: int
    stages: Stopwatch
    progress: Progress

    def hold(
        self,
        entries: Iterable[Entry],
        time_limit: float,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> tuple[Contestant, tuple[Candidate, ...]]:
        """Try one entry after the other; nothing new is tried once the time is over.

        Args:
            entries: at least one; the first is tried whatever the time.
            time_limit: in seconds.
            clock: in seconds.

        Returns:
            The best on validation, and all that were tried, best first; among equals the earlier.

        Raises:
            BudgetError: the budget cannot be met.
            EquivalenceError: a slim model is not what its plan says.
        """
        end = clock() + time_limit
        tried: list[Contestant] = []
        compared: list[Candidate] = []
        for entry in entries:
            if tried and clock() >= end:
                break
            with self.stages.time("plan"):
                plan, others = self.plan(entry, end - clock())
            compared += others
            tried += self.enter(entry, plan)
        tried.sort(key=lambda contestant: contestant.candidate.grade, reverse=True)
        best = [contestant.candidate for contestant in tried]
        rest = sorted([*best[1:], *compared], key=lambda found: found.grade, reverse=True)
        return tried[0], (best[0], *rest)

    def plan(self, entry: Entry, time_limit: float) -> tuple[Plan, list[Candidate]]:
        """Decide what one method keeps.

        Args:
            entry: which method.
            time_limit: in seconds, for methods that search.

        Returns:
            The plan, and what a search compared it with.
        """
        settings = entry.method.settings
        plan = make_plan(
            self.evidence, self.costs, self.budgets,
            method=entry.method, step=self.step, measure=self.measure, progress=self.progress,
        )  # fmt: skip
        searches = entry.method.criterion == "blended" and settings.generations > 0
        if not searches or not plan.keep:
            return plan, []
        recovery = "least_squares" if entry.method.recovery == "auto" else entry.method.recovery
        recalibrated = entry.method.recalibration == "on"

        def grade(found: Plan) -> Grade:
            model = RECOVERIES[recovery](self._loss(found, self._slim(found)))
            return self.judge.grade(recalibrate(model, self.inputs) if recalibrated else model)

        blending = search_blends(
            replace(self.evidence, settings=settings), plan, grade,
            time_limit=time_limit, progress=self.progress,
        )  # fmt: skip
        compared = {f"{name} alone": found for name, found in blending.pure.items()}
        compared["random search"] = blending.drawn
        return blending.plan, [
            Candidate(recovery, recalibrated, found, f"{entry.name}: {name}")
            for name, found in compared.items()
        ]

    def _slim(self, plan: Plan) -> keras.Model:
        return slim(self.model, plan, groups=self.evidence.groups)

    def _loss(self, plan: Plan, smaller: keras.Model) -> Loss:
        evidence = self.evidence
        return Loss(
            smaller, evidence.groups, plan, evidence.statistics, self.inputs,
            evidence.seed, self.progress,
        )  # fmt: skip

    def enter(self, entry: Entry, plan: Plan) -> list[Contestant]:
        """Prune by one method; return a model for every recovery that it leaves open.

        Args:
            entry: which method.
            plan: what it keeps.
        """
        with self.stages.time("surgery"):
            smaller = self._slim(plan)
        with self.stages.time("proof"):
            probes = self.inputs[:PROBES]
            equivalence = check_equivalence(self.model, smaller, plan, self.evidence.groups, probes)
        with self.stages.time("recovery"):
            return [
                Contestant(candidate, model, smaller, plan, equivalence)
                for candidate, model in self._recover(entry, plan, smaller)
            ]

    def measure(self, plan: Plan) -> float:
        """Return the accuracy by a plan after the fold; without classes, how close outputs stay.

        Args:
            plan: what is kept.
        """
        grade = self.judge.grade(self._loss(plan, self._slim(plan)).folded)
        return grade.accuracy if self.judge.samples.targets.size else grade.closeness

    def _recover(
        self, entry: Entry, plan: Plan, smaller: keras.Model
    ) -> list[tuple[Candidate, keras.Model]]:
        """Try the recoveries that are asked for."""
        method, loss = entry.method, self._loss(plan, smaller)
        names = list(CONTENDERS) if method.recovery == "auto" else [method.recovery]
        found: list[tuple[Candidate, keras.Model]] = []
        with self.progress.stage("recovery", len(names)) as advance:
            for name in names:
                recovered = RECOVERIES[name](loss)
                for recalibrated in _list_recalibrations(method, name):
                    model = recalibrate(recovered, loss.inputs) if recalibrated else recovered
                    grade = self.judge.grade(model)
                    found.append((Candidate(name, recalibrated, grade, entry.name), model))
                advance()
        return found


def _list_recalibrations(method: Method, recovery: str) -> tuple[bool, ...]:
    """Return whether to go without recalibration, with it, or both ways.

    A refit brings what comes out of a BatchNorm to the original already; in every run looked at,
    measuring its statistics anew afterwards lost accuracy.
    """
    if method.recalibration == "auto":
        return (False,) if recovery in REFITS else (False, True)
    return (method.recalibration == "on",)
