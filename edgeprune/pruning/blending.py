"""The search for a blend of criteria that does best on validation, after He et al. (2021).

Widths are fixed; a genome names for every group one criterion of each cluster and its weight.
Differential evolution starts from the pure criteria, so the result is never below the best of them
on the samples that evaluator.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy.optimize import differential_evolution

from edgeprune.evaluation.evaluator import Score
from edgeprune.scoring.blends import BLENDED, gather_opinions
from edgeprune.scoring.context import PruningContext, dead_last
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
        score: of the plan.
        pure: score of every criterion alone, at the same widths.
        evaluations: how many plans were scored.
    """

    plan: Plan = field(repr=False)
    weights: Weights = field(repr=False)
    score: Score
    pure: Mapping[str, Score]
    evaluations: int


def search_blends(
    context: PruningContext,
    plan: Plan,
    score: Callable[[Plan], Score],
    *,
    time_limit: float = float("inf"),
    clock: Callable[[], float] = time.monotonic,
) -> Blending:
    """Search criteria and weights for the groups that a plan shrinks, at the plan's widths.

    Args:
        context: of the model; `settings` say how many generations and blends.
        plan: gives the widths.
        score: how good a plan is on validation samples.
        time_limit: in seconds; the pure criteria are scored whatever the time.
        clock: in seconds.
    """
    settings = context.settings
    search = _Search(context, plan, score)
    members = len(BLENDED)
    size = members + max(settings.population, 1)
    total = size * max(settings.generations, 1)
    end = clock() + time_limit
    with stage("blending criteria", total) as advance:

        def lose(genome: np.ndarray) -> float:
            if clock() < end or search.evaluations < members:
                search.try_genome(genome)
                advance()
                return -search.value(genome)
            return 0.0

        pure = {name: search.try_genome(search.pure(name)) for name in BLENDED}
        generator = np.random.default_rng(context.seed)
        first = np.stack([search.pure(name) for name in BLENDED])
        others = generator.random((size - members, first.shape[1]))
        differential_evolution(
            lose,
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
    """Turns genomes into plans, and remembers their scores."""

    def __init__(
        self,
        context: PruningContext,
        plan: Plan,
        score: Callable[[Plan], Score],
    ) -> None:
        self.context = context
        self.plan = plan
        self.score = score
        self.groups = [context.groups[name] for name, kept in plan.keep.items() if kept]
        self.opinions = {group.name: gather_opinions(context, group) for group in self.groups}
        self.scores: dict[Plan, Score] = {}
        self.evaluations = 0
        self.best: tuple[Score, Plan, np.ndarray] = (Score(-1.0, -np.inf), plan, np.empty(0))

    def try_genome(self, genome: np.ndarray) -> Score:
        """Score a genome; the first of several equals stays the best."""
        plan = self.make_plan(genome)
        if plan not in self.scores:
            self.scores[plan] = self.score(plan)
        self.evaluations += 1
        found = self.scores[plan]
        if found > self.best[0]:
            self.best = (found, plan, genome)
        return found

    def value(self, genome: np.ndarray) -> float:
        """Return a score as one number: closeness decides between equal accuracies."""
        score = self.scores[self.make_plan(genome)]
        return score.accuracy + NEGLIGIBLE * float(np.exp(min(score.closeness, 0.0)))

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
        keep = dict(self.plan.keep)
        for group in self.groups:
            keep[group.name] = self._choose(group, weights[group.name], keep[group.name])
        return Plan(keep, self.plan.fingerprint, self.plan.classes)

    def _choose(
        self, group: Group, weights: Mapping[str, float], kept: Sequence[int]
    ) -> tuple[int, ...]:
        def score(context: PruningContext, group: Group) -> np.ndarray:
            return self.opinions[group.name].blend(weights)

        scores = dead_last(score)(self.context, group)
        order = np.argsort(-scores, kind="stable")
        return tuple(sorted(order[: len(kept)].tolist()))
