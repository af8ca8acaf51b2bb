"""Criteria on the distances between filters: what lies in the middle can be replaced by others."""

from __future__ import annotations

import numpy as np
from scipy.spatial.distance import cdist

from edgeprune.scoring.context import PruningContext
from edgeprune.scoring.deadness import dead_last
from edgeprune.scoring.norms import filters_of
from edgeprune.tracing.groups import Group

ROUNDS = 200
PRECISION = 1e-9


@dead_last
def score_fpgm(context: PruningContext, group: Group) -> np.ndarray:
    """Sum of the distances from each filter to all others, summed over the group's writers.

    After He et al., "Filter Pruning via Geometric Median" (2019).

    Args:
        context: weights of the model.
        group: whose channels are scored.

    Returns:
        `(width,)`, higher = keep.
    """
    distances = [cdist(filters, filters).sum(axis=1) for filters in filters_of(context, group)]
    return np.sum([np.zeros(group.width), *distances], axis=0)


@dead_last
def score_fermat(context: PruningContext, group: Group) -> np.ndarray:
    """Distance from each filter to the Fermat point of all, summed over the group's writers.

    The Fermat point, or geometric median, has the smallest sum of distances to the filters. After
    He et al., "Blending Pruning Criteria for CNNs" (2021), which names it among its criteria; ours
    in how it is found, by Weiszfeld's iteration.

    Args:
        context: weights of the model.
        group: whose channels are scored.

    Returns:
        `(width,)`, higher = keep.
    """
    scores = np.zeros(group.width)
    for filters in filters_of(context, group):
        scores += np.linalg.norm(filters - find_fermat_point(filters), axis=1)
    return scores


def find_fermat_point(points: np.ndarray) -> np.ndarray:
    """Return the point with the smallest sum of distances to given points.

    Weiszfeld's iteration, with the step of Vardi and Zhang (2000) where it meets one of the points.

    Args:
        points: `(n, d)`, at least one.

    Returns:
        `(d,)`.

    Example:
        >>> find_fermat_point(np.array([[0.0, 0], [4, 0], [0, 0], [0, 9]])).round(6).tolist()
        [0.0, 0.0]
    """
    scale = max(float(np.abs(points - points.mean(axis=0)).max()), np.finfo(float).tiny)
    median = points.mean(axis=0)
    for _ in range(ROUNDS):
        offset = points - median
        distance = np.linalg.norm(offset, axis=1)
        away = distance > PRECISION * scale
        if not away.any():
            return median
        weight = 1 / distance[away]
        pull = weight @ offset[away]
        here, strength = int((~away).sum()), float(np.linalg.norm(pull))
        if here >= strength:  # the point that was met is the median
            return median
        step = (1 - here / strength) * pull / weight.sum()
        median = median + step
        if np.abs(step).max() <= PRECISION * scale:
            break
    return median
