from __future__ import annotations

import pytest

from edgeprune.boards.recipes import Recipe, read_recipe
from edgeprune.cost.budgets import Budget
from edgeprune.errors import BudgetError, EdgepruneError


@pytest.fixture
def pipelines(tmp_path, monkeypatch):
    monkeypatch.setattr("edgeprune.boards.recipes.find_folder", lambda name: tmp_path / name)
    (tmp_path / "pipelines").mkdir()
    return tmp_path / "pipelines"


def test_a_target_without_a_recipe_gets_the_defaults(pipelines) -> None:
    assert read_recipe("toaster") == Recipe() == Recipe(Budget("macs", 0.5), "auto")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('budget = "params=120k"', Recipe(Budget("params", 120_000, False))),
        ('recovery = "mean"', Recipe(recovery="mean")),
        (
            '# größer\nbudget = "macs=25%"\nrecovery = "refit"',
            Recipe(Budget("macs", 0.25), recovery="refit"),
        ),
        ('method = "chapr"\ncriterion = "l1"', Recipe(method="chapr", criterion="l1")),
        ("", Recipe()),
    ],
)
def test_what_a_recipe_says_replaces_the_default(pipelines, text, expected) -> None:
    (pipelines / "toaster.toml").write_text(text, "utf-8")
    assert read_recipe("toaster") == expected


def test_unknown_settings_are_named_with_the_known_ones(pipelines) -> None:
    (pipelines / "toaster.toml").write_text("size = 3\nbudgets = 2")
    message = r"toaster\.toml' has unknown settings: budgets, size\. Expected some of: budget, "
    with pytest.raises(EdgepruneError, match=message + "method, criterion, allocation, recovery"):
        read_recipe("toaster")


@pytest.mark.parametrize("content", [b"budget = ", b"\xff\xfe"])
def test_a_recipe_that_cannot_be_read_is_named(pipelines, content) -> None:
    (pipelines / "toaster.toml").write_bytes(content)
    with pytest.raises(EdgepruneError, match=r"The recipe '.*toaster\.toml' cannot be read: "):
        read_recipe("toaster")


def test_a_budget_that_cannot_be_read_says_what_is_expected(pipelines) -> None:
    (pipelines / "toaster.toml").write_text('budget = "half"')
    with pytest.raises(BudgetError, match="Cannot read the budget 'half'"):
        read_recipe("toaster")
