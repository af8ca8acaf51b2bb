"""Recipes: the settings that a build for a target starts from, read from `pipelines/*.toml`."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, fields
from typing import Any

from edgeprune.errors import EdgepruneError
from edgeprune.plan import Budget
from edgeprune.resources import find_folder


@dataclass(frozen=True)
class Recipe:
    """Settings of a build that its target does not fix.

    Attributes:
        budget: what the slim model may cost.
        recovery: how accuracy is given back.
    """

    budget: Budget
    recovery: str = "auto"


def read_recipe(target: str) -> Recipe:
    """Read the recipe of a target.

    Args:
        target: name of a target, such as `rpi4`.

    Raises:
        EdgepruneError: the recipe holds settings that do not exist.

    Example:
        >>> print(read_recipe("rpi4").budget)
        macs=50%
    """
    path = find_folder("pipelines") / f"{target}.toml"
    settings: dict[str, Any] = tomllib.loads(path.read_text()) if path.exists() else {}
    unknown = settings.keys() - {field.name for field in fields(Recipe)}
    if unknown:
        raise EdgepruneError(
            f"The recipe '{path}' has unknown settings: {', '.join(sorted(unknown))}."
        )
    return Recipe(
        Budget.parse(settings.get("budget", "macs=50%")), settings.get("recovery", "auto")
    )
