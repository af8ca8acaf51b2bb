"""How wide each group becomes: the budget is spent where a channel costs the readers most."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from edgeprune.cost import Cost, CostModel
from edgeprune.errors import BudgetError
from edgeprune.groups import Group, Groups
from edgeprune.plan import Budget

DEFAULT_STEP = 8


@dataclass(frozen=True)
class Ranking:
    """One group's channels in the order in which they would be kept, and what each width costs.

    Attributes:
        order: `(width,)` channels, the most valuable first.
        error: `(width + 1,)` what the readers lose when the first k channels are kept; not
            increasing.
    """

    order: np.ndarray
    error: np.ndarray


def allowed_widths(width: int, step: int = DEFAULT_STEP) -> tuple[int, ...]:
    """Return the widths a group may have, ascending, its own width last.

    Args:
        width: number of channels of the group.
        step: multiple that the target likes; halved for groups under 32 channels and again under
            16, where whole steps would be too coarse. 1 allows every width.

    Example:
        >>> allowed_widths(20)
        (4, 8, 12, 16, 20)
        >>> allowed_widths(6, step=8), allowed_widths(3, step=1)
        ((2, 4, 6), (1, 2, 3))
    """
    divisor = 1 if width >= 32 else 2 if width >= 16 else 4
    size = max(1, step // divisor)
    return (*range(size, width, size), width)


def smallest_cost(groups: Groups, costs: CostModel, step: int = DEFAULT_STEP) -> Cost:
    """Return the cost with every removable group at its smallest allowed width."""
    return costs.count({g.name: allowed_widths(g.width, step)[0] for g in groups.removable})


def check_budget(groups: Groups, costs: CostModel, budget: Budget, step: int) -> float:
    """Return the budget's limit in units.

    Raises:
        BudgetError: even the smallest widths cost more; says what is reachable.
    """
    limit = budget.limit(getattr(costs.full, budget.quantity))
    full = getattr(costs.full, budget.quantity)
    smallest = getattr(smallest_cost(groups, costs, step), budget.quantity)
    if smallest > limit:
        hint = f" (a finer step than {step} reaches lower: --step 1)" if step > 1 else ""
        raise BudgetError(
            f"The budget {budget} cannot be met: this model can go down to "
            f"{budget.quantity}={smallest / full:.2%} ({smallest:,} of {full:,}){hint}. "
            "Ask for at least that."
        )
    return limit


def allocate_by_gain(
    groups: Groups,
    costs: CostModel,
    rankings: Mapping[str, Ranking],
    budget: Budget,
    *,
    step: int = DEFAULT_STEP,
) -> dict[str, int]:
    """Choose widths by gain per cost: shrink wherever the readers lose least for what is saved.

    Starts from full widths and repeatedly takes the step with the smallest loss per unit saved,
    looking several steps ahead in each group so that one bad channel does not hide ten useless
    ones; then gives back whatever still fits.

    Args:
        groups: of the model.
        costs: of the model.
        rankings: for every removable group.
        budget: what must be met.
        step: see `allowed_widths`.

    Returns:
        Width of every removable group.

    Raises:
        BudgetError: the budget cannot be met.
    """
    limit = check_budget(groups, costs, budget, step)
    choices = {group.name: allowed_widths(group.width, step) for group in groups.removable}
    widths = {group.name: group.width for group in groups.removable}

    def spent(changed: Mapping[str, int]) -> int:
        return int(getattr(costs.count(widths | changed), budget.quantity))

    now = spent({})
    while now > limit:
        best: tuple[float, str, int] | None = None
        for name, width in widths.items():
            error = rankings[name].error
            for smaller in reversed([w for w in choices[name] if w < width]):
                saved = now - spent({name: smaller})
                if saved <= 0:
                    continue
                rate = (error[smaller] - error[width]) / saved
                if best is None or rate < best[0]:
                    best = (rate, name, smaller)
                if saved >= now - limit:
                    break
        if best is None:
            break
        widths[best[1]] = best[2]
        now = spent({})
    return _give_back(widths, choices, rankings, limit, spent)


def _give_back(widths, choices, rankings, limit, spent):  # type: ignore[no-untyped-def]
    """Widen groups again, best gain first, while the budget still holds."""
    while True:
        gains = []
        for name, width in widths.items():
            wider = next((w for w in choices[name] if w > width), None)
            if wider is not None and spent({name: wider}) <= limit:
                added = max(spent({name: wider}) - spent({}), 1)
                gain = (rankings[name].error[width] - rankings[name].error[wider]) / added
                gains.append((gain, name, wider))
        if not gains:
            return widths
        _, name, wider = max(gains)
        widths[name] = wider


def keep_channels(group: Group, ranking: Ranking, width: int) -> tuple[int, ...]:
    """Return the kept channels of a group, sorted."""
    return tuple(sorted(ranking.order[:width].tolist()))
