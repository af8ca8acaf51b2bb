"""One threshold for the normalised scores of all groups."""

from __future__ import annotations

import numpy as np

from edgeprune.allocation.problem import Problem, give_back
from edgeprune.allocation.widths import Ranking

DEAD = -1.0
"""Below every live channel's score."""


def allocate_by_score(problem: Problem) -> dict[str, int]:
    """Keep the channels with the highest normalised scores in the whole model.

    Scores start at 0 in each group and are divided by their root mean square there, so that groups
    compare (after Molchanov et al., "Pruning Convolutional Neural Networks for Resource Efficient
    Inference", 2017, who divide by the norm; ours: the number of channels does not count). Widths
    are rounded up to allowed ones; what is left goes where a channel is worth most.

    Args:
        problem: with scores in its rankings; where there are none, a channel's score is by how much
            it lowers the error.

    Returns:
        Width of every removable group.

    Raises:
        BudgetError: the constraints cannot be met.
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
