"""Widths where whole branches may go, beside the optimum and beside channels alone."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers
from scipy.optimize import Bounds, LinearConstraint, milp
from test_vanishing import build_blocks, build_bottleneck, build_cell

from edgeprune.allocation import CostLimits, Problem, Ranking, allocate_by_gain
from edgeprune.allocation.branches import allocate_with_branches, sum_losses
from edgeprune.allocation.widths import smallest_widths
from edgeprune.cost.budgets import Budget
from edgeprune.cost.cost_model import CostModel
from edgeprune.cost.workload import Widths, emptied
from edgeprune.errors import BudgetError
from edgeprune.tracing.groups import Groups, find_groups

BLOCKS = 6


def build_stream() -> keras.Model:
    """Blocks of one inner layer each around a stream of fixed width: their costs just add up."""
    x = inputs = keras.Input((8,))
    for number in range(BLOCKS):
        inner = layers.Dense(4 + 2 * number, name=f"inner{number}")(x)
        x = layers.Add()([x, layers.Dense(8, name=f"end{number}")(inner)])
    return keras.Model(inputs, layers.Dense(3, name="head")(x))


def draw_rankings(groups: Groups, seed: int) -> dict[str, Ranking]:
    """Losses that fall with every channel, ever more slowly, from a size of each group's own."""
    generator = np.random.default_rng(seed)
    found = {}
    for group in groups.removable:
        gains = np.sort(generator.exponential(size=group.width))[::-1]
        left = np.append(gains.sum(), gains.sum() - np.cumsum(gains))
        error = np.maximum(left, 0) * generator.exponential() / gains.sum()
        found[group.name] = Ranking(np.arange(group.width), error)
    return found


def pose(model: keras.Model, share: float, seed: int) -> Problem:
    groups = find_groups(model)
    limits = CostLimits(CostModel(groups), Budget("macs", share))
    return Problem(groups, draw_rankings(groups, seed), limits, step=1)


class Prices:
    """Constraints like a board's: each channel of a group has a price, and each branch as such."""

    def __init__(self, groups: Groups, share: float, seed: int) -> None:
        generator = np.random.default_rng(100 + seed)
        self.width = {group.name: group.width for group in groups.removable}
        self.channel = {name: float(generator.exponential()) for name in self.width}
        self.branch = {name: float(4 * generator.exponential()) for name in self.width}
        self.limit = share * sum(map(self.price, self.width, self.width.values()))

    def price(self, name: str, width: int) -> float:
        return self.channel[name] * width + self.branch[name] * (width > 0)

    def excess(self, widths: Widths) -> float:
        found = {**self.width, **widths}
        return sum(self.price(name, found[name]) for name in self.width) / self.limit

    def marginal(self, widths: Widths) -> dict[str, float]:
        return {name: price / self.limit for name, price in self.channel.items()}


def solve(problem: Problem, prices: Prices) -> float:
    """The least sum of losses, by integer programming over one width per group."""
    losses, costs, rows = [], [], []
    for number, name in enumerate(problem.choices):
        for width in (0, *problem.choices[name]):
            losses.append(problem.rankings[name].error[width])
            costs.append(prices.price(name, width))
            rows.append(number)
    one_each = np.equal.outer(np.arange(len(problem.choices)), rows).astype(float)
    found = milp(
        np.array(losses),
        constraints=[
            LinearConstraint(one_each, 1, 1),
            LinearConstraint(np.array(costs)[None], ub=prices.limit),
        ],
        integrality=np.ones(len(losses)),
        bounds=Bounds(0, 1),
        options={"mip_rel_gap": 0},
    )
    assert found.success
    return float(found.fun)


@pytest.mark.parametrize("share", [0.3, 0.5, 0.7])
def test_greedy_comes_close_to_the_integer_optimum(share) -> None:
    groups = find_groups(build_stream())
    ratios = []
    for seed in range(12):
        prices = Prices(groups, share, seed)
        problem = Problem(groups, draw_rankings(groups, seed), prices, step=1)
        widths = allocate_with_branches(problem)
        assert problem.meets(widths)
        ratios.append(sum_losses(problem, widths) / solve(problem, prices))
    assert min(ratios) > 1 - 1e-6  # or the optimum is none
    assert float(np.mean(ratios)) < 1.15
    assert max(ratios) < 2.0


@pytest.mark.parametrize("build", [build_blocks, build_bottleneck, build_stream])
@pytest.mark.parametrize("seed", range(4))
def test_no_more_is_lost_than_without_width_zero(build, seed) -> None:
    problem = pose(build(), 0.6, seed)
    channels = allocate_by_gain(problem)
    branches = allocate_with_branches(problem)
    assert sum_losses(problem, branches) <= sum_losses(problem, channels) + 1e-12


def test_a_branch_that_loses_nothing_goes_whole_and_the_rest_stays() -> None:
    problem = pose(build_blocks(), 0.7, 0)
    error = np.linspace(1e-6, 0, problem.groups["block1"].width + 1)
    rankings = {**problem.rankings, "block1": Ranking(np.arange(len(error) - 1), error)}
    problem = Problem(problem.groups, rankings, problem.constraints, step=1)
    widths = allocate_with_branches(problem)
    assert emptied(widths) == {"block1"}
    assert all(widths[name] == problem.groups[name].width for name in widths if name != "block1")


def test_budgets_below_what_channels_reach_are_met_by_branches() -> None:
    groups = find_groups(build_blocks())
    costs = CostModel(groups)
    channels = costs.count(smallest_widths(groups, 8)).macs
    branches = costs.count(smallest_widths(groups, 8, empties=True)).macs
    assert branches < channels
    share = (channels + branches) / 2 / costs.full.macs
    limits = CostLimits(costs, Budget("macs", share))
    problem = Problem(groups, draw_rankings(groups, 0), limits, step=8)
    with pytest.raises(BudgetError):
        allocate_by_gain(problem)
    assert problem.meets(allocate_with_branches(problem))
    too_little = Problem(groups, problem.rankings, CostLimits(costs, Budget("macs", 1e-4)), step=8)
    with pytest.raises(BudgetError, match="cannot be met"):
        allocate_with_branches(too_little)


@pytest.mark.parametrize("seed", range(6))
def test_the_smallest_reachable_budget_is_met(seed) -> None:
    """Two branches of a cell may go, but not both: the greedy choice may be the wrong one."""
    groups = find_groups(build_cell())
    costs = CostModel(groups)
    least = costs.count(smallest_widths(groups, 8, empties=True)).macs
    limits = CostLimits(costs, Budget("macs", least / costs.full.macs))
    problem = Problem(groups, draw_rankings(groups, seed), limits, step=8)
    assert problem.meets(allocate_with_branches(problem))
