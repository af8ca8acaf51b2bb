"""What widths must meet, as allocation sees it: how far over, and what a channel costs.

Allocations know nothing of MACs, milliseconds or joules. Whatever has to be met is divided by its
limit, so that several budgets compare: the one most exceeded counts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Protocol

from edgeprune.allocation.widths import DEFAULT_STEP, NOTHING, smallest_widths
from edgeprune.cost import Cost, CostModel, Widths
from edgeprune.errors import BudgetError
from edgeprune.groups import Groups
from edgeprune.plan import Budget


class Constraints(Protocol):
    """What an allocation may ask about widths; groups that are not named keep theirs."""

    def excess(self, widths: Widths) -> float:
        """Return the largest of spend / limit over all budgets: 1 or less where all are met."""
        ...

    def marginal(self, widths: Widths) -> Mapping[str, float]:
        """Return what one channel of each group adds to `excess`, the others held."""
        ...


class CostLimits:
    """Budgets of what a `CostModel` counts.

    Example:
        >>> import keras
        >>> from edgeprune.groups import find_groups
        >>> model = keras.Sequential([
        ...     keras.Input((4,)), keras.layers.Dense(8, name="hidden"), keras.layers.Dense(2)])
        >>> limits = CostLimits(CostModel(find_groups(model)), Budget("macs", 0.5))
        >>> limits.excess({}), limits.excess({"hidden": 4}), limits.marginal({})["hidden"]
        (2.0, 1.0, 0.25)
    """

    def __init__(self, costs: CostModel, *budgets: Budget, fixed: Widths = NOTHING) -> None:
        """Look up the limits.

        Args:
            costs: of the model.
            budgets: what must be met, at least one; fractions are of the original.
            fixed: widths that groups out of the allocation's reach will have (see `fix_classes`).
        """
        self._costs = costs
        self._fixed = dict(fixed)
        self._limits = {
            budget: budget.limit(getattr(costs.full, budget.quantity)) for budget in budgets
        }

    def _spend(self, widths: Widths) -> dict[Budget, float]:
        """Return spend / limit of every budget."""
        cost = self._costs.count({**widths, **self._fixed})
        return {
            budget: getattr(cost, budget.quantity) / limit for budget, limit in self._limits.items()
        }

    def excess(self, widths: Widths) -> float:
        """Return the largest of spend / limit over all budgets."""
        return max(self._spend(widths).values())

    def marginal(self, widths: Widths) -> dict[str, float]:
        """Return what one channel of each group adds to the budget that is most exceeded."""
        spend = self._spend(widths)
        tightest = max(spend, key=lambda budget: spend[budget])
        prices = self._costs.marginal(tightest.quantity, {**widths, **self._fixed})
        return {name: price / self._limits[tightest] for name, price in prices.items()}


def smallest_cost(
    groups: Groups, costs: CostModel, step: int = DEFAULT_STEP, fixed: Widths = NOTHING
) -> Cost:
    """Return the cost with every removable group at its smallest allowed width.

    Args:
        groups: of the model.
        costs: of the model.
        step: see `allowed_widths`.
        fixed: widths that other groups will have (see `fix_classes`).
    """
    return costs.count(smallest_widths(groups, step) | dict(fixed))


def check_budget(
    groups: Groups,
    costs: CostModel,
    budget: Budget,
    step: int = DEFAULT_STEP,
    fixed: Widths = NOTHING,
) -> float:
    """Return the budget's limit in units, fractions being those of the original.

    Args:
        groups: of the model.
        costs: of the model.
        budget: what must be met.
        step: see `allowed_widths`.
        fixed: see `smallest_cost`.

    Raises:
        BudgetError: even the smallest widths cost more; says what is reachable.
    """
    full = getattr(costs.full, budget.quantity)
    limit = budget.limit(full)
    smallest = getattr(smallest_cost(groups, costs, step, fixed), budget.quantity)
    if smallest > limit:
        percent = math.ceil(1e4 * smallest / full) / 100
        hint = f" (a finer step than {step} reaches lower: --step 1)" if step > 1 else ""
        raise BudgetError(
            f"The budget {budget} cannot be met: this model can go down to "
            f"{budget.quantity}={percent:g}% ({smallest:,} of {full:,}){hint}. "
            "Ask for at least that."
        )
    return limit
