from __future__ import annotations

import itertools
import re

import keras
import networks
import numpy as np
import pytest
import scipy.spatial
from keras import layers

from edgeprune.allocation import (
    CostLimits,
    Problem,
    Ranking,
    allocate_by_gain,
    allowed_widths,
    check_budget,
    fix_classes,
    keep_channels,
    smallest_cost,
)
from edgeprune.allocation.strategies import allocate_by_score, convex_hull, normalize
from edgeprune.allocation.widths import NOTHING
from edgeprune.cost.budgets import Budget
from edgeprune.cost.cost_model import CostModel, Widths
from edgeprune.errors import BudgetError, ClassError
from edgeprune.tracing.groups import Groups, find_groups


@pytest.mark.parametrize(
    ("width", "step", "expected"),
    [
        (40, 8, (8, 16, 24, 32, 40)),
        (36, 8, (8, 16, 24, 32, 36)),
        (31, 8, (4, 8, 12, 16, 20, 24, 28, 31)),
        (16, 8, (4, 8, 12, 16)),
        (15, 8, (2, 4, 6, 8, 10, 12, 14, 15)),
        (2, 8, (2,)),
        (1, 8, (1,)),
        (64, 16, (16, 32, 48, 64)),
        (5, 1, (1, 2, 3, 4, 5)),
        (40, 1, tuple(range(1, 41))),
        (6, 2, (1, 2, 3, 4, 5, 6)),
    ],
)
def test_widths_are_multiples_of_the_step_or_the_layers_own(width, step, expected) -> None:
    assert allowed_widths(width, step) == expected


@pytest.mark.parametrize("seed", range(20))
def test_the_hull_is_the_largest_convex_function_below_the_error(seed) -> None:
    generator = np.random.default_rng(seed)
    widths = tuple(np.unique(generator.integers(1, 60, 12)).tolist())
    error = np.sort(generator.random(61))[::-1]
    corners = convex_hull(widths, error)
    assert (corners[0], corners[-1]) == (widths[0], widths[-1])
    below = np.interp(widths, corners, error[list(corners)])
    assert (below <= error[list(widths)] + 1e-12).all()
    assert (np.diff(np.diff(error[list(corners)]) / np.diff(corners)) > 0).all()
    points = np.column_stack([widths, error[list(widths)]])
    roof = np.array([[widths[0], 2.0], [widths[-1], 2.0]])
    hull = scipy.spatial.ConvexHull(np.concatenate([points, roof]))
    assert {widths[i] for i in hull.vertices if i < len(widths)} == set(corners)


def random_rankings(groups: Groups, seed: int = 0) -> dict[str, Ranking]:
    generator = np.random.default_rng(seed)
    rankings = {}
    for group in groups.removable:
        losses = generator.random(group.width) ** 3 * generator.random()
        error = np.append(np.cumsum(np.sort(losses))[::-1], 0)
        rankings[group.name] = Ranking(generator.permutation(group.width), error)
    return rankings


def by_gain(
    groups: Groups,
    rankings: dict[str, Ranking],
    budget: Budget,
    *,
    step: int = 8,
    fixed: Widths = NOTHING,
) -> dict[str, int]:
    limits = CostLimits(CostModel(groups), budget, fixed=fixed)
    return allocate_by_gain(Problem(groups, rankings, limits, step))


def build_wide_network() -> keras.Model:
    """Groups of 24 to 64 channels, with steps of 4 and 8."""
    inputs = keras.Input((8, 8, 3))
    x = stem = layers.Conv2D(32, 3, padding="same", activation="relu", name="stem")(inputs)
    x = layers.Conv2D(24, 1, activation="relu", name="inner")(x)
    x = layers.Conv2D(32, 3, padding="same", name="outer")(x)
    x = layers.Add()([x, stem])
    x = layers.Conv2D(64, 3, strides=2, activation="relu", name="last")(x)
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(100, name="head")(x))


BUILDERS = [networks.build_residual_network, networks.build_mobile_network, build_wide_network]
models = pytest.mark.parametrize("build", BUILDERS, ids=lambda build: build.__name__)


