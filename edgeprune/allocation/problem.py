"""What an allocation has to solve, and steps that several of them share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from edgeprune.allocation.constraints import Constraints
from edgeprune.allocation.widths import DEFAULT_STEP, Ranking, allowed_widths, smallest_widths
from edgeprune.errors import BudgetError
from edgeprune.tracing.groups import Groups


@dataclass(frozen=True)
class Problem:
    """Widths are wanted that meet the constraints and lose little.

    Attributes:
        groups: of the model.
        rankings: of every removable group.
        constraints: what must be met.
        step: see `allowed_widths`.
        measure: widths of narrowed groups, the others whole -> how good the model then is on
            validation samples, larger being better; for allocations that measure.
        empties: whether whole branches may go.
    """

    groups: Groups
    rankings: Mapping[str, Ranking]
    constraints: Constraints
    step: int = DEFAULT_STEP
    measure: Callable[[Mapping[str, int]], float] | None = None
    empties: bool = False

    @cached_property
    def choices(self) -> dict[str, tuple[int, ...]]:
        """Widths that every removable group may have, ascending."""
        return {g.name: allowed_widths(g.width, self.step) for g in self.groups.removable}

    def full(self) -> dict[str, int]:
        """Return the own width of every removable group."""
        return {group.name: group.width for group in self.groups.removable}

    def emptying(self) -> Problem:
        """Return the same problem where whole branches may go."""
        return replace(self, empties=True)

    def meets(self, widths: Mapping[str, int]) -> bool:
        """Whether the constraints hold at these widths."""
        return self.constraints.excess(widths) <= 1

    def check(self) -> None:
        """Refuse constraints that even the smallest widths do not meet.

        Raises:
            BudgetError: says by how much they are exceeded.
        """
        excess = self.constraints.excess(smallest_widths(self.groups, self.step, self.empties))
        if excess > 1:
            raise BudgetError(
                f"The budget cannot be met: with every group at its smallest width the model still "
                f"costs {excess:.3g} times what is allowed. Ask for more, or for a finer step."
            )


def give_back(problem: Problem, widths: Mapping[str, int]) -> dict[str, int]:
    """Widen groups again, best gain per cost first, while the constraints still hold.

    Args:
        problem: with errors in its rankings.
        widths: that meet the constraints.

    Returns:
        Widths of which none can take its next step any more. What is gone stays gone.
    """
    found = dict(widths)
    while True:
        now = problem.constraints.excess(found)
        gains = []
        for name, width in found.items():
            if not width:
                continue
            wider = next((w for w in problem.choices[name] if w > width), None)
            if wider is None:
                continue
            total = problem.constraints.excess({**found, name: wider})
            if total <= 1:
                error = problem.rankings[name].error
                saved = error[width] - error[wider]
                gains.append((saved / max(total - now, 1e-9), name, wider))
        if not gains:
            return found
        _, name, wider = max(gains)
        found[name] = wider
