"""Gain per cost: the budget is spent where a channel is worth most to the consumers."""

from __future__ import annotations

import numpy as np

from edgeprune.allocation.problem import Problem, give_back


def allocate_by_gain(problem: Problem) -> dict[str, int]:
    """Shrink wherever the consumers lose least for what is saved.

    Starts from full widths and repeatedly shrinks the group with the smallest loss per unit saved,
    along the convex hull of its error, so that one precious channel does not hide ten useless ones;
    then gives back whatever still fits.

    Args:
        problem: what is to be met.

    Returns:
        Width of every removable group.

    Raises:
        BudgetError: the constraints cannot be met.

    Example:
        >>> import keras
        >>> from edgeprune.allocation import CostLimits, Ranking
        >>> from edgeprune.cost.budgets import Budget
        >>> from edgeprune.cost.cost_model import CostModel
        >>> from edgeprune.tracing.groups import find_groups
        >>> model = keras.Sequential([
        ...     keras.Input((4,)), keras.layers.Dense(8, name="hidden"), keras.layers.Dense(2)])
        >>> groups = find_groups(model)
        >>> limits = CostLimits(CostModel(groups), Budget("macs", 0.5))
        >>> ranking = Ranking(np.arange(8), np.linspace(1, 0, 9))
        >>> allocate_by_gain(Problem(groups, {"hidden": ranking}, limits))
        {'hidden': 4}
    """
    problem.check()
    choices, rankings = problem.choices, problem.rankings
    hulls = {name: convex_hull(found, rankings[name].error) for name, found in choices.items()}
    widths = problem.full()
    while not problem.meets(widths):
        price = problem.constraints.marginal(widths)
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
        between = [
            w for w in choices[name] if lower < w < upper and problem.meets({**widths, name: w})
        ]
        widths[name] = max(between, default=lower)
    return give_back(problem, widths)


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
