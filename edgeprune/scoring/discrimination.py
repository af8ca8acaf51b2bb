"""Criteria on how well channels tell the classes apart."""

from __future__ import annotations

import numpy as np

from edgeprune.scoring.context import PruningContext
from edgeprune.scoring.filters import score_l1
from edgeprune.tracing.groups import Group

ROUNDS = 100
LEAST_SCATTER = 1e-6
"""Smallest within-class scatter, as a fraction of the mean: constant channels explain nothing."""


def score_trace_ratio(context: PruningContext, group: Group) -> np.ndarray:
    """Between-class scatter minus the best trace ratio times within-class scatter.

    After Hu et al., "CATRO: Channel Pruning via Class-Aware Trace Ratio Optimization" (2021). The
    best channels at the width that the group will probably have, half by default, maximise sum of
    between over sum of within, taken over pooled responses; scatters of several consumers are
    summed.
    Ours: with samples of one class only, its mean response takes the place of the scatter between
    classes.
    """
    found = context.class_sums(group)
    if not found:
        return score_l1(context, group)
    between, within = np.sum([measure_scatter(*sums) for sums in found], axis=0)
    ratio = select_by_trace_ratio(between, within, context.width_of(group))[1]
    return between - ratio * within


def measure_scatter(
    count: np.ndarray, total: np.ndarray, squares: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the scatter between classes and within them, channel by channel.

    Args:
        count: `(classes,)` samples.
        total: `(classes, channels)` sums over the samples of each class.
        squares: `(classes, channels)` sums of squares.

    Returns:
        Twice `(channels,)`, per sample.

    Example:
        >>> measure_scatter(np.array([2, 2]), np.array([[0.0], [4.0]]), np.array([[2.0], [10.0]]))
        (array([1.]), array([1.]))
    """
    mean = total / count[:, None]
    centre = total.sum(axis=0) / count.sum() if len(count) > 1 else np.zeros(total.shape[1])
    between = count @ np.square(mean - centre) / count.sum()
    within = np.maximum(squares - count[:, None] * np.square(mean), 0).sum(axis=0) / count.sum()
    return np.nan_to_num(between), np.nan_to_num(within)


def select_by_trace_ratio(
    between: np.ndarray, within: np.ndarray, count: int
) -> tuple[np.ndarray, float]:
    """Choose the channels with the largest sum of `between` over sum of `within`.

    Starts from the largest ratios of single channels; then the ratio of the selection gives new
    scores, `between - ratio * within`, and these a new selection, until it stays. The ratio never
    falls and ends at the global optimum.

    Args:
        between: `(n,)`, not negative.
        within: `(n,)`, not negative.
        count: how many channels to choose.

    Returns:
        `(count,)` the channels, sorted, and the ratio.

    Example:
        >>> select_by_trace_ratio(np.array([1.0, 3, 2]), np.array([1.0, 1, 2]), 2)
        (array([0, 1]), 2.0)
    """
    floor = max(LEAST_SCATTER * float(within.mean()), np.finfo(float).tiny)
    within = np.maximum(within, floor)
    chosen = np.sort(np.argsort(-between / within, kind="stable")[:count])
    for _ in range(ROUNDS):
        ratio = float(between[chosen].sum() / within[chosen].sum())
        better = np.sort(np.argsort(-(between - ratio * within), kind="stable")[:count])
        if np.array_equal(better, chosen):
            break
        chosen = better
    return chosen, ratio
