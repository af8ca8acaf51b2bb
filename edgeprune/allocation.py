"""How wide each group becomes: the budget is spent where a channel costs the readers most."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from edgeprune.cost import Cost, CostModel, Widths
from edgeprune.errors import BudgetError
from edgeprune.groups import Groups, find_head
from edgeprune.plan import Budget

DEFAULT_STEP = 8
NOTHING: Widths = MappingProxyType({})


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


def fix_classes(groups: Groups, classes: Sequence[int] | None) -> Widths:
    """Return the width that the head of a specialist will have; nothing without classes.

    Raises:
        ClassError: the classes cannot be cut out of this model.
    """
    return NOTHING if classes is None else {find_head(groups).name: len(classes)}


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
    smallest = {g.name: allowed_widths(g.width, step)[0] for g in groups.removable}
    return costs.count(smallest | dict(fixed))


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


def allocate_by_gain(
    groups: Groups,
    costs: CostModel,
    rankings: Mapping[str, Ranking],
    budget: Budget,
    *,
    step: int = DEFAULT_STEP,
    fixed: Widths = NOTHING,
) -> dict[str, int]:
    """Choose widths by gain per cost: shrink wherever the readers lose least for what is saved.

    Starts from full widths and repeatedly shrinks the group with the smallest loss per unit saved,
    along the convex hull of its error, so that one precious channel does not hide ten useless ones;
    then gives back whatever still fits.

    Args:
        groups: of the model.
        costs: of the model.
        rankings: for every removable group.
        budget: what must be met.
        step: see `allowed_widths`.
        fixed: see `smallest_cost`.

    Returns:
        Width of every removable group.

    Raises:
        BudgetError: the budget cannot be met.

    Example:
        >>> import keras
        >>> from edgeprune.groups import find_groups
        >>> model = keras.Sequential([
        ...     keras.Input((4,)), keras.layers.Dense(8, name="hidden"), keras.layers.Dense(2)])
        >>> groups = find_groups(model)
        >>> ranking = Ranking(np.arange(8), np.linspace(1, 0, 9))
        >>> allocate_by_gain(groups, CostModel(groups), {"hidden": ranking}, Budget("macs", 0.5))
        {'hidden': 4}
    """
    limit = check_budget(groups, costs, budget, step, fixed)
    choices = {group.name: allowed_widths(group.width, step) for group in groups.removable}
    hulls = {name: convex_hull(found, rankings[name].error) for name, found in choices.items()}
    widths = {group.name: group.width for group in groups.removable}

    def spend(changed: Widths = NOTHING) -> float:
        return float(getattr(costs.count({**fixed, **widths, **changed}), budget.quantity))

    while spend() > limit:
        price = costs.marginal(budget.quantity, {**fixed, **widths})
        rates = {}
        for name, hull in hulls.items():
            if len(hull) > 1 and price[name] > 0:
                error = rankings[name].error
                saved = price[name] * (hull[-1] - hull[-2])
                rates[name] = (error[hull[-2]] - error[hull[-1]]) / saved
        name = min(rates, key=lambda found: rates[found])
        hulls[name] = hulls[name][:-1]
        # The last step need not go all the way to the next corner of the hull.
        lower, upper = hulls[name][-1], widths[name]
        between = [w for w in choices[name] if lower < w < upper and spend({name: w}) <= limit]
        widths[name] = max(between, default=lower)
    return _give_back(widths, choices, rankings, limit, spend)


def convex_hull(widths: tuple[int, ...], error: np.ndarray) -> tuple[int, ...]:
    """Return the widths at the corners of the lower convex hull of the error, ascending.

    Example:
        >>> convex_hull((1, 2, 3, 4), np.array([9.0, 5.0, 4.9, 1.0, 0.0]))
        (1, 3, 4)
    """
    corners: list[int] = []
    for width in widths:
        while len(corners) > 1:
            first, last = corners[-2:]
            slope = (error[last] - error[first]) / (last - first)
            if (error[width] - error[last]) / (width - last) > slope:
                break
            corners.pop()
        corners.append(width)
    return tuple(corners)


def _give_back(
    widths: dict[str, int],
    choices: Mapping[str, tuple[int, ...]],
    rankings: Mapping[str, Ranking],
    limit: float,
    spend: Callable[[Widths], float],
) -> dict[str, int]:
    """Widen groups again, best gain first, while the budget still holds."""
    while True:
        now = spend(NOTHING)
        gains = []
        for name, width in widths.items():
            wider = next((w for w in choices[name] if w > width), None)
            if wider is None:
                continue
            total = spend({name: wider})
            if total <= limit:
                lost = rankings[name].error[width] - rankings[name].error[wider]
                gains.append((lost / max(total - now, 1.0), name, wider))
        if not gains:
            return widths
        _, name, wider = max(gains)
        widths[name] = wider


def keep_channels(ranking: Ranking, width: int) -> tuple[int, ...]:
    """Return the channels that a group keeps at a width, sorted."""
    return tuple(sorted(ranking.order[:width].tolist()))
