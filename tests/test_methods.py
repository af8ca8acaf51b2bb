from __future__ import annotations

from pathlib import Path

import networks
import numpy as np
import pytest

from edgeprune.allocation import ALLOCATIONS
from edgeprune.errors import EdgepruneError
from edgeprune.pruning.methods import METHODS
from edgeprune.pruning.one_shot import prune
from edgeprune.pruning.pruning_settings import Pruning
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
    assert method.summary.endswith(".")
    assert "Ours" in method.source


def images(samples: int = 30) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(samples, 8, 8, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def model():
    return networks.randomize(networks.build_residual_network())


def test_names_that_are_given_replace_those_of_the_method() -> None:
    own = Pruning("chapr").find_method()
    given = Pruning("chapr", criterion="l1", recovery="mean", recalibration="on")
    other = given.find_method()
    assert (own.criterion, own.recovery) == ("pivoted_qr", "least_squares")
    assert (other.criterion, other.recovery, other.recalibration) == ("l1", "mean", "on")
    assert (other.allocation, other.summary) == (own.allocation, own.summary)
    with pytest.raises(EdgepruneError, match=r"Unknown method 'x'\. Choose from: auto, specialist"):
        Pruning("x").find_method()


def test_every_criterion_combines_with_every_recovery(model) -> None:
    x = images()
    plans = {}
    for recovery in RECOVERIES:
        how = Pruning("chapr", criterion="l1", recovery=recovery, recalibration="off")
        found = prune(model, x, pruning=how)
        assert [(c.criterion, c.name) for c in found.candidates] == [("l1", recovery)]
        plans[recovery] = found.plan
    assert len(set(plans.values())) == 1
    assert plans["none"] != prune(model, x, pruning=Pruning("chapr", recovery="none")).plan


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
