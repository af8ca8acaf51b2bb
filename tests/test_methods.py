from __future__ import annotations

from pathlib import Path

import networks
import numpy as np
import pytest
from edgeprune.pruning.one_shot.pruning import list_entries, prune

from edgeprune.allocation import ALLOCATIONS
from edgeprune.errors import EdgepruneError
from edgeprune.pruning.methods import METHODS, Method, find_method
from edgeprune.pruning.search import Entry
from edgeprune.recovery import RECOVERIES
from edgeprune.report.method_list import write_criteria_page
from edgeprune.scoring.criteria import CRITERIA

every_method = pytest.mark.parametrize("name", METHODS)


@every_method
def test_a_method_is_made_of_parts_that_exist_and_says_where_it_comes_from(name) -> None:
    method = METHODS[name]
    assert method.criterion in CRITERIA
    assert method.allocation in ALLOCATIONS
    assert method.recovery in {"auto", *RECOVERIES}
    assert set(method.tries) <= set(METHODS) - {name}
    assert method.summary.endswith(".")
    assert "Ours" in method.source


def images(samples: int = 30) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(samples, 8, 8, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def model():
    return networks.randomize(networks.build_residual_network())


def test_names_that_are_given_replace_those_of_the_method() -> None:
    own = find_method("chapr")
    other = find_method("chapr", criterion="l1", recovery="mean", recalibration="on")
    assert (own.criterion, own.recovery) == ("pivoted_qr", "least_squares")
    assert (other.criterion, other.recovery, other.recalibration) == ("l1", "mean", "on")
    assert (other.allocation, other.summary) == (own.allocation, own.summary)
    with pytest.raises(EdgepruneError, match=r"Unknown method 'x'\. Choose from: auto, specialist"):
        find_method("x")


def test_every_criterion_combines_with_every_recovery(model) -> None:
    x = images()
    plans = {}
    for recovery in RECOVERIES:
        found = prune(
            model, x, method="chapr", criterion="l1", recovery=recovery, recalibration="off"
        )
        assert [(c.method, c.name) for c in found.candidates] == [("chapr", recovery)]
        plans[recovery] = found.plan
    assert len(set(plans.values())) == 1
    assert plans["none"] != prune(model, x, method="chapr", recovery="none").plan


# Methods that try others.

SECOND = Method("Second.", "Ours.", "l1", recovery="mean", recalibration="off")


@pytest.fixture
def tries_two(monkeypatch) -> None:
    monkeypatch.setitem(METHODS, "second", SECOND)
    first = Method(
        "First.", "Ours.", "greedy_least_squares", recovery="none", recalibration="off",
        tries=("second",), time_limit=1e9,
    )  # fmt: skip
    monkeypatch.setitem(METHODS, "first", first)


def test_all_that_were_tried_are_reported_and_the_best_on_validation_is_kept(
    model, tries_two
) -> None:
    found = prune(model, images(), method="first")
    assert {(c.method, c.name) for c in found.candidates} == {("first", "none"), ("second", "mean")}
    grades = [candidate.grade for candidate in found.candidates]
    assert grades == sorted(grades, reverse=True)
    alone = {
        name: prune(model, images(), method=name, time_limit=0) for name in ("first", "second")
    }
    best = alone[found.chosen.method]
    assert best.plan == found.plan
    assert all(map(np.array_equal, best.model.get_weights(), found.model.get_weights()))
    assert max(run.chosen.grade for run in alone.values()) == found.chosen.grade


def test_without_time_only_the_method_itself_is_tried(model, tries_two) -> None:
    found = prune(model, images(), method="first", time_limit=0)
    assert [candidate.method for candidate in found.candidates] == ["first"]


def test_what_would_be_tried_twice_is_tried_once(monkeypatch, tries_two) -> None:
    assert [entry.name for entry in list_entries("first")] == ["first", "second"]
    same = list_entries("first", criterion="l1", recovery="mean")
    assert [entry.name for entry in same] == ["first"]
    assert isinstance(same[0], Entry)


# What users read about them.

DOCS = Path(__file__).resolve().parent.parent / "docs"


@every_method
def test_a_method_has_a_page_with_its_criterion_its_formula_and_its_source(name) -> None:
    page = (DOCS / "methods" / f"{name}.md").read_text("utf-8")
    for part in ("**What it does.**", "**Formula.**", "**Ours.**", "**When to use it.**"):
        assert part in page, part
    assert "## Measured" in page
    table = (DOCS / "methods" / "README.md").read_text("utf-8")
    (row,) = [line for line in table.splitlines() if f"[{name}]({name}.md)" in line]
    if name != "auto":
        for part in ("criterion", "allocation", "recovery"):
            assert f"`{getattr(METHODS[name], part)}`" in row


def test_the_page_of_criteria_is_what_the_code_writes() -> None:
    written = (DOCS / "criteria.md").read_text("utf-8")
    assert written == write_criteria_page(), "write it again: see the page's first lines"
    assert all(f"| `{name}` |" in written for name in CRITERIA)