@models
@pytest.mark.parametrize("quantity", ["macs", "params"])
@pytest.mark.parametrize("step", [1, 8])
def test_a_budget_is_met_within_one_step_by_allowed_widths(build, quantity, step) -> None:
    groups = find_groups(build())
    costs = CostModel(groups)
    lowest = getattr(smallest_cost(groups, costs, step), quantity)
    full = getattr(costs.full, quantity)
    for seed, share in enumerate((0.05, 0.3, 0.6, 0.9)):
        limit = lowest + share * (full - lowest)
        rankings = random_rankings(groups, seed)
        budget = Budget(quantity, limit, relative=False)
        widths = by_gain(groups, rankings, budget, step=step)
        assert getattr(costs.count(widths), quantity) <= limit
        assert widths.keys() == {group.name for group in groups.removable}
        for name, width in widths.items():
            choices = allowed_widths(groups[name].width, step)
            assert width in choices
            for wider in choices[choices.index(width) + 1 :][:1]:
                assert getattr(costs.count(widths | {name: wider}), quantity) > limit


@models
def test_a_larger_budget_is_spent_and_loses_less(build) -> None:
    groups = find_groups(build())
    costs = CostModel(groups)
    rankings = random_rankings(groups, 1)
    spent, lost = [], []
    for share in np.linspace(0.45, 1, 12):
        widths = by_gain(groups, rankings, Budget("macs", share), step=1)
        spent.append(costs.count(widths).macs)
        lost.append(sum(rankings[name].error[width] for name, width in widths.items()))
    assert spent == sorted(spent)
    assert (np.diff(lost) <= 1e-3 * lost[0]).all()
    assert spent[-1] == costs.full.macs
    assert lost[-1] == 0


def build_branches() -> keras.Model:
    """Three groups whose costs do not depend on each other."""
    inputs = keras.Input((4,))
    outputs = [
        layers.Dense(1, name=f"out{i}")(layers.Dense(width, name=f"hidden{i}")(inputs))
        for i, width in enumerate((6, 8, 10))
    ]
    return keras.Model(inputs, outputs)


@pytest.mark.parametrize("seed", range(5))
def test_independent_groups_lose_no_more_than_the_best_of_all_widths(seed) -> None:
    groups = find_groups(build_branches())
    costs = CostModel(groups)
    generator = np.random.default_rng(seed)
    rankings = {
        group.name: Ranking(
            np.arange(group.width),
            np.append(np.cumsum(np.sort(generator.random(group.width)))[::-1], 0),
        )
        for group in groups.removable
    }
    names = list(rankings)

    def lost(widths: tuple[int, ...]) -> float:
        return sum(rankings[n].error[w] for n, w in zip(names, widths, strict=True))

    one_channel = 5  # MACs: four inputs, one output
    everything = list(itertools.product(*(range(1, groups[name].width + 1) for name in names)))
    for share in (0.3, 0.5, 0.8):
        limit = share * costs.full.macs
        widths = by_gain(groups, rankings, Budget("macs", share), step=1)
        best = min(lost(w) for w in everything if one_channel * sum(w) <= limit)
        assert lost(tuple(widths[name] for name in names)) == pytest.approx(best)


def test_precious_channels_stay_and_useless_ones_go() -> None:
    groups = find_groups(build_branches())
    useless = Ranking(np.arange(6), np.zeros(7))
    precious = Ranking(np.arange(10), np.linspace(10, 0, 11))
    middling = Ranking(np.arange(8), np.linspace(1, 0, 9))
    rankings = {"hidden0": useless, "hidden1": middling, "hidden2": precious}
    widths = by_gain(groups, rankings, Budget("macs", 0.5), step=1)
    assert widths == {"hidden0": 1, "hidden1": 1, "hidden2": 10}


def test_one_precious_channel_does_not_hide_useless_ones_before_it() -> None:
    groups = find_groups(build_branches())
    hidden = Ranking(np.arange(10), np.array([9, 0.3, 0.3, 0.3, 0.3, 0.3, 0.3, 0.3, 0.3, 0.3, 0]))
    steady = {
        name: Ranking(np.arange(width), np.linspace(width / 10, 0, width + 1))
        for name, width in (("hidden0", 6), ("hidden1", 8))
    }
    rankings = {**steady, "hidden2": hidden}
    widths = by_gain(groups, rankings, Budget("macs", 0.7), step=1)
    assert widths == {"hidden0": 6, "hidden1": 8, "hidden2": 2}


def test_an_impossible_budget_names_what_is_reachable_and_that_is() -> None:
    groups = find_groups(build_wide_network())
    costs = CostModel(groups)
    smallest = smallest_cost(groups, costs)
    with pytest.raises(BudgetError) as caught:
        check_budget(groups, costs, Budget("params", 0.01))
    message = str(caught.value)
    assert re.fullmatch(
        r"The budget params=1% cannot be met: this model can go down to params=[0-9.]+% "
        rf"\({smallest.params:,} of {costs.full.params:,}\) \(a finer step than 8 reaches lower: "
        r"--step 1\)\. Ask for at least that\.",
        message,
    )
    named = Budget.parse(re.search(r"params=[0-9.]+%(?= \()", message).group())
    check_budget(groups, costs, named)
    limit = named.limit(costs.full.params)
    assert limit >= smallest.params
    widths = by_gain(groups, random_rankings(groups), named)
    assert costs.count(widths).params <= limit


