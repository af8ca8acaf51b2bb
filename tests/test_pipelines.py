from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from edgeprune.benchmarking import list_targets
from edgeprune.plan import Budget
from edgeprune.resources import find_folder

RECIPES = sorted(find_folder("pipelines").glob("*.toml"))


def test_every_target_has_a_recipe_and_every_recipe_a_target():
    assert [recipe.stem for recipe in RECIPES] == [target.name for target in list_targets()]


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_sets_a_budget_that_can_be_read_and_a_recovery(recipe: Path):
    settings = tomllib.loads(recipe.read_text(encoding="utf-8"))
    assert set(settings) == {"budget", "recovery"}
    assert Budget.parse(settings["budget"]).relative, "a recipe does not know the model's cost"
