"""What every allocation promises: the budget within one channel step, steps, minima."""

from __future__ import annotations

import json

import keras
import networks
import numpy as np
import pytest
from test_allocation import build_wide_network, random_rankings

from edgeprune.allocation import (
    ALLOCATIONS,
    CostLimits,
    Problem,
    Ranking,
    Sensitivity,
    allocate_by_gain,
    allocate_by_score,
    allocate_by_sensitivity,
    allocate_uniformly,
    allowed_widths,
    measure_sensitivity,
    smallest_cost,
)
from edgeprune.cost.budgets import Budget
from edgeprune.cost.cost_model import CostModel, Widths
from edgeprune.errors import BudgetError, PlanError
from edgeprune.tracing.groups import Groups, find_groups

BUILDERS = [networks.build_residual_network, networks.build_mobile_network, build_wide_network]
models = pytest.mark.parametrize("build", BUILDERS, ids=lambda build: build.__name__)


def lose_by_width(groups: Groups):
    """Score widths: every group matters as much as its name is long."""

    def measure(widths: Widths) -> float:
        return -sum(len(n) * (1 - w / groups[n].width) ** 2 for n, w in widths.items())

    return measure


def pose(groups: Groups, budget: Budget, *, step: int = 8, seed: int = 0) -> Problem:
    generator = np.random.default_rng(seed)
    rankings = {
        name: Ranking(found.order, found.error, np.sort(generator.random(len(found.order)))[::-1])
        for name, found in random_rankings(groups, seed).items()
    }
    limits = CostLimits(CostModel(groups), budget)
    return Problem(groups, rankings, limits, step, measure=lose_by_width(groups))


@models
@pytest.mark.parametrize("name", ALLOCATIONS)
@pytest.mark.parametrize("step", [1, 8])
def test_every_allocation_meets_the_budget_within_one_step(build, name, step) -> None:
    groups = find_groups(build())
    costs = CostModel(groups)
    for quantity in ("macs", "params"):
        lowest, full = (
            getattr(cost, quantity) for cost in (smallest_cost(groups, costs, step), costs.full)
        )
        for seed, share in enumerate((0.02, 0.4, 0.8)):
            limit = lowest + share * (full - lowest)
            budget = Budget(quantity, limit, relative=False)
            widths = ALLOCATIONS[name](pose(groups, budget, step=step, seed=seed))
            assert widths.keys() == {group.name for group in groups.removable}
            assert getattr(costs.count(widths), quantity) <= limit
            for group, width in widths.items():
                choices = allowed_widths(groups[group].width, step)
                assert width in choices
                for wider in choices[choices.index(width) + 1 :][:1]:
                    assert getattr(costs.count(widths | {group: wider}), quantity) > limit


@pytest.mark.parametrize("name", ALLOCATIONS)
def test_every_allocation_keeps_all_when_all_may_stay_and_refuses_the_impossible(name) -> None:
    groups = find_groups(build_wide_network())
    whole = {group.name: group.width for group in groups.removable}
    assert ALLOCATIONS[name](pose(groups, Budget("macs", 1.0))) == whole
    with pytest.raises(BudgetError):
        ALLOCATIONS[name](pose(groups, Budget("macs", 1e-4)))


@pytest.mark.parametrize("name", ALLOCATIONS)
def test_every_allocation_repeats_itself(name) -> None:
    groups = find_groups(build_wide_network())
    one, two = (ALLOCATIONS[name](pose(groups, Budget("macs", 0.5))) for _ in range(2))
    assert one == two


def test_uniform_widths_are_one_share_before_the_rest_is_given_back() -> None:
    groups = find_groups(build_wide_network())
    budget = Budget("macs", 0.5)
    widths = allocate_uniformly(pose(groups, budget, step=1))
    shares = [width / groups[name].width for name, width in widths.items()]
    assert max(shares) - min(shares) < 0.15
    assert max(shares) < 1


def build_branches(widths: tuple[int, ...]) -> keras.Model:
    inputs = keras.Input((4,))
    outputs = [
        keras.layers.Dense(1, name=f"out{i}")(keras.layers.Dense(w, name=f"hidden{i}")(inputs))
        for i, w in enumerate(widths)
    ]
    return keras.Model(inputs, outputs)


