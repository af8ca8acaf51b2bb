from __future__ import annotations

import pytest

from edgeprune.building.latency_rounds import meet_latency
from edgeprune.cost.budgets import Budgets
from edgeprune.errors import BudgetError


def asked(budgets: Budgets) -> float:
    return next(budget.amount for budget in budgets if budget.quantity == "latency")


@pytest.mark.parametrize("wrong", [0.5, 0.97, 1.0, 1.02, 1.8])
def test_the_measured_latency_meets_the_budget_however_wrong_the_predictor_is(wrong) -> None:
    best, rounds = meet_latency(
        asked, lambda ms: 0.3 + wrong * ms, Budgets.parse("latency=10ms"), 10.0
    )
    assert 9 <= best.measured_ms <= 10
    assert len(rounds) <= 3
    assert rounds[-1] is best


def test_a_predictor_that_is_right_needs_one_round() -> None:
    _, rounds = meet_latency(asked, lambda ms: 0.95 * ms, Budgets.parse("latency=10ms"), 10.0)
    assert len(rounds) == 1


def test_other_budgets_are_kept_in_every_round() -> None:
    seen = []
    meet_latency(
        lambda budgets: seen.append(str(budgets)) or asked(budgets),
        lambda ms: 2 * ms,
        Budgets.parse("latency=10ms,size=500KB"),
        10.0,
    )
    assert seen == ["latency=10ms,size=500000B", "latency=4.8ms,size=500000B"]


def test_widths_come_in_steps_so_the_slowest_that_meets_the_limit_is_delivered() -> None:
    best, rounds = meet_latency(
        asked, lambda ms: 12.0 if ms > 9 else 7.0, Budgets.parse("latency=10ms"), 10.0
    )
    assert best.measured_ms == 7.0
    assert [turn.measured_ms for turn in rounds[:2]] == [12.0, 7.0]


def test_when_nothing_meets_the_limit_the_fastest_is_delivered() -> None:
    best, rounds = meet_latency(
        asked, lambda ms: 20 + ms, Budgets.parse("latency=10ms"), 10.0, most_rounds=3
    )
    assert best.measured_ms == min(turn.measured_ms for turn in rounds) > 10
    assert len(rounds) == 3


def test_a_correction_that_cannot_be_made_ends_the_loop_with_what_there_is() -> None:
    def make(budgets: Budgets) -> float:
        if asked(budgets) < 8:
            raise BudgetError("cannot be met")
        return asked(budgets)

    best, rounds = meet_latency(make, lambda ms: 2 * ms, Budgets.parse("latency=10ms"), 10.0)
    assert (best.measured_ms, len(rounds)) == (20.0, 1)
    with pytest.raises(BudgetError):
        meet_latency(make, lambda ms: ms, Budgets.parse("latency=5ms"), 5.0)
