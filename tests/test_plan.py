from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeprune.errors import PlanError
from edgeprune.surgery.plan import Plan

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


@pytest.mark.parametrize("channels", [(2, 1), (1, 1), (-1, 0)])
def test_a_plan_names_channels_sorted_each_once(channels) -> None:
    with pytest.raises(PlanError, match="must name channels sorted, each once"):
        Plan({"conv": channels})


@pytest.mark.parametrize("text", ["", "[]", "{}", NO_KEEP])
def test_text_that_is_no_plan_is_refused(text) -> None:
    with pytest.raises(PlanError, match=r"Not a plan: .* Expected the JSON that"):
        Plan.from_json(text)


def test_a_missing_plan_file_is_refused_by_name(tmp_path) -> None:
    with pytest.raises(PlanError, match=r"Cannot read the plan '.*nowhere.json'"):
        Plan.load(tmp_path / "nowhere.json")
