"""How wide each group becomes: `ALLOCATIONS`, from name to function."""

from collections.abc import Callable

from edgeprune.allocation.constraints import Constraints, CostLimits, check_budget, smallest_cost
from edgeprune.allocation.gain import allocate_by_gain
from edgeprune.allocation.problem import Problem, give_back
from edgeprune.allocation.submodular import allocate_submodular
from edgeprune.allocation.widths import (
    DEFAULT_STEP,
    Ranking,
    allowed_widths,
    fix_classes,
    keep_channels,
    smallest_widths,
)

Allocation = Callable[[Problem], dict[str, int]]

ALLOCATIONS: dict[str, Allocation] = {
    "gain": allocate_by_gain,
    "submodular": allocate_submodular,
}

__all__ = [
    "ALLOCATIONS",
    "DEFAULT_STEP",
    "Allocation",
    "Constraints",
    "CostLimits",
    "Problem",
    "Ranking",
    "allocate_by_gain",
    "allocate_submodular",
    "allowed_widths",
    "check_budget",
    "fix_classes",
    "give_back",
    "keep_channels",
    "smallest_cost",
    "smallest_widths",
]
