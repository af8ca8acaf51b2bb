"""The search for a blend of criteria that does best on validation, after He et al. (2021).

Widths are fixed; a genome names for every group one criterion of each cluster and its weight.
Differential evolution starts from the pure criteria, so the result is never below the best of them
on the samples that judge.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy.optimize import differential_evolution

from edgeprune.evaluation.evaluator import Grade
from edgeprune.scoring.blends import BLENDED, gather_opinions
from edgeprune.scoring.context import Evidence
from edgeprune.scoring.deadness import dead_last
from edgeprune.support.progress import stage
from edgeprune.surgery.plan import Plan
from edgeprune.tracing.groups import Group

NEGLIGIBLE = 1e-6

Weights = Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class Blending:
    """What a search found.

    Attributes:
        plan: of the best blend, or of a pure criterion that nothing beat.
        weights: group name -> name of a criterion -> weight.
        grade: of the plan.
        pure: grade of every criterion alone, at the same widths.
        evaluations: how many plans were graded.
    """

    plan: Plan = field(repr=False)
    weights: Weights = field(repr=False)
    grade: Grade
    pure: Mapping[str, Grade]
    evaluations: int


def search_blends(
    evidence: Evidence,
    plan: Plan,
    grade: Callable[[Plan], Grade],
    *,
    time_limit: float = float("inf"),
    clock: Callable[[], float] = time.monotonic,
) -> Blending:
    """Search criteria and weights for the groups that a plan shrinks, at the plan's widths.

    Args:
        evidence: of the model; `settings` say how many generations and blends.
        plan: gives the widths.
        grade: how good a plan is on validation samples.
        time_limit: in seconds; the pure criteria are graded whatever the time.
        clock: in seconds.
    """
    settings = evidence.settings
    search = _Search(evidence, plan, grade)
    members = len(BLENDED)
    size = members + max(settings.population, 1)
    total = size * max(settings.generations, 1)
    end = clock() + time_limit
    with stage("blending criteria", total) as advance:

        def judge(genome: np.ndarray) -> float:
            if clock() < end or search.evaluations < members:
                search.try_genome(genome)
                advance()
                return -search.value(genome)
            return 0.0

        pure = {name: search.try_genome(search.pure(name)) for name in BLENDED}
        generator = np.random.default_rng(evidence.seed)
        first = np.stack([search.pure(name) for name in BLENDED])
        others = generator.random((size - members, first.shape[1]))
        differential_evolution(
            judge,
            [(0.0, 1.0)] * first.shape[1],
            init=np.vstack([first, others]),
            maxiter=max(settings.generations, 1) - 1,
            polish=False,
            tol=0,
            updating="deferred",
            seed=generator,
        )
    found, best, genome = search.best
    return Blending(best, search.decode(genome), found, pure, search.evaluations)


class _Search:
    """Turns genomes into plans, and remembers their grades."""

    def __init__(
        self,
        evidence: Evidence,
        plan: Plan,
        grade: Callable[[Plan], Grade],
    ) -> None:
        self.evidence = evidence
        self.plan = plan
        self.grade = grade
        self.groups = [evidence.groups[name] for name in plan.keep]
        self.opinions = {group.name: gather_opinions(evidence, group) for group in self.groups}
        self.grades: dict[Plan, Grade] = {}
        self.evaluations = 0
        self.best: tuple[Grade, Plan, np.ndarray] = (Grade(-1.0, -np.inf), plan, np.empty(0))

    def try_genome(self, genome: np.ndarray) -> Grade:
        """Grade a genome; the first of several equals stays the best."""
        plan = self.make_plan(genome)
        if plan not in self.grades:
            self.grades[plan] = self.grade(plan)
        self.evaluations += 1
        found = self.grades[plan]
        if found > self.best[0]:
            self.best = (found, plan, genome)
        return found

    def value(self, genome: np.ndarray) -> float:
        """Return a grade as one number: closeness decides between equal accuracies."""
        grade = self.grades[self.make_plan(genome)]
        return grade.accuracy + NEGLIGIBLE * float(np.exp(min(grade.closeness, 0.0)))

    def pure(self, name: str) -> np.ndarray:
        """Return the genome in which one criterion decides alone."""
        genome: list[float] = []
        for group in self.groups:
            for cluster in self.opinions[group.name].clusters:
                place = cluster.index(name) if name in cluster else 0
                genome += [(place + 0.5) / len(cluster), float(name in cluster)]
        return np.array(genome)

    def decode(self, genome: np.ndarray) -> dict[str, dict[str, float]]:
        """Return the weights that a genome stands for."""
        found: dict[str, dict[str, float]] = {}
        start = 0
        for group in self.groups:
            weights = {}
            for cluster in self.opinions[group.name].clusters:
                place, weight = genome[start : start + 2]
                weights[cluster[min(int(place * len(cluster)), len(cluster) - 1)]] = float(weight)
                start += 2
            found[group.name] = weights
        return found

    def make_plan(self, genome: np.ndarray) -> Plan:
        """Return the plan with the widths of the first one and the best channels of a blend."""
        weights = self.decode(genome)
        keep = {
            group.name: self._choose(group, weights[group.name], self.plan.keep[group.name])
            for group in self.groups
        }
        return Plan(keep, self.plan.fingerprint, self.plan.classes)

    def _choose(
        self, group: Group, weights: Mapping[str, float], kept: Sequence[int]
    ) -> tuple[int, ...]:
        def score(evidence: Evidence, group: Group) -> np.ndarray:
            return self.opinions[group.name].blend(weights)

        scores = dead_last(score)(self.evidence, group)
        order = np.argsort(-scores, kind="stable")
        return tuple(sorted(order[: len(kept)].tolist()))
