"""Criteria that choose channels which, together, can replace the others."""

from __future__ import annotations

import numpy as np
from scipy.linalg.lapack import dpstrf

from edgeprune.criteria.evidence import Evidence
from edgeprune.groups import Group


def score_pivoted_qr(evidence: Evidence, group: Group) -> np.ndarray:
    """Rank by pivoted QR of what the readers see: each pivot is what the earlier ones explain least.

    After Zhang, Davoodi, Hu, "CHaPR: Efficient Inference of CNNs via Channel Pruning" (2020). Ours:
    pivots are taken by pivoted Cholesky of the covariance (a bias can restore any constant), the
    columns are scaled by the norm of the kernel slices that read them, and a group with several
    readers is judged on all of them, each normalised by its own total.

    Args:
        evidence: statistics and weights of the model.
        group: whose channels are scored.

    Returns:
        `(width,)`: `width` for the first pivot down to 1 for the last.
    """
    order, _ = pivoted_cholesky(evidence.scatter(group))
    scores = np.empty(group.width)
    scores[order] = np.arange(group.width, 0, -1)
    return scores


def pivoted_cholesky(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Order the columns of a Gram matrix as QR with column pivoting orders those of its factor.

    Args:
        matrix: `(n, n)`, symmetric, positive semi-definite. Not changed.

    Returns:
        `(n,)` pivots, and `(n + 1,)` the trace that remains unexplained after 0, 1, ... n of them.

    Example:
        >>> order, remaining = pivoted_cholesky(np.diag([1.0, 3.0, 2.0]))
        >>> order.tolist(), remaining.tolist()
        ([1, 2, 0], [6.0, 3.0, 1.0, 0.0])
    """
    diagonal = np.diag(matrix)
    factor, pivots, rank, _ = dpstrf(matrix, tol=_floor(matrix))
    order = pivots - 1
    explained = order[rank:]
    order[rank:] = explained[np.argsort(-diagonal[explained], kind="stable")]
    rows = np.triu(factor)
    rows[rank:] = 0
    return order, _remaining(matrix, rows)


def remaining_trace(matrix: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Return the trace that columns taken in a given order leave unexplained, `(n + 1,)`."""
    ordered = matrix[np.ix_(order, order)]
    jitter = max(_floor(matrix), np.finfo(float).tiny) * np.eye(len(matrix))
    return _remaining(matrix, np.linalg.cholesky(ordered + jitter).T)


def _floor(matrix: np.ndarray) -> float:
    """What counts as zero on the diagonal: rounding of a float32 Gram matrix, squared condition."""
    return 1e-7 * max(float(np.diag(matrix).max(initial=0.0)), 0.0)


def _remaining(matrix: np.ndarray, rows: np.ndarray) -> np.ndarray:
    total = max(float(np.trace(matrix)), 0.0)
    remaining = total - np.concatenate([[0.0], np.cumsum((rows**2).sum(axis=1))])
    return np.clip(remaining, 0.0, None)
