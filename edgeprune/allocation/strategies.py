"""Where the budget is spent: widths for all groups, from what is known of their channels."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from edgeprune.allocation.problem import Problem, give_back
from edgeprune.allocation.widths import Ranking, smallest_widths

DEAD = -1.0
"""Below every live channel's score."""


def allocate_by_gain(problem: Problem) -> dict[str, int]:
    """Shrink wherever the consumers lose least for what is saved.

    Starts from full widths and repeatedly shrinks the group with the smallest loss per unit saved,
    along the convex hull of its error, so that one precious channel does not hide ten useless ones;
    then gives back whatever still fits.

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


def allocate_submodular(problem: Problem) -> dict[str, int]:
    """Widen, from the smallest widths, whatever adds most to a submodular worth for its cost.

    After Hu et al., "CATRO" (2021). Ours, as the paper's set function was not available: the worth
    is the sum over groups of the root of the share of their scores that is kept; scores below 0
    count as 0.
    """
    problem.check()
    missing = {name: replace(r, error=1 - worth(r)) for name, r in problem.rankings.items()}
    return give_back(
        replace(problem, rankings=missing), smallest_widths(problem.groups, problem.step)
    )


def worth(ranking: Ranking) -> np.ndarray:
    """Return what the first 0, 1, ... channels of a ranking are worth, `(width + 1,)`.

    Example:
        >>> worth(Ranking(np.arange(3), np.zeros(4), np.array([3.0, 1, -1]))).round(3).tolist()
        [0.0, 0.866, 1.0, 1.0]
    """
    gains = np.maximum(ranking.scores, 0)
    if not gains.sum() > 0:
        gains = np.ones(len(ranking.order))
    return np.sqrt(np.append(0, np.cumsum(gains)) / gains.sum())


def allocate_by_score(problem: Problem) -> dict[str, int]:
    """Keep the channels with the highest normalised scores in the whole model.

    Scores start at 0 in each group and are divided by their root mean square there, so that groups
    compare (after Molchanov et al., "Pruning Convolutional Neural Networks for Resource Efficient
    Inference", 2017, who divide by the norm; ours: the number of channels does not count). Widths
    are rounded up to allowed ones; what is left goes where a channel is worth most.
    """
    problem.check()
    scores = {name: normalize(ranking) for name, ranking in problem.rankings.items()}
    thresholds = np.unique(np.concatenate([[DEAD, np.inf], *scores.values()]))

    def at(threshold: float) -> dict[str, int]:
        widths = {}
        for name, choices in problem.choices.items():
            wanted = int((scores[name] >= threshold).sum())
            widths[name] = next(w for w in choices if w >= wanted)
        return widths

    low, high = 0, len(thresholds) - 1  # infinity keeps the minima, which meet the constraints
    while low < high:
        middle = (low + high) // 2
        if problem.meets(at(thresholds[middle])):
            high = middle
        else:
            low = middle + 1
    return give_back(problem, at(thresholds[high]))


def normalize(ranking: Ranking) -> np.ndarray:
    """Return the scores of a ranking from 0 upwards with a root mean square of 1, `(width,)`.

    Dead channels have no part in this, or their distance would lift all others: they get `DEAD`.

    Example:
        >>> normalize(Ranking(np.arange(2), np.zeros(3), np.array([5.0, 3.0]))).round(3).tolist()
        [1.414, 0.0]
    """
    scores = ranking.scores if ranking.scores.size else -np.diff(ranking.error)
    live = scores[: len(scores) - ranking.dead]
    known = np.isfinite(live)
    least = live[known].min(initial=np.inf)
    raised = np.where(known, live - least, 0.0) if known.any() else np.zeros(len(live))
    size = float(np.sqrt(np.mean(raised**2))) if live.size else 0.0
    found = raised / size if size > 0 else np.ones(len(live))
    return np.append(found, np.full(ranking.dead, DEAD))


def allocate_uniformly(problem: Problem) -> dict[str, int]:
    """Keep the largest share that meets the constraints, the same in every group.

    Every width is the largest allowed one that is no more than its group's share; what steps and
    minima leave over goes where a channel is worth most. The usual baseline, as in Li et al.,
    "Pruning Filters for Efficient ConvNets" (2017).
    """
    problem.check()
    full = problem.full()

    def at(share: float) -> dict[str, int]:
        return {
            name: max((w for w in widths if w <= share * full[name]), default=widths[0])
            for name, widths in problem.choices.items()
        }

    shares = sorted({w / full[name] for name, widths in problem.choices.items() for w in widths})
    fitting = [share for share in shares if problem.meets(at(share))]
    return give_back(problem, at(max(fitting, default=0.0)))
