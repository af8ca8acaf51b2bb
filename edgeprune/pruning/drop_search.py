"""The smallest model that still is good enough: what `drop=1%` asks for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from edgeprune.cost.budgets import Budgets, Quantity
from edgeprune.errors import BudgetError
from edgeprune.support.progress import remark, stage

Made = TypeVar("Made")
Make = Callable[[Budgets, float], tuple[Made, float]]
QUICK_TRIALS = 4
FULL_TRIALS = 3
QUICK = 0.3
"""Share of the training that a quick trial gets."""
HOPELESS = 3.0
"""A quick trial that loses so many times what is allowed would not pass with all its training."""
FINE = 0.03
"""Shares closer to each other than this are not told apart."""


@dataclass(frozen=True)
class DropTrial(Generic[Made]):
    """One size that was tried.

    Attributes:
        share: of what the original costs; `None` for the other budgets alone.
        training: share of the training that it got.
        lost: accuracy on validation against the original, 0.01 for one point; infinite where the
            share cannot be reached.
        made: the model; `None` where there is none.
    """

    share: float | None
    training: float
    lost: float
    made: Made | None = field(repr=False)

    @property
    def size(self) -> float:
        """The share, 1 for the other budgets alone."""
        return 1.0 if self.share is None else self.share

    def to_dict(self) -> dict[str, Any]:
        """Return the trial for a report, as JSON types."""
        lost = None if self.made is None else round(self.lost, 4)
        return {"share": self.share, "training": self.training, "lost": lost}


def meet_drop(
    make: Make[Made], budgets: Budgets, quantity: Quantity
) -> tuple[Made, tuple[DropTrial[Made], ...]]:
    """Return the smallest model that loses no more accuracy than allowed, and what was tried.

    Bisects with little training first, then with all of it between what is hopeless and what passed
    already; at most eight trials.

    Args:
        make: gives a model for budgets of cost, trained for a share of the time, and the accuracy
            that it loses on validation samples; raises `BudgetError` where they cannot be met.
        budgets: with a drop. Other budgets are tried alone first: what they lose, no smaller model
            gives back.
        quantity: that is to become small; none of the budgets' own.

    Raises:
        BudgetError: the other budgets lose more already, or nothing that is smaller than the
            original loses so little.

    Example:
        >>> def make(found, training):
        ...     share = next(iter(found)).amount
        ...     return share, 0.02 / share - 0.02
        >>> made, trials = meet_drop(make, Budgets.parse("drop=1%"), "macs")
        >>> 0.66 <= made <= 0.70
        True
    """
    drop = budgets.drop or 0.0
    trials: list[DropTrial[Made]] = []
    with stage("trials for the drop", QUICK_TRIALS + FULL_TRIALS + 1) as advance:

        def attempt(share: float | None, training: float) -> bool:
            costs = budgets.costs
            asked = costs if share is None and costs else budgets.with_share(quantity, share or 1.0)
            try:
                made, lost = make(asked, training)
            except BudgetError:
                if share is None:
                    raise
                trials.append(DropTrial(share, training, float("inf"), None))
            else:
                trials.append(DropTrial(share, training, lost, made))
                where = "other budgets" if share is None else f"{share:.0%}"
                remark(f"{where}: {100 * lost:+.1f} points lost")
            advance()
            return trials[-1].lost <= drop

        def bisect(low: float, high: float, training: float, most: int) -> None:
            end = len(trials) + most
            while len(trials) < end and high - low > FINE:
                share = (low + high) / 2
                low, high = (low, share) if attempt(share, training) else (share, high)

        if budgets.costs is not None and not attempt(None, 1.0):
            raise BudgetError(
                f"Not both can be had: a model within the other budgets loses "
                f"{100 * trials[0].lost:.1f} points on validation samples, where drop="
                f"{100 * drop:g}% is allowed. Nothing was written. Allow more of one of them."
            )
        bisect(0.0, 1.0, QUICK, QUICK_TRIALS - len(trials))
        hopeless = [trial.size for trial in trials if trial.lost > HOPELESS * drop]
        best = _find_smallest(trials, drop)
        bisect(max(hopeless, default=0.0), best.size if best else 1.0, 1.0, FULL_TRIALS)
        best = _find_smallest(trials, drop)
        if best is not None and best.training < 1.0:
            attempt(best.share, 1.0)
            best = _find_smallest(trials, drop)
    if best is not None and best.made is not None:
        return best.made, tuple(trials)
    closest = min(trials, key=lambda trial: trial.lost)
    raise BudgetError(
        f"The budget drop={100 * drop:g}% cannot be met: of {len(trials)} trials the closest one, "
        f"with {100 * closest.size:.0f} % of the {quantity}, loses {100 * closest.lost:.1f} points "
        "on validation samples. Nothing was written. Allow more, train longer with --effort "
        "thorough, or give more validation samples."
    )


def _find_smallest(trials: Sequence[DropTrial[Made]], drop: float) -> DropTrial[Made] | None:
    """Return the smallest that loses no more; of two of one size the one with more training."""
    passing = [trial for trial in trials if trial.lost <= drop]
    return min(passing, key=lambda trial: (trial.size, -trial.training), default=None)