def test_a_global_threshold_takes_the_best_scores_of_all_groups_whatever_their_scale() -> None:
    groups = find_groups(build_branches((4, 4)))
    scores = {
        "hidden0": np.array([4.0, 3.0, 0.2, 0.0]),
        "hidden1": 100 * np.array([4.0, 0.4, 0.1, 0.0]),
    }
    rankings = {
        name: Ranking(np.arange(4), np.linspace(1, 0, 5), found) for name, found in scores.items()
    }
    limits = CostLimits(CostModel(groups), Budget("macs", 3 / 8))
    assert allocate_by_score(Problem(groups, rankings, limits, 1)) == {"hidden0": 2, "hidden1": 1}


def test_what_measures_as_harmless_is_narrowed_first() -> None:
    groups = find_groups(build_branches((8, 8)))
    rankings = random_rankings(groups)

    def measure(widths: Widths) -> float:
        return 0.9 - 0.05 * (8 - widths.get("hidden1", 8))

    limits = CostLimits(CostModel(groups), Budget("macs", 0.6))
    problem = Problem(groups, rankings, limits, 1, measure=measure)
    widths = allocate_by_sensitivity(problem)
    assert widths["hidden0"] == 1
    assert widths["hidden1"] == 8
    assert allocate_by_gain(problem) != widths


def test_sensitivity_without_a_measure_is_refused() -> None:
    groups = find_groups(build_branches((8, 8)))
    limits = CostLimits(CostModel(groups), Budget("macs", 0.6))
    with pytest.raises(ValueError, match=r"needs problem\.measure"):
        allocate_by_sensitivity(Problem(groups, random_rankings(groups), limits))


def test_an_interrupted_measurement_goes_on_where_it_stopped(tmp_path) -> None:
    groups = find_groups(build_branches((8, 12)))
    limits = CostLimits(CostModel(groups), Budget("macs", 0.6))
    problem = Problem(groups, random_rankings(groups), limits, 1)
    asked: list[dict[str, int]] = []

    def measure(widths: Widths) -> float:
        asked.append(dict(widths))
        if len(asked) == 7:
            raise KeyboardInterrupt
        return -float(sum(widths.values()))

    cache = tmp_path / "sensitivity.json"
    with pytest.raises(KeyboardInterrupt):
        measure_sensitivity(problem, measure, cache=cache)
    found = measure_sensitivity(problem, measure, cache=cache)
    finished = next(iter(asked[1]))  # the second group was being measured
    assert all(finished not in widths for widths in asked[7:])
    assert set(found.scores) == {"hidden0", "hidden1"}
    assert found == Sensitivity.load(cache)
    assert all(found.scores["hidden1"][w] == -w for w in found.scores["hidden1"] if w < 12)
    count = len(asked)
    assert measure_sensitivity(problem, measure, cache=cache) == found
    assert len(asked) == count


def test_a_file_of_another_model_is_replaced_and_one_of_another_kind_is_refused(tmp_path) -> None:
    groups = find_groups(build_branches((8, 12)))
    limits = CostLimits(CostModel(groups), Budget("macs", 0.6))
    problem = Problem(groups, random_rankings(groups), limits, 1)
    cache = tmp_path / "sensitivity.json"
    Sensitivity("another", 1.0, {}).save(cache)
    with pytest.warns(UserWarning, match=r"sensitivity .* is of another model, .*starting anew"):
        measure_sensitivity(problem, lambda widths: 1.0, cache=cache, settings="five classes")
    with pytest.warns(UserWarning, match="starting anew"):
        found = measure_sensitivity(
            problem, lambda widths: 2.0, cache=cache, settings="two classes"
        )
    assert found.full == 2
    assert Sensitivity.load(cache) == found
    cache.write_text(json.dumps([1, 2]))
    with pytest.raises(PlanError, match=r"Cannot read the sensitivity .*delete the file"):
        measure_sensitivity(problem, lambda widths: 0.0, cache=cache)


def test_curves_are_drawn(tmp_path) -> None:
    pytest.importorskip("matplotlib")
    found = Sensitivity("x", 0.9, {"conv": {2: 0.5, 4: 0.8, 8: 0.9}, "other": {1: 0.1, 3: 0.9}})
    for name in ("curves.png", "curves.svg"):
        found.plot(tmp_path / name)
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    drawing = (tmp_path / "curves.svg").read_text()
    assert "conv" in drawing
    assert "other" in drawing
