"""Widths by gain per cost where whole branches may go: width zero."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field

from edgeprune.allocation.problem import Problem, give_back
from edgeprune.allocation.strategies import allocate_by_gain, convex_hull
from edgeprune.allocation.widths import smallest_widths
from edgeprune.cost.workload import emptied
from edgeprune.errors import BudgetError
from edgeprune.tracing.vanishing import StaysError

REFRESH = 8
"""After so many steps all branches are priced again; in between the best of them alone is."""

LOOKED_AT = 4
"""Branches that are gone of which it is tried at last whether it is better that they stay."""


def allocate_with_branches(problem: Problem) -> dict[str, int]:
    """Shrink wherever the consumers lose least for what is saved; whole branches may go.

    Like `allocate_by_gain`, and at every step each branch that may vanish competes with all its
    operators (see `Groups.vanishing`): what it saves is counted as a whole, what is lost is what
    its last consumers lose when they see none of it. Then the same is done with each of the dearest
    branches held in turn, and without any branch; the least sum of losses stays. Ours.

    Raises:
        BudgetError: the smallest widths do not meet the constraints.

    Example:
        >>> import keras, numpy as np
        >>> from edgeprune.allocation import CostLimits, Ranking
        >>> from edgeprune.cost.budgets import Budget
        >>> from edgeprune.cost.cost_model import CostModel
        >>> from edgeprune.tracing.groups import find_groups
        >>> x = keras.Input((4,))
        >>> y = keras.layers.Dense(4)(keras.layers.Dense(8, name="inner")(x))
        >>> model = keras.Model(x, keras.layers.Dense(2)(keras.layers.add([x, y])))
        >>> groups = find_groups(model)
        >>> limits = CostLimits(CostModel(groups), Budget("macs", 0.3))
        >>> ranking = Ranking(np.arange(8), np.linspace(0.1, 0, 9))
        >>> allocate_with_branches(Problem(groups, {"inner": ranking}, limits))
        {'inner': 0}
    """
    emptying = problem.emptying()
    emptying.check()
    found = [_Descent(emptying).run()]
    for branch in _list_dearest(problem, found[0]):
        with suppress(BudgetError):
            found.append(_Descent(emptying, staying=branch).run())
    with suppress(BudgetError):
        found.append(allocate_by_gain(problem))
    return min(found, key=lambda widths: sum_losses(problem, widths))


def _list_dearest(problem: Problem, widths: Mapping[str, int]) -> list[frozenset[str]]:
    """Return the branches that are gone and missed most."""
    gone = emptied(widths)
    vanished = problem.groups.vanishing.branches.values()
    losses = {
        found.groups: sum(problem.rankings[name].error[0] for name in found.missed)
        for found in vanished
        if found.groups <= gone
    }
    return sorted(losses, key=lambda branch: -losses[branch])[:LOOKED_AT]


def sum_losses(problem: Problem, widths: Mapping[str, int]) -> float:
    """Return what consumers lose at some widths, in sum over the groups.

    Of groups that vanish together those count whose consumers are still there.

    Args:
        problem: with the rankings of all groups.
        widths: of every removable group.
    """
    vanished = problem.groups.vanishing.close(emptied(widths))
    return sum(
        float(problem.rankings[name].error[width])
        for name, width in widths.items()
        if width or name in vanished.missed
    )


@dataclass
class _Descent:
    """A greedy descent from full widths.

    Attributes:
        problem: what is to be met.
        staying: a branch that may not go.
        widths: of every removable group, so far.
        hulls: widths that are still to come for every group that is left, the present one last.
        branches: groups that go together -> what that loses for each unit saved.
    """

    problem: Problem
    staying: frozenset[str] = frozenset()
    widths: dict[str, int] = field(default_factory=dict)
    hulls: dict[str, tuple[int, ...]] = field(default_factory=dict)
    branches: dict[frozenset[str], float] = field(default_factory=dict)

    def run(self) -> dict[str, int]:
        """Shrink until the constraints are met, then give back what still fits."""
        problem, rankings = self.problem, self.problem.rankings
        self.widths = problem.full()
        self.hulls = {
            name: convex_hull(found, rankings[name].error)
            for name, found in problem.choices.items()
        }
        closed = {vanished.groups for vanished in problem.groups.vanishing.branches.values()}
        self.branches = dict.fromkeys(closed, 0.0)
        step = 0
        while not problem.meets(self.widths):
            if step % REFRESH == 0:
                self.branches = dict(self._price_all())
            step += 1
            name, rate = self._find_narrower()
            branch = self._find_branch(rate)
            if branch is not None:
                self._empty(branch)
            elif name:
                self._narrow(name)
            elif self.staying:
                raise BudgetError("The budget cannot be met with this branch.")
            else:  # other branches would have had to go
                self.widths = smallest_widths(problem.groups, problem.step, empties=True)
        return give_back(problem, self.widths)

    def _find_narrower(self) -> tuple[str, float]:
        """Return the group whose next step loses least for what it saves, and that rate."""
        price = self.problem.constraints.marginal(self.widths)
        rates = {"": float("inf")}
        for name, hull in self.hulls.items():
            if len(hull) > 1 and price[name] > 0:
                error = self.problem.rankings[name].error
                saved = price[name] * (hull[-1] - hull[-2])
                rates[name] = (error[hull[-2]] - error[hull[-1]]) / saved
        name = min(rates, key=lambda found: rates[found])
        return name, rates[name]

    def _narrow(self, name: str) -> None:
        """Take a step; it need not go all the way to the next corner of the hull."""
        self.hulls[name] = self.hulls[name][:-1]
        lower, upper = self.hulls[name][-1], self.widths[name]
        between = [
            width
            for width in self.problem.choices[name]
            if lower < width < upper and self.problem.meets({**self.widths, name: width})
        ]
        self.widths[name] = max(between, default=lower)

    def _price_all(self) -> Iterator[tuple[frozenset[str], float]]:
        for branch in self.branches:
            rate = self._price(branch)
            if rate is not None:
                yield branch, rate

    def _price(self, branch: frozenset[str]) -> float | None:
        """Return what is lost for each unit saved when a branch goes; nothing if it cannot."""
        after = self._without(branch)
        if after is None:
            return None
        excess = self.problem.constraints.excess
        saved = excess(self.widths) - excess(after)
        lost = sum_losses(self.problem, after) - sum_losses(self.problem, self.widths)
        return max(lost, 0.0) / saved if saved > 0 else float("inf")

    def _without(self, branch: frozenset[str]) -> dict[str, int] | None:
        before = emptied(self.widths)
        if branch <= before:
            return None
        try:
            together = self.problem.groups.vanishing.close(before | branch)
        except StaysError:
            return None
        if self.staying and self.staying <= together.groups:
            return None
        return {**self.widths, **dict.fromkeys(together.groups & self.widths.keys(), 0)}

    def _find_branch(self, rate: float) -> frozenset[str] | None:
        """Return the branch that loses less for what it saves than a rate; the best of them."""
        while self.branches:
            branch = min(self.branches, key=lambda found: self.branches[found])
            if self.branches[branch] > rate:
                return None
            priced = self._price(branch)
            if priced is None:
                del self.branches[branch]
            elif priced <= min(rate, *self.branches.values()) or priced == self.branches[branch]:
                return branch if priced <= rate else None
            else:
                self.branches[branch] = priced
        return None

    def _empty(self, branch: frozenset[str]) -> None:
        after = self._without(branch)
        assert after is not None
        self.widths = after
        for name in emptied(after):
            self.hulls.pop(name, None)
