"""The smallest model that still is good enough: what `drop=1%` asks for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from edgeprune.cost.budgets import Budgets, Quantity
from edgeprune.errors import BudgetError
from edgeprune.support.progress import remark, stage

Made = TypeVar("Made")
MOST_TRIALS = 6
"""One more follows: the smallest that passed, trained for its full time."""
QUICK = 0.25
"""Share of the training that a trial gets."""
FINE = 0.03
"""Shares closer to each other than this are not told apart."""


@dataclass(frozen=True)
class DropTrial(Generic[Made]):
    """One size that was tried.

    Attributes:
        share: of what the original costs; `None` for the other budgets alone.
        lost: accuracy on validation against the original, 0.01 for one point; infinite where the
            share cannot be reached.
        made: the model; `None` where there is none.
    """

    share: float | None
    lost: float
    made: Made | None

    def to_dict(self) -> dict[str, Any]:
        """Return the trial for a report, as JSON types."""
        return {"share": self.share, "lost": None if self.made is None else round(self.lost, 4)}


def find_smallest(
    make: Callable[[float | None], tuple[Made, float]], drop: float, *, limited: bool
) -> tuple[DropTrial[Made], ...]:
    """Bisect for the smallest share of a cost at which a model loses at most `drop`.

    Args:
        make: gives a model for a share and the accuracy that it loses; raises `BudgetError` where
            the share cannot be reached.
        drop: the most that may be lost, 0.01 for one point.
        limited: whether there are other budgets, which are tried alone first: what they lose, no
            smaller model gives back.

    Returns:
        All trials, in their order.

    Raises:
        BudgetError: the other budgets lose more already.

    Example:
        >>> trials = find_smallest(lambda share: (share, 0.02 / share - 0.02), 0.01, limited=False)
        >>> 0.66 <= list_passing(trials, 0.01)[0].share <= 0.70
        True
    """
    trials: list[DropTrial[Made]] = []
    with stage("trials for the drop", MOST_TRIALS) as advance:

        def attempt(share: float | None) -> bool:
            try:
                made, lost = make(share)
            except BudgetError:
                if share is None:
                    raise
                trials.append(DropTrial(share, float("inf"), None))
            else:
                trials.append(DropTrial(share, lost, made))
                where = "other budgets" if share is None else f"{share:.0%}"
                remark(f"{where}: {100 * lost:+.1f} points lost")
            advance()
            return trials[-1].lost <= drop

        if limited and not attempt(None):
            raise BudgetError(
                f"Not both can be had: a model within the other budgets loses "
                f"{100 * trials[0].lost:.1f} points on validation samples, where drop="
                f"{100 * drop:g}% is allowed. Nothing was written. Allow more of one of them."
            )
        low, high = 0.0, 1.0
        while len(trials) < MOST_TRIALS and high - low > FINE:
            share = (low + high) / 2
            if attempt(share):
                high = share
            else:
                low = share
    return tuple(trials)


def list_passing(trials: Sequence[DropTrial[Made]], drop: float) -> list[DropTrial[Made]]:
    """Return the trials that lose no more than `drop`, the smallest first."""
    passing = [trial for trial in trials if trial.lost <= drop]
    return sorted(passing, key=lambda trial: 1.0 if trial.share is None else trial.share)


def meet_drop(
    make: Callable[[Budgets, float], tuple[Made, float]], budgets: Budgets, quantity: Quantity
) -> tuple[Made, tuple[DropTrial[Made], ...]]:
    """Return the smallest model that loses no more accuracy than allowed, and what was tried.

    It is trained for its full time; if it then loses more than before, what was tried stays.

    Args:
        make: gives a model for budgets of cost, trained for a share of the time, and the accuracy
            that it loses on validation samples.
        budgets: with a drop.
        quantity: that is to become small; none of the budgets' own.

    Raises:
        BudgetError: nothing that is smaller than the original loses so little.
    """
    drop = budgets.drop or 0.0

    def ask(share: float | None) -> Budgets:
        costs = budgets.costs
        return costs if share is None and costs else budgets.with_share(quantity, share or 1.0)

    trials = find_smallest(
        lambda share: make(ask(share), QUICK), drop, limited=budgets.costs is not None
    )
    passing = list_passing(trials, drop)
    if passing:
        smallest = passing[0]
        made, lost = make(ask(smallest.share), 1.0)
        trials = (*trials, DropTrial(smallest.share, lost, made))
        return made if lost <= drop or smallest.made is None else smallest.made, trials
    closest = min(trials, key=lambda trial: trial.lost)
    raise BudgetError(
        f"The budget drop={100 * drop:g}% cannot be met: of {len(trials)} trials the closest one, "
        f"with {_describe(closest.share)} of the {quantity}, loses {100 * closest.lost:.1f} points "
        "on validation samples. Nothing was written. Allow more, train longer with --effort "
        "thorough, or give more validation samples."
    )


def _describe(share: float | None) -> str:
    return "all" if share is None else f"{100 * share:.0f} %"
