"""Channels that carry nothing to any consumer come last, whatever the criterion."""

from __future__ import annotations

from functools import wraps

import numpy as np

from edgeprune.scoring.context import Criterion, PruningContext
from edgeprune.tracing.groups import Group


def dead_last(criterion: Criterion) -> Criterion:
    """Put dead channels below all others; among themselves they keep their order.

    A channel is dead if it is constant wherever it is read, or weighs nothing there: taking it out
    costs nothing that a bias could not restore. Where no consumer has statistics, nothing is known
    to be dead.

    Args:
        criterion: that gets this guarantee.
    """

    @wraps(criterion)
    def guarded(context: PruningContext, group: Group) -> np.ndarray:
        scores = np.array(criterion(context, group), np.float64)
        alive = context.alive(group)
        if alive.all() or not alive.any():
            return scores
        span = float(np.ptp(scores)) or 1.0
        overlap = scores[~alive].max() - scores[alive].min()
        scores[~alive] -= max(overlap, 0.0) + span
        return scores

    return guarded
