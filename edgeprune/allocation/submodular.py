"""Submodular gain: every further channel of a group is worth less, so no group is starved."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from edgeprune.allocation.problem import Problem, give_back
from edgeprune.allocation.widths import Ranking, smallest_widths


def allocate_submodular(problem: Problem) -> dict[str, int]:
    """Widen, from the smallest widths, whatever adds most to a submodular worth for its cost.

    After Hu et al., "CATRO" (2021). Ours, as the paper's set function was not available: the worth
    is the sum over groups of the root of the share of their scores that is kept; scores below 0
    count as 0.

    Args:
        problem: what is to be met; rankings need scores.

    Returns:
        Width of every removable group.

    Raises:
        BudgetError: the constraints cannot be met.

    Example:
        >>> import keras
        >>> from edgeprune.allocation import CostLimits
        >>> from edgeprune.cost.cost_model import CostModel
        >>> from edgeprune.tracing.groups import find_groups
        >>> from edgeprune.cost.budgets import Budget
        >>> model = keras.Sequential([
        ...     keras.Input((4,)), keras.layers.Dense(8, name="hidden"), keras.layers.Dense(2)])
        >>> groups = find_groups(model)
        >>> limits = CostLimits(CostModel(groups), Budget("macs", 0.5))
        >>> ranking = Ranking(np.arange(8), np.zeros(9), np.linspace(1, 0, 8))
        >>> allocate_submodular(Problem(groups, {"hidden": ranking}, limits))
        {'hidden': 4}
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
