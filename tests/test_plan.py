from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeprune.errors import BudgetError, PlanError
from edgeprune.plan import Budget, Plan


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
    ],
)
def test_a_budget_is_read_from_text(text, quantity, limit) -> None:
    budget = Budget.parse(text)
    assert budget.quantity == quantity
    assert budget.limit(1e6) == pytest.approx(limit)


@given(st.sampled_from(["macs", "params"]), st.floats(1e-3, 1), st.booleans())
def test_a_budget_prints_as_text_that_reads_back(quantity, amount, relative) -> None:
    again = Budget.parse(str(Budget(quantity, amount, relative)))
    assert again.relative == relative
    assert again.amount == pytest.approx(amount, rel=1e-4)


@pytest.mark.parametrize("text", ["macs", "macs=", "macs=many", "macs=1.2.3", "macs=-3", "=50%%"])
def test_unreadable_budgets_are_refused_with_examples(text) -> None:
    with pytest.raises(BudgetError, match=r"Expected QUANTITY=AMOUNT, such as macs=50%"):
        Budget.parse(text)


@pytest.mark.parametrize("text", ["macs=0%", "macs=150%", "params=0"])
def test_budgets_out_of_range_are_refused(text) -> None:
    with pytest.raises(BudgetError, match="is out of range"):
        Budget.parse(text)


def test_an_unknown_quantity_is_refused_with_the_known_ones() -> None:
    with pytest.raises(BudgetError, match=r"Unknown budget quantity 'flops'. Known: macs, params"):
        Budget.parse("flops=10%")


NO_KEEP = json.dumps({"keep": 3, "fingerprint": "", "classes": None})

plans = st.builds(
    Plan,
    st.dictionaries(
        st.text(min_size=1),
        st.sets(st.integers(0, 1000), min_size=1).map(sorted).map(tuple),
        max_size=4,
    ),
    st.text(),
    st.none() | st.lists(st.integers(0, 9), min_size=1).map(tuple),
)


@given(plans)
def test_a_plan_survives_json(plan) -> None:
    again = Plan.from_json(plan.to_json())
    assert again == plan and hash(again) == hash(plan)


def test_a_plan_survives_a_file(tmp_path) -> None:
    plan = Plan({"conv": (0, 3)}, "abc", (2, 1))
    plan.save(tmp_path / "plan.json")
    assert Plan.load(tmp_path / "plan.json") == plan


def test_a_plan_cannot_be_changed() -> None:
    plan = Plan({"conv": (0, 3)})
    with pytest.raises(TypeError):
        plan.keep["conv"] = (1,)


@pytest.mark.parametrize("channels", [(), (2, 1), (1, 1), (-1, 0)])
def test_a_plan_names_at_least_one_channel_sorted_each_once(channels) -> None:
    with pytest.raises(PlanError, match="must name at least one channel, sorted, each once"):
        Plan({"conv": channels})


@pytest.mark.parametrize("text", ["", "[]", "{}", NO_KEEP])
def test_text_that_is_no_plan_is_refused(text) -> None:
    with pytest.raises(PlanError, match=r"Not a plan: .* Expected the JSON that"):
        Plan.from_json(text)


def test_a_missing_plan_file_is_refused_by_name(tmp_path) -> None:
    with pytest.raises(PlanError, match=r"Cannot read the plan '.*nowhere.json'"):
        Plan.load(tmp_path / "nowhere.json")
