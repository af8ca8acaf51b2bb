"""How wide each group becomes: `ALLOCATIONS`, from name to function."""

from collections.abc import Callable

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
    "gain": allocate_by_gain,
    "submodular": allocate_submodular,
    "global": allocate_by_score,
    "sensitivity": allocate_by_sensitivity,
    "uniform": allocate_uniformly,
}

__all__ = [
    "ALLOCATIONS",
    "DEFAULT_STEP",
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
    "allowed_widths",
    "check_budget",
    "fix_classes",
    "keep_channels",
    "measure_sensitivity",
    "smallest_cost",
]
