"""The same share of every group."""

from __future__ import annotations

from edgeprune.allocation.problem import Problem, give_back


def allocate_uniformly(problem: Problem) -> dict[str, int]:
    """Keep the largest share that meets the constraints, the same in every group.

    Every width is the largest allowed one that is no more than its group's share; what steps and
    minima leave over goes where a channel is worth most. The usual baseline, as in Li et al.,
    "Pruning Filters for Efficient ConvNets" (2017).

    Args:
        problem: what is to be met.

    Returns:
        Width of every removable group.

    Raises:
        BudgetError: the constraints cannot be met.

    Example:
        >>> import keras, numpy as np
        >>> from edgeprune.allocation import CostLimits, Ranking
        >>> from edgeprune.cost.cost_model import CostModel
        >>> from edgeprune.tracing.groups import find_groups
        >>> from edgeprune.cost.budgets import Budget
        >>> model = keras.Sequential([
        ...     keras.Input((4,)), keras.layers.Dense(8, name="a"),
        ...     keras.layers.Dense(16, name="b"), keras.layers.Dense(2)])
        >>> groups = find_groups(model)
        >>> rankings = {"a": Ranking(np.arange(8), np.linspace(1, 0, 9)),
        ...             "b": Ranking(np.arange(16), np.linspace(1, 0, 17))}
        >>> limits = CostLimits(CostModel(groups), Budget("macs", 0.4))
        >>> allocate_uniformly(Problem(groups, rankings, limits))
        {'a': 4, 'b': 8}
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
