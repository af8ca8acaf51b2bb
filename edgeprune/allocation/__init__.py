"""How wide each group becomes: `ALLOCATIONS`, from name to function."""

from collections.abc import Callable

from edgeprune.allocation.branches import allocate_with_branches
from edgeprune.allocation.constraints import Constraints, CostLimits, check_budget, smallest_cost
from edgeprune.allocation.problem import Problem
from edgeprune.allocation.sensitivity import (
    Sensitivity,
    allocate_by_sensitivity,
    measure_sensitivity,
)
from edgeprune.allocation.strategies import (
    allocate_by_gain,
    allocate_by_score,
    allocate_submodular,
    allocate_uniformly,
)
from edgeprune.allocation.widths import (
    DEFAULT_STEP,
    Ranking,
    allowed_widths,
    fix_classes,
    keep_channels,
)

Allocation = Callable[[Problem], dict[str, int]]
"""Gives the width of every removable group; a `BudgetError` where the constraints cannot be met."""

ALLOCATIONS: dict[str, Allocation] = {
    "branches": allocate_with_branches,
    "gain": allocate_by_gain,
    "submodular": allocate_submodular,
    "global": allocate_by_score,
    "sensitivity": allocate_by_sensitivity,
    "uniform": allocate_uniformly,
}
EMPTYING = frozenset({"branches"})
"""Allocations after which whole branches may be gone."""

__all__ = [
    "ALLOCATIONS",
    "DEFAULT_STEP",
    "EMPTYING",
    "Allocation",
    "Constraints",
    "CostLimits",
    "Problem",
    "Ranking",
    "Sensitivity",
    "allocate_by_gain",
    "allocate_by_score",
    "allocate_by_sensitivity",
    "allocate_submodular",
    "allocate_uniformly",
    "allocate_with_branches",
    "allowed_widths",
    "check_budget",
    "fix_classes",
    "keep_channels",
    "measure_sensitivity",
    "smallest_cost",
]
