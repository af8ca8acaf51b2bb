"""What widths must meet, as allocation sees it: how far over, and what a channel costs.

Allocations know nothing of MACs, milliseconds or joules. Whatever has to be met is divided by its
limit, so that several budgets compare: the one most exceeded counts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Protocol

from edgeprune.allocation.widths import DEFAULT_STEP, NOTHING, smallest_widths
from edgeprune.cost.budgets import OWN_UNITS, Budget, Budgets
from edgeprune.cost.cost_model import Cost, CostModel
from edgeprune.cost.workload import Widths
from edgeprune.errors import BudgetError
from edgeprune.tracing.groups import Groups


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
        >>> from edgeprune.tracing.groups import find_groups
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
            budget: budget.limit(costs.spend(budget.quantity, {}) if budget.relative else 0.0)
            for budget in budgets
        }

    def _spend(self, widths: Widths) -> dict[Budget, float]:
        """Return spend / limit of every budget."""
        held = {**widths, **self._fixed}
        return {
            budget: self._costs.spend(budget.quantity, held) / limit
            for budget, limit in self._limits.items()
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
    groups: Groups,
    costs: CostModel,
    step: int = DEFAULT_STEP,
    fixed: Widths = NOTHING,
    empties: bool = False,
) -> Cost:
    """Return the cost with every removable group at its smallest allowed width.

    Args:
        groups: of the model.
        costs: of the model.
        step: see `allowed_widths`.
        fixed: widths that other groups will have (see `fix_classes`).
        empties: whether whole branches may go.
    """
    return costs.count(smallest_widths(groups, step, empties) | dict(fixed))


def check_budget(
    groups: Groups,
    costs: CostModel,
    budget: Budget | Budgets,
    step: int = DEFAULT_STEP,
    fixed: Widths = NOTHING,
    empties: bool = False,
) -> None:
    """Refuse budgets that even the smallest widths do not meet.

    Args:
        groups: of the model.
        costs: of the model.
        budget: what must be met, fractions being those of the original.
        step: see `allowed_widths`.
        fixed: widths that other groups will have (see `fix_classes`).
        empties: whether whole branches may go.

    Raises:
        BudgetError: one of them cannot be met; says what is reachable.
    """
    widths = smallest_widths(groups, step, empties) | dict(fixed)
    for part in Budgets.parse(budget):
        full = costs.spend(part.quantity, NOTHING)
        smallest = costs.spend(part.quantity, widths)
        if smallest > part.limit(full):
            percent = math.ceil(1e4 * smallest / full) / 100
            hint = f" (a finer step than {step} reaches lower: --step 1)" if step > 1 else ""
            unit = OWN_UNITS.get(part.quantity, "")
            amounts = f"{_write(smallest)}{unit} of {_write(full)}{unit}"
            raise BudgetError(
                f"The budget {part} cannot be met: this model can go down to "
                f"{part.quantity}={percent:g}% ({amounts}){hint}. Ask for at least that."
            )


def _write(amount: float) -> str:
    return f"{amount:,.0f}" if amount >= 1000 or amount == round(amount) else f"{amount:.3g}"
