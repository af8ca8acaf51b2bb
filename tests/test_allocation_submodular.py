from __future__ import annotations

import itertools

import networks
import numpy as np
import pytest

from edgeprune.allocation import CostLimits, Problem, Ranking, allocate_submodular
from edgeprune.allocation.strategies import worth
from edgeprune.cost.budgets import Budgets
from edgeprune.cost.cost_model import CostModel
from edgeprune.pruning.methods import METHODS
from edgeprune.pruning.planning import make_plan
from edgeprune.scoring.collection import collect_statistics
from edgeprune.scoring.context import PruningContext
from edgeprune.tracing.groups import find_groups


@pytest.fixture(scope="module")
def groups():
    return find_groups(networks.randomize(networks.build_residual_network()))


def make_problem(groups, seed: int, budget: str = "macs=50%", step: int = 1) -> Problem:
    generator = np.random.default_rng(seed)
    rankings = {
        group.name: Ranking(
            np.arange(group.width), np.zeros(group.width + 1),
            -np.sort(-generator.normal(size=group.width)),
        )
        for group in groups.removable
    }  # fmt: skip
    return Problem(
        groups, rankings, CostLimits(CostModel(groups), *Budgets.parse(budget).budgets), step
    )


@pytest.mark.parametrize("seed", range(5))
def test_the_budget_is_met_and_nothing_more_fits(groups, seed) -> None:
    problem = make_problem(groups, seed)
    widths = allocate_submodular(problem)
    assert problem.meets(widths)
    for name, width in widths.items():
        assert width == groups[name].width or not problem.meets({**widths, name: width + 1})


@pytest.mark.parametrize("seed", range(5))
def test_the_worth_is_close_to_the_best_of_all_widths(groups, seed) -> None:
    problem = make_problem(groups, seed, step=8)

    def total(widths) -> float:
        return sum(worth(problem.rankings[name])[width] for name, width in widths.items())

    choices = problem.choices
    best = max(
        total(widths)
        for combination in itertools.product(*choices.values())
        if problem.meets(widths := dict(zip(choices, combination, strict=True)))
    )
    assert total(allocate_submodular(problem)) >= 0.9 * best


def test_without_a_single_gain_every_channel_counts_the_same() -> None:
    ranking = Ranking(np.arange(4), np.zeros(5), -np.ones(4))
    np.testing.assert_allclose(worth(ranking), np.sqrt(np.arange(5) / 4))


def test_widths_and_selection_are_found_in_turns(groups, monkeypatch) -> None:
    """The last ranking was made for the widths of the round before it."""
    x = np.random.default_rng(0).normal(size=(50, 8, 8, 3)).astype(np.float32)
    statistics = collect_statistics(groups, x, np.arange(50) % 5, num_classes=5)
    context = PruningContext(groups, statistics)
    seen = []

    def watch(context, group):
        seen.append(dict(context.widths))
        return honest(context, group)

    from edgeprune.scoring.criteria import CRITERIA

    honest = CRITERIA["trace_ratio"]
    monkeypatch.setitem(CRITERIA, "trace_ratio", watch)
    method = METHODS["catro"]
    plan = make_plan(context, CostModel(groups), Budgets.parse("macs=60%"), method=method, step=1)
    rounds = seen[:: len(groups.removable)]
    assert rounds[0] == {}
    assert 2 <= len(rounds) <= method.settings.rounds
    for group in groups.removable:
        width = rounds[-1].get(group.name, group.width)
        assert 1 <= width <= group.width
    assert plan.keep
