"""One method on one model: choose what stays, prove it, try recoveries; validation chooses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import keras
import numpy as np

from edgeprune.cost.budgets import Budgets
from edgeprune.cost.cost_model import CostModel
from edgeprune.evaluation.equivalence import (
    Equivalence,
    check_equivalence,
    predict,
)
from edgeprune.evaluation.evaluator import Evaluator, Score
from edgeprune.pruning.blending import search_blends
from edgeprune.pruning.methods import Method
from edgeprune.pruning.planning import make_plan
from edgeprune.recovery import (
    RECOVERIES,
    REFITS,
    RecoveryContext,
    list_contenders,
    recalibrate,
)
from edgeprune.recovery.image_copies import LEAST_AGREEMENT, is_image
from edgeprune.scoring.context import PruningContext
from edgeprune.support.progress import stage
from edgeprune.surgery.channel_removal import remove_channels
from edgeprune.surgery.plan import Plan

PROBES = 16
PROBES_OF_MIRRORS = 256


@dataclass(frozen=True)
class Candidate:
    """One recovery that was tried.

    Attributes:
        recovery: name in `RECOVERIES`.
        recalibrated: whether BatchNorm was recalibrated after it.
        score: on validation samples.
        criterion: that chose the channels; of a blend, what it was compared with.
    """

    recovery: str
    recalibrated: bool
    score: Score
    criterion: str

    @property
    def name(self) -> str:
        """The recovery, and what followed it."""
        return f"{self.recovery} + BatchNorm" if self.recalibrated else self.recovery


@dataclass(frozen=True)
class Found:
    """What a search found.

    Attributes:
        model: the best on validation, recovered.
        unrecovered: the same as surgery left it.
        plan: what was kept.
        equivalence: the proof.
        candidates: all that were tried, best first, the model's own at the front.
    """

    model: keras.Model = field(repr=False)
    unrecovered: keras.Model = field(repr=False)
    plan: Plan = field(repr=False)
    equivalence: Equivalence
    candidates: tuple[Candidate, ...]


@dataclass(frozen=True)
class Search:
    """Everything that choosing works with.

    Attributes:
        model: the original.
        context: of the original on calibration samples.
        inputs: the calibration samples.
        costs: of the original.
        budgets: what must be met.
        evaluator: scores on validation samples.
        step: see `allowed_widths`.
    """

    model: keras.Model
    context: PruningContext
    inputs: np.ndarray
    costs: CostModel
    budgets: Budgets
    evaluator: Evaluator
    step: int

    def run(self, method: Method, search_seconds: float) -> Found:
        """Prune by a method; of the recoveries that it leaves open the best on validation stays.

        Args:
            method: criterion, allocation and recovery.
            search_seconds: for a search for blends.

        Raises:
            BudgetError: the budget cannot be met.
            EquivalenceError: the pruned model is not what its plan says.
        """
        with stage("choosing channels"):
            plan, compared = self.plan(method, search_seconds)
        with stage("surgery and proof"):
            smaller = remove_channels(self.model, plan, groups=self.context.groups)
            probes = self.inputs[:PROBES]
            proof = check_equivalence(self.model, smaller, plan, self.context.groups, probes)
        tried = self._recover(method, plan, smaller)
        tried.sort(key=lambda pair: pair[0].score, reverse=True)  # among equals the earlier
        (best, model), *others = tried
        rest = [*(candidate for candidate, _ in others), *compared]
        rest.sort(key=lambda candidate: candidate.score, reverse=True)
        return Found(model, smaller, plan, proof, (best, *rest))

    def plan(self, method: Method, search_seconds: float) -> tuple[Plan, list[Candidate]]:
        """Decide what stays.

        Args:
            method: as for `run`.
            search_seconds: likewise.

        Returns:
            The plan, and what a search compared it with.
        """
        plan = make_plan(
            self.context, self.costs, self.budgets,
            method=method, step=self.step, measure=self.measure,
        )  # fmt: skip
        if method.criterion != "blended" or not method.settings.generations or not plan.keep:
            return plan, []
        recovery = "least_squares" if method.recovery == "auto" else method.recovery
        recalibrated = method.recalibration == "on"

        def score(found: Plan) -> Score:
            model = RECOVERIES[recovery](self._open_recovery(found))
            return self.evaluator.evaluate(
                recalibrate(model, self.inputs) if recalibrated else model
            )

        context = replace(self.context, settings=method.settings)
        blending = search_blends(context, plan, score, time_limit=search_seconds)
        return blending.plan, [
            Candidate(recovery, recalibrated, found, f"{name} alone")
            for name, found in blending.pure.items()
        ]

    def measure(self, plan: Plan) -> float:
        """Return the accuracy by a plan after the fold; without classes, how close outputs stay.

        Args:
            plan: what is kept.
        """
        score = self.evaluator.evaluate(self._open_recovery(plan).folded)
        return score.accuracy if self.evaluator.answers else score.closeness

    def _survives_mirrors(self) -> bool:
        """Whether most images are answered alike when mirrored: then such copies say something."""
        images = self.inputs[:PROBES_OF_MIRRORS]
        if not (is_image(images) and self.evaluator.answers):
            return is_image(images)
        before, after = (
            self.evaluator.kinds[0].answer(predict(self.model, x))
            for x in (images, images[:, :, ::-1])
        )
        return float((before == after).mean()) >= LEAST_AGREEMENT

    def _open_recovery(self, plan: Plan, smaller: keras.Model | None = None) -> RecoveryContext:
        context = self.context
        if smaller is None:
            smaller = remove_channels(self.model, plan, groups=context.groups)
        return RecoveryContext(
            smaller, context.groups, plan, context.statistics, self.inputs, context.seed
        )

    def _recover(
        self, method: Method, plan: Plan, smaller: keras.Model
    ) -> list[tuple[Candidate, keras.Model]]:
        """Try the recoveries that are asked for."""
        recovery = self._open_recovery(plan, smaller)
        names: Sequence[str] = [method.recovery]
        if method.recovery == "auto":
            recovery = replace(recovery, mirrors=self._survives_mirrors())
            names = list_contenders(recovery.mirrors)
        found: list[tuple[Candidate, keras.Model]] = []
        with stage("recovery", len(names)) as advance:
            for name in names:
                recovered = RECOVERIES[name](recovery)
                for recalibrated in _list_recalibrations(method, name):
                    model = recalibrate(recovered, recovery.inputs) if recalibrated else recovered
                    score = self.evaluator.evaluate(model)
                    found.append((Candidate(name, recalibrated, score, method.criterion), model))
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
