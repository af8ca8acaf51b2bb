"""Recipes: the settings that a build for a target starts from, read from `pipelines/*.toml`."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, fields
from typing import Any

from edgeprune.cost.budgets import Budget
from edgeprune.errors import EdgepruneError
from edgeprune.support.resources import find_folder

DEFAULT_BUDGET = Budget("macs", 0.5)


@dataclass(frozen=True)
class Recipe:
    """Settings of a build that its target does not fix.

    Attributes:
        budget: what the slim model may cost.
        method: named combination of the other three.
        criterion: in place of the method's own; likewise the others.
        allocation: see `criterion`.
        recovery: see `criterion`.
    """

    budget: Budget = DEFAULT_BUDGET
    method: str = "auto"
    criterion: str | None = None
    allocation: str | None = None
    recovery: str | None = None


def read_recipe(target: str) -> Recipe:
    """Read the recipe of a target.

    Args:
        target: name of a target, such as `rpi4`; one without a recipe gets the defaults.

    Raises:
        EdgepruneError: the recipe cannot be read, or holds settings that do not exist.

    Example:
        >>> print(read_recipe("rpi4").budget)
        macs=50%
    """
    path = find_folder("pipelines") / f"{target}.toml"
    try:
        settings: dict[str, Any] = tomllib.loads(path.read_text("utf-8")) if path.exists() else {}
    except ValueError as error:
        raise EdgepruneError(f"The recipe '{path}' cannot be read: {error}.") from error
    known = [field.name for field in fields(Recipe)]
    unknown = sorted(settings.keys() - set(known))
    if unknown:
        raise EdgepruneError(
            f"The recipe '{path}' has unknown settings: {', '.join(unknown)}. Expected some of: "
            f"{', '.join(known)}."
        )
    if "budget" in settings:
        settings["budget"] = Budget.parse(settings["budget"])
    return Recipe(**settings)
