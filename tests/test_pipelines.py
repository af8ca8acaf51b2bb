from __future__ import annotations

from pathlib import Path

import pytest

from edgeprune.boards import list_targets
from edgeprune.boards.recipes import read_recipe
from edgeprune.pruning.pruning import check_methods
from edgeprune.support.resources import find_folder

RECIPES = sorted(find_folder("pipelines").glob("*.toml"))


def test_every_target_has_a_recipe_and_every_recipe_a_target():
    assert [recipe.stem for recipe in RECIPES] == [target.name for target in list_targets()]


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_sets_a_budget_that_can_be_read_and_a_known_method(path: Path):
    recipe = read_recipe(path.stem)
    assert recipe.budget.relative, "a recipe does not know what the model costs"
    parts = (recipe.criterion, recipe.allocation, recipe.recovery)
    check_methods(recipe.method, *parts)
