"""Criteria that rebuild sampled outputs of the consumers from what single channels add to them."""

from __future__ import annotations

import numpy as np

from edgeprune.scoring.context import PruningContext
from edgeprune.scoring.filters import score_l1
from edgeprune.tracing.groups import Group


def score_thinet(context: PruningContext, group: Group) -> np.ndarray:
    """Rank by greedy removal: each channel that goes adds least to the sum of those that are gone.

    After Luo et al., "ThiNet: A Filter Level Pruning Method" (2017). Ours: several consumers of a
    group count together, each in units of its energy.
    """
    gram = _sum(context, group)
    return score_l1(context, group) if gram is None else _order(remove_greedily(gram))


def score_lasso(context: PruningContext, group: Group) -> np.ndarray:
    """Rank by the penalty at which LASSO lets each channel into the consumers' outputs.

    After He, Zhang, Sun, "Channel Pruning for Accelerating Very Deep Neural Networks" (2017): one
    coefficient per channel scales what it adds, an L1 penalty sets coefficients to zero. Ours: the
    whole path at once, instead of a search for the penalty of one width.
    """
    gram = _sum(context, group)
    return score_l1(context, group) if gram is None else follow_lasso(gram)


def remove_greedily(gram: np.ndarray) -> np.ndarray:
    """Order channels by greedy removal, the first to go first.

    Args:
        gram: `(n, n)` sums of products of what the channels add to sampled outputs.

    Example:
        >>> remove_greedily(np.array([[4.0, -3.9, 0], [-3.9, 4, 0], [0, 0, 3]])).tolist()
        [2, 0, 1]
    """
    left, gone = list(range(len(gram))), []
    inside = np.diag(gram).copy()
    while left:
        best = min(left, key=lambda channel: inside[channel])
        left.remove(best)
        gone.append(best)
        inside += 2 * gram[best]
    return np.array(gone, np.int64)


def follow_lasso(gram: np.ndarray) -> np.ndarray:
    """Return for each channel the largest penalty at which its coefficient is not zero.

    Args:
        gram: `(n, n)` sums of products of what the channels add; their sum is to be rebuilt.

    Returns:
        `(n,)`; channels that never enter follow below 0, the largest first.
    """
    from sklearn.linear_model import lars_path_gram

    penalties, _, path = lars_path_gram(
        Xy=gram.sum(axis=1), Gram=gram.copy(), n_samples=1, method="lasso", copy_X=True
    )
    inside = np.abs(path) > 0
    entered = inside.any(axis=1)
    scores = penalties[np.maximum(inside.argmax(axis=1) - 1, 0)]  # it is still 0 where it enters
    size = np.diag(gram) / max(float(np.diag(gram).max()), np.finfo(float).tiny)
    return np.where(entered, scores, (size - 2) * max(float(penalties[0]), 1e-9))


def _sum(context: PruningContext, group: Group) -> np.ndarray | None:
    found = context.samples.contributions(group)
    return np.sum(found, axis=0) if found else None


def _order(removed: np.ndarray) -> np.ndarray:
    scores = np.empty(len(removed))
    scores[removed] = np.arange(1, len(removed) + 1)
    return scores