def test_with_the_finest_step_there_is_no_hint_of_a_finer_one() -> None:
    groups = find_groups(build_wide_network())
    with pytest.raises(BudgetError, match=r"of [0-9,]+\)\. Ask for"):
        check_budget(groups, CostModel(groups), Budget("macs", 1e-4), 1)


def test_the_head_of_a_specialist_counts_with_the_classes_it_keeps() -> None:
    groups = find_groups(build_wide_network())
    costs = CostModel(groups)
    fixed = fix_classes(groups, (3, 1))
    assert fixed == {"head": 2}
    budget = Budget("params", costs.count(fixed).params, relative=False)
    rankings = random_rankings(groups)
    whole = by_gain(groups, rankings, budget, fixed=fixed)
    assert whole == {group.name: group.width for group in groups.removable}
    assert by_gain(groups, rankings, budget) != whole
    lowest = smallest_cost(groups, costs, fixed=fixed).params
    assert lowest < smallest_cost(groups, costs).params
    check_budget(groups, costs, Budget("params", lowest, False), 8, fixed)
    with pytest.raises(BudgetError, match="cannot be met"):
        check_budget(groups, costs, Budget("params", lowest - 1, False), 8, fixed)


def test_without_classes_nothing_is_fixed_and_classes_need_a_head() -> None:
    groups = find_groups(build_branches())
    assert fix_classes(groups, None) == {}
    with pytest.raises(ClassError, match="has 3 outputs"):
        fix_classes(groups, (0,))


def test_of_several_budgets_the_most_exceeded_counts_and_all_are_met() -> None:
    groups = find_groups(build_wide_network())
    costs = CostModel(groups)
    few, small = Budget("macs", 0.8), Budget("params", 0.5)
    limits = CostLimits(costs, few, small)
    assert limits.excess({}) == pytest.approx(2)
    assert limits.marginal({})["inner"] == pytest.approx(
        costs.marginal("params", {})["inner"] / (0.5 * costs.full.params)
    )
    widths = allocate_by_gain(Problem(groups, random_rankings(groups), limits))
    assert costs.count(widths).macs <= 0.8 * costs.full.macs
    assert costs.count(widths).params <= 0.5 * costs.full.params


def test_allocation_itself_refuses_what_no_width_meets() -> None:
    groups = find_groups(build_wide_network())
    with pytest.raises(BudgetError, match=r"smallest width the model still costs [0-9.]+ times"):
        by_gain(groups, random_rankings(groups), Budget("params", 0.01))


def test_the_best_channels_are_kept_sorted() -> None:
    ranking = Ranking(np.array([4, 0, 3, 1, 2]), np.zeros(6))
    assert keep_channels(ranking, 3) == (0, 3, 4)


@pytest.mark.parametrize("distance", [1.0, 1e3, 1e9])
def test_dead_channels_do_not_lift_the_scores_of_live_ones(distance) -> None:
    live = np.array([3.0, 2.0, 1.0])
    alone = normalize(Ranking(np.arange(3), np.zeros(4), live))
    scores = np.append(live, [1 - distance, 1 - 2 * distance])
    beside = normalize(Ranking(np.arange(5), np.zeros(6), scores, dead=2))
    np.testing.assert_allclose(beside[:3], alone)
    assert (beside[3:] < alone.min()).all()


def test_one_threshold_takes_the_dead_channels_first_and_spares_no_group_for_them() -> None:
    groups = find_groups(build_branches())

    def widths(dead: int) -> dict[str, int]:
        generator = np.random.default_rng(0)
        rankings = {}
        for name, width in (("hidden0", 6), ("hidden1", 8), ("hidden2", 10)):
            scores = -np.sort(-generator.random(width))
            if name == "hidden2" and dead:
                scores[-dead:] = -100 - np.arange(dead)
            held = dead if name == "hidden2" else 0
            rankings[name] = Ranking(np.arange(width), np.linspace(1, 0, width + 1), scores, held)
        limits = CostLimits(CostModel(groups), Budget("macs", 0.5))
        return allocate_by_score(Problem(groups, rankings, limits, 1))

    assert widths(dead=6)["hidden2"] <= widths(dead=0)["hidden2"] <= 6
