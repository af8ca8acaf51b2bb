"""Criteria that choose channels which, together, can replace the others."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.linalg.lapack import dpstrf

from edgeprune.criteria.evidence import Evidence, View
from edgeprune.groups import Group

SINGULAR = 1e-6


def score_pivoted_qr(evidence: Evidence, group: Group) -> np.ndarray:
    """Rank by pivoted QR of what the readers see: each pivot is what the earlier ones explain least.

    After Zhang, Davoodi, Hu, "CHaPR: Efficient Inference of CNNs via Channel Pruning" (2020). Ours:
    pivots are taken by pivoted Cholesky of the covariance (a bias can restore any constant), columns
    are scaled by how strongly the readers use them, and a group with several readers is judged on
    all of them.

    Args:
        evidence: statistics and weights of the model.
        group: whose channels are scored.

    Returns:
        `(width,)`: `width` for the first pivot down to 1 for the last.
    """
    stacked = np.zeros((group.width, group.width))
    for view in evidence.views(group):
        scale = np.sqrt(np.maximum(np.diag(view.metric), 0))
        stacked += view.covariance * np.outer(scale, scale)
    return _score(pivoted_cholesky(stacked))


def score_greedy_least_squares(evidence: Evidence, group: Group) -> np.ndarray:
    """Rank by greedy selection: each channel taken is the one that lowers the readers' error most.

    The error is what remains of each reader's output when the kept channels predict the others by
    least squares. Ours; a forward selection on the objective of CHaPR (2020).

    Args:
        evidence: statistics and weights of the model.
        group: whose channels are scored.

    Returns:
        `(width,)`: `width` for the first choice down to 1 for the last.
    """
    return _score(eliminate(evidence.views(group), group.width)[0])


def _score(order: np.ndarray) -> np.ndarray:
    scores = np.empty(len(order))
    scores[order] = np.arange(len(order), 0, -1)
    return scores


def pivoted_cholesky(matrix: np.ndarray) -> np.ndarray:
    """Order the columns of a Gram matrix as QR with column pivoting orders those of its factor.

    Args:
        matrix: `(n, n)`, symmetric, positive semi-definite. Not changed.

    Returns:
        `(n,)` pivots; columns that the earlier ones explain wholly come last, largest first.

    Example:
        >>> pivoted_cholesky(np.diag([1.0, 3.0, 2.0])).tolist()
        [1, 2, 0]
    """
    diagonal = np.diag(matrix)
    tolerance = 1e-7 * max(float(diagonal.max(initial=0.0)), np.finfo(float).tiny)
    _, pivots, rank, _ = dpstrf(matrix, tol=tolerance)
    order = np.asarray(pivots - 1, dtype=np.int64)
    explained = order[rank:]
    order[rank:] = explained[np.argsort(-diagonal[explained], kind="stable")]
    return order


def eliminate(
    views: Sequence[View], width: int, order: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Take channels one by one and follow the error that remains in the readers' outputs.

    Args:
        views: of all readers of a group.
        width: number of channels.
        order: `(width,)` in which to take them; by default the one that lowers the error most.

    Returns:
        `(width,)` order, and `(width + 1,)` the error after 0, 1, ... channels, summed over readers.

    Example:
        >>> view = View(np.diag([1.0, 2.0]), np.eye(2))
        >>> order, error = eliminate([view], 2)
        >>> order.tolist(), error.tolist()
        ([1, 0], [3.0, 1.0, 0.0])
    """
    states = [_State(view) for view in views]
    taken = np.full(width, False)
    chosen = np.empty(width, dtype=np.int64)
    errors = [sum(state.error for state in states)]
    for step in range(width):
        if order is None:
            gain = sum((state.gains() for state in states), np.zeros(width))
            pivot = int(np.argmax(np.where(taken, -np.inf, gain)))
        else:
            pivot = int(order[step])
        chosen[step] = pivot
        taken[pivot] = True
        for state in states:
            state.take(pivot)
        errors.append(sum(state.error for state in states))
    return chosen, np.minimum.accumulate(np.clip(errors, 0.0, None))


class _State:
    """What remains of one view after some channels were taken.

    With U the factor of what they explain, the rest is S = covariance - U U^T. Only its diagonal
    and that of S M S are kept up to date: two matrix-vector products per step.
    """

    def __init__(self, view: View) -> None:
        self.covariance, self.metric = view.covariance, view.metric
        product = self.metric @ self.covariance
        self.error = float(np.trace(product))
        self.diagonal = np.diag(self.covariance).copy()
        self.curved = np.einsum("ij,ij->j", self.covariance, product)
        self.floor = SINGULAR * np.maximum(self.diagonal, 0)
        self._columns = np.empty((len(self.diagonal), len(self.diagonal)), order="F")
        self._taken = 0

    @property
    def factor(self) -> np.ndarray:
        return self._columns[:, : self._taken]

    def gains(self) -> np.ndarray:
        usable = self.diagonal > self.floor
        return np.where(usable, self.curved / np.where(usable, self.diagonal, 1), 0.0)

    def take(self, pivot: int) -> None:
        if self.diagonal[pivot] <= self.floor[pivot]:
            return
        column = self.covariance[:, pivot] - self.factor @ self.factor[pivot]
        u = column / np.sqrt(self.diagonal[pivot])
        pulled = self.metric @ u
        rest = self.covariance @ pulled - self.factor @ (self.factor.T @ pulled)
        energy = float(u @ pulled)
        self.error -= energy
        self.curved = self.curved - 2 * u * rest + u**2 * energy
        self.diagonal = self.diagonal - u**2
        self._columns[:, self._taken] = u
        self._taken += 1
