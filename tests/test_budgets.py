from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeprune.cost.budgets import QUANTITIES, Budget, Budgets
from edgeprune.errors import BudgetError


@pytest.mark.parametrize(
    ("text", "quantity", "limit"),
    [
        ("macs=50%", "macs", 5e5),
        ("macs = 12.5 %", "macs", 1.25e5),
        ("macs=6.2M", "macs", 6.2e6),
        ("params=120k", "params", 1.2e5),
        ("params=120K", "params", 1.2e5),
        ("macs=1G", "macs", 1e9),
        ("params=1e5", "params", 1e5),
        ("latency=20ms", "latency", 20),
        ("latency=0.02 s", "latency", 20),
        ("latency=800us", "latency", 0.8),
        ("latency=40%", "latency", 4e5),
        ("energy=50mJ", "energy", 50),
        ("energy=0.05J", "energy", 50),
        ("size=500KB", "size", 5e5),
        ("size=2MiB", "size", 2**21),
        ("memory=1.5MB", "memory", 1.5e6),
        ("memory=65536", "memory", 65536),
        ("fits=edgetpu", "fits", 7.7 * 2**20),
    ],
)
def test_a_budget_is_read_from_text(text, quantity, limit) -> None:
    budget = Budget.parse(text)
    assert budget.quantity == quantity
    assert budget.limit(1e6) == pytest.approx(limit)


@given(st.sampled_from(QUANTITIES), st.floats(1e-3, 1), st.booleans())
def test_a_budget_prints_as_text_that_reads_back(quantity, amount, relative) -> None:
    relative = relative and quantity != "fits"
    again = Budget.parse(str(Budget(quantity, amount, relative)))
    assert again.relative == relative
    assert again.amount == pytest.approx(amount, rel=1e-4)


@pytest.mark.parametrize("text", ["macs", "macs=", "macs=many", "macs=1.2.3", "macs=-3", "=50%%"])
def test_unreadable_budgets_are_refused_with_examples(text) -> None:
    with pytest.raises(BudgetError, match=r"Expected QUANTITY=AMOUNT, such as macs=50%"):
        Budget.parse(text)


@pytest.mark.parametrize(
    "text", ["macs=0%", "macs=150%", "params=0", "macs=1e400", "macs=1e400%", "fits=0B"]
)
def test_budgets_out_of_range_are_refused(text) -> None:
    with pytest.raises(BudgetError, match="is out of range"):
        Budget.parse(text)


@pytest.mark.parametrize("amount", [float("nan"), float("inf"), -1, "50%", None])
def test_amounts_that_are_no_numbers_are_refused(amount) -> None:
    with pytest.raises(BudgetError, match=rf"Budget macs={amount} is out of range"):
        Budget("macs", amount, relative=False)


@pytest.mark.parametrize("text", ["fits=1.2.3B", "fits=.B", "fits=", "fits=B", "fits=nanB"])
def test_a_place_of_no_size_is_refused(text) -> None:
    with pytest.raises(BudgetError, match="Cannot fit into"):
        Budget.parse(text)


@pytest.mark.parametrize("given", ["", " ", ",", "macs=50%,", [], [""]])
def test_an_empty_budget_is_refused(given) -> None:
    with pytest.raises(BudgetError, match=r"There is no budget|Cannot read the budget"):
        Budgets.parse(given)


def test_an_unknown_quantity_is_refused_with_the_known_ones() -> None:
    with pytest.raises(BudgetError, match=r"Unknown budget quantity 'flops'. Known: macs, params"):
        Budget.parse("flops=10%")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("latency=20", "has no unit; expected one of: ms, s, us, or %"),
        ("latency=20MB", "has the unit 'MB'; expected one of: ms, s, us, or %"),
        ("macs=20ms", "has the unit 'ms'; expected one of: k, K, M, G, or %"),
        ("fits=toaster", "Cannot fit into 'toaster'. Expected fits=edgetpu."),
    ],
)
def test_an_amount_in_the_wrong_unit_is_refused_with_the_right_ones(text, message) -> None:
    with pytest.raises(BudgetError) as caught:
        Budget.parse(text)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "given",
    ["latency=20ms,size=500KB", ["latency=20ms", "size=500KB"], ("latency=20ms, size=500KB",)],
)
def test_several_budgets_come_in_one_text_or_in_many(given) -> None:
    budgets = Budgets.parse(given)
    assert [(b.quantity, b.amount) for b in budgets] == [("latency", 20), ("size", 5e5)]
    assert Budgets.parse(str(budgets)) == budgets == Budgets.parse(budgets)


def test_two_budgets_for_one_quantity_and_none_at_all_are_refused() -> None:
    with pytest.raises(BudgetError, match="two budgets for macs"):
        Budgets.parse("macs=50%,macs=3M")
    with pytest.raises(BudgetError, match="There is no budget"):
        Budgets.parse([])


def test_one_of_several_budgets_is_scaled_and_the_others_stay() -> None:
    scaled = Budgets.parse("latency=20ms,size=500KB").scale("latency", 0.9)
    assert str(scaled) == "latency=18ms,size=500000B"
