"""The closed loop: prune, measure, correct the budget, until the measured figure meets it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from edgeprune.cost.budgets import Budgets
from edgeprune.errors import BudgetError
from edgeprune.support.progress import SILENT, Progress

Product = TypeVar("Product")

TOLERANCE = 0.1
AIM = 0.96
"""Share of the limit that a correction aims at: under it, and well within the tolerance."""
MOST_ROUNDS = 5


@dataclass(frozen=True)
class Round(Generic[Product]):
    """One turn of the loop.

    Attributes:
        budgets: that were asked for, latency as the predictor sees it.
        measured_ms: median that the result took; of a share, at the machine's speed at the start.
        product: what was made.
    """

    budgets: Budgets
    measured_ms: float
    product: Product = field(repr=False)


def meet_latency(
    make: Callable[[Budgets], Product],
    measure: Callable[[Product], float],
    budgets: Budgets,
    limit_ms: float,
    *,
    most_rounds: int = MOST_ROUNDS,
    progress: Progress = SILENT,
) -> tuple[Round[Product], tuple[Round[Product], ...]]:
    """Make something until its measured latency lies at most 10 % under the limit, and not over.

    The next budget is the last one times what was missed: a predictor that is wrong by a factor is
    right from the second round on.

    Args:
        make: prunes for budgets.
        measure: returns the median in ms.
        budgets: with one for latency, in ms of the predictor; the others are kept.
        limit_ms: that the measured latency must meet.
        most_rounds: after which the best is taken.
        progress: told after every round.

    Returns:
        The round that is delivered: the slowest of those that meet the limit, or the fastest if
        none does; and all rounds.

    Raises:
        BudgetError: the first round cannot be made.

    Example:
        >>> best, rounds = meet_latency(
        ...     lambda budgets: next(iter(budgets)).amount, lambda ms: 1.5 * ms,
        ...     Budgets.parse("latency=10ms"), 10.0)
        >>> [round(turn.measured_ms, 2) for turn in rounds]
        [15.0, 9.6]
    """
    rounds: list[Round[Product]] = []
    with progress.stage("meeting the measured budget", most_rounds) as advance:
        while len(rounds) < most_rounds:
            try:
                product = make(budgets)
            except BudgetError:
                if not rounds:
                    raise
                break
            measured = measure(product)
            rounds.append(Round(budgets, measured, product))
            advance()
            if (1 - TOLERANCE) * limit_ms <= measured <= limit_ms:
                break
            factor = AIM * limit_ms / measured
            if len(rounds) > 1 and measured == rounds[-2].measured_ms:
                break  # the same widths again: nothing lies in between
            budgets = budgets.scale("latency", factor)
    met = [turn for turn in rounds if turn.measured_ms <= limit_ms]
    best = (
        max(met, key=lambda turn: turn.measured_ms)
        if met
        else min(rounds, key=lambda turn: turn.measured_ms)
    )
    return best, tuple(rounds)
