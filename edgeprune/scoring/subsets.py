"""Criteria that choose channels which, together, can replace the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy.linalg.lapack import dpstrf

from edgeprune.scoring.context import PruningContext, View
from edgeprune.scoring.filters import score_l1
from edgeprune.support.linear_algebra import invert_root
from edgeprune.tracing.groups import Group

SINGULAR = 1e-6
"""Share of a channel's variance below which it counts as explained by others."""
NEGLIGIBLE = 1e-9
BLOCK = 64
POOL = 128
"""Up to this many channels every choice is the best; beyond, the best of a pool of so many."""


def score_pivoted_qr(context: PruningContext, group: Group) -> np.ndarray:
    """Rank by pivoted QR of what consumers see: each pivot is what the earlier ones explain least.

    After Zhang, Davoodi, Hu, "CHaPR: Efficient Inference of CNNs via Channel Pruning" (2020). Ours:
    pivots are taken by pivoted Cholesky of the covariance (a bias can restore any constant),
    columns are scaled by how strongly the consumers use them, and a group with several consumers is
    judged on all of them.
    """
    views = context.views(group)
    if not views:
        return score_l1(context, group)
    stacked = np.zeros((group.width, group.width))
    for view in views:
        scale = np.sqrt(np.maximum(np.diag(view.metric), 0))
        stacked += view.covariance * np.outer(scale, scale)
    return _score(pivoted_cholesky(stacked))


def score_greedy_least_squares(context: PruningContext, group: Group) -> np.ndarray:
    """Rank by greedy selection: the next channel is the one that lowers consumers' error most.

    The error is what remains of each consumer's output when the kept channels predict the others by
    least squares. Ours; a forward selection on the objective of CHaPR (2020).
    """
    views = context.views(group)
    if not views:
        return score_l1(context, group)
    return _score(choose_greedily(views, group.width)[0])


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
    return measure_pivots(matrix)[0]


def measure_pivots(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the order of `pivoted_cholesky`, and what each pivot adds to the earlier ones.

    Args:
        matrix: `(n, n)`, symmetric, positive semi-definite. Not changed.

    Returns:
        `(n,)` pivots, and `(n,)` |R_kk| / |R_11| of QR with column pivoting, not increasing: how
        much of a column the earlier ones do not explain. 0 from where they explain the rest wholly.

    Example:
        >>> order, added = measure_pivots(np.diag([1.0, 4.0, 0.0]))
        >>> order.tolist(), added.tolist()
        ([1, 0, 2], [1.0, 0.5, 0.0])
    """
    diagonal = np.diag(matrix)
    tolerance = 1e-7 * max(float(diagonal.max(initial=0.0)), np.finfo(float).tiny)
    factor, pivots, rank, _ = dpstrf(matrix, tol=tolerance)
    order = np.asarray(pivots - 1, dtype=np.int64)
    explained = order[rank:]
    order[rank:] = explained[np.argsort(-diagonal[explained], kind="stable")]
    added = np.zeros(len(order))
    added[:rank] = np.diag(factor)[:rank] / factor[0, 0] if rank else 0
    return order, added


def choose_greedily(views: Sequence[View], width: int) -> tuple[np.ndarray, np.ndarray]:
    """Take channels one by one, each time the one that lowers the error in the consumers most.

    In groups of more than `POOL` channels the choice is among those that were worth most a few
    steps ago. Once nothing lowers the error any more, the rest follows, the largest first.

    Args:
        views: of all consumers of a group.
        width: number of channels.

    Returns:
        `(width,)` order, and `(width + 1,)` the error after 0, 1, ... channels, summed over
        consumers.

    Example:
        >>> order, error = choose_greedily([View(np.diag([1.0, 2.0]), np.eye(2))], 2)
        >>> order.tolist(), error.tolist()
        ([1, 0], [3.0, 1.0, 0.0])
    """
    rests = [_Rest(view) for view in views]
    errors = [sum(rest.error for rest in rests)]
    least = NEGLIGIBLE * errors[0]
    left = np.arange(width)
    chosen: list[int] = []
    while left.size:
        gain = sum((rest.gains() for rest in rests), np.zeros(left.size))
        best = np.argsort(-gain, kind="stable")
        if gain[best[0]] <= least:
            break
        pool, bar = best[:POOL], max(gain[best[POOL:]].max(initial=0.0), least)
        inside = [rest.enter(pool) for rest in rests]
        most = left.size if left.size <= POOL else max(POOL // 8, left.size // 64)
        taken = _choose_in_pool(inside, bar, most, errors)
        for rest, entered in zip(rests, inside, strict=True):
            rest.leave(pool, entered, pool[taken])
        chosen += left[pool[taken]].tolist()
        left = np.delete(left, pool[taken])
    size = sum((np.diag(v.metric) * np.diag(v.covariance) for v in views), np.zeros(width))
    chosen += left[np.argsort(-size[left], kind="stable")].tolist()
    errors += [errors[-1]] * left.size
    return np.array(chosen, np.int64), _descending(errors)


def _choose_in_pool(
    inside: Sequence[_Pool], bar: float, most: int, errors: list[float]
) -> list[int]:
    """Take channels of a pool while the best is worth more than any outside; note the errors."""
    taken: list[int] = []
    while len(taken) < most:
        gain = np.sum([pool.gains() for pool in inside], axis=0)
        gain[taken] = 0
        pivot = int(np.argmax(gain))
        if taken and gain[pivot] <= bar:
            break
        taken.append(pivot)
        errors.append(errors[-1] - sum(pool.take(pivot) for pool in inside))
    return taken


def follow_order(views: Sequence[View], order: np.ndarray) -> np.ndarray:
    """Return the error that remains in the consumers' outputs while channels are taken in an order.

    Args:
        views: of all consumers of a group.
        order: `(width,)` channels.

    Returns:
        `(width + 1,)` the error after 0, 1, ... channels, summed over consumers; 0 without
        consumers.

    Example:
        >>> follow_order([View(np.diag([1.0, 4.0]), np.eye(2))], np.array([0, 1])).tolist()
        [5.0, 4.0, 0.0]
    """
    errors = np.zeros(len(order) + 1)
    for view in views:
        errors += np.sum(view.metric * view.covariance)
        errors[1:] -= np.cumsum(_energies(view, order))
    return _descending(errors)


def _descending(errors: Sequence[float] | np.ndarray) -> np.ndarray:
    """Remove what rounding made rise or fall below 0."""
    return np.minimum.accumulate(np.clip(errors, 0.0, None))


def _energies(view: View, order: np.ndarray) -> np.ndarray:
    """Return by how much each channel of an order lowers the error: Cholesky, block by block."""
    covariance = view.covariance[np.ix_(order, order)]
    floor = SINGULAR * np.diag(covariance)
    factor = np.zeros_like(covariance)
    for start in range(0, len(order), BLOCK):
        block = slice(start, start + BLOCK)
        columns = covariance[:, block] - factor[:, :start] @ factor[block, :start].T
        for index in range(columns.shape[1]):
            pivot = columns[start + index, index]
            usable = pivot > max(floor[start + index], 0)
            columns[:, index] *= 1 / np.sqrt(pivot) if usable else 0
            later = columns[start + index + 1 : start + BLOCK, index]
            columns[:, index + 1 :] -= np.outer(columns[:, index], later)
        factor[:, block] = columns
    return np.asarray(np.einsum("ij,ij->j", factor, view.metric[np.ix_(order, order)] @ factor))


class _Rest:
    """What the channels that were taken leave unexplained in one view, for those that are left.

    S is the covariance of the rest and M the metric: taking channel j lowers the error by
    (S M S)_jj / S_jj. Channels are taken from pools of the most valuable ones, within which all is
    small; the large matrices are touched once per pool.
    """

    def __init__(self, view: View) -> None:
        self._rest, self._metric = view.covariance, view.metric
        product = self._metric @ self._rest
        self.error = float(np.trace(product))
        self._curved = np.einsum("ij,ij->j", self._rest, product)
        self._floor = SINGULAR * np.maximum(np.diag(self._rest), 0)

    def gains(self) -> np.ndarray:
        return _gains(np.diag(self._rest), self._curved, self._floor)

    def enter(self, pool: np.ndarray) -> _Pool:
        rows = self._rest[pool]
        pulled = self._metric @ rows.T
        return _Pool(rows[:, pool], rows @ pulled, self._floor[pool], pulled)

    def leave(self, pool: np.ndarray, entered: _Pool, taken: np.ndarray) -> None:
        """Account for what was taken in a pool, and forget these channels."""
        used = entered.used
        rows = self._rest[pool[used]]
        inverse = _invert_root(rows[:, pool[used]])
        factor, pulled = rows.T @ inverse, entered.pulled[:, used] @ inverse
        both = self._rest @ pulled - 0.5 * factor @ (factor.T @ pulled)
        curved = self._curved - 2 * np.einsum("ij,ij->i", factor, both)
        left = np.delete(np.arange(len(curved)), taken)
        inner = np.ix_(left, left)
        self._rest, self._metric = self._rest[inner], self._metric[inner]
        self._rest -= factor[left] @ factor[left].T
        self._curved, self._floor = curved[left], self._floor[left]


def _invert_root(inner: np.ndarray) -> np.ndarray:
    """Return `R` with `R R^T` the inverse; channels that rounding made dependent share one."""
    try:
        return np.asarray(np.linalg.inv(np.linalg.cholesky(inner)).T)
    except np.linalg.LinAlgError:
        return invert_root(inner)


@dataclass
class _Pool:
    """A few channels of one view: S and S M S among them, M S for all; `used` were taken."""

    rest: np.ndarray
    curved: np.ndarray
    floor: np.ndarray
    pulled: np.ndarray
    used: list[int] = field(default_factory=list)

    def gains(self) -> np.ndarray:
        return _gains(np.diag(self.rest), np.diag(self.curved), self.floor)

    def take(self, pivot: int) -> float:
        """Take a channel; return by how much the error becomes less."""
        if self.rest[pivot, pivot] <= self.floor[pivot]:
            return 0.0
        self.used.append(pivot)
        u, v = np.stack([self.rest[pivot], self.curved[pivot]]) / np.sqrt(self.rest[pivot, pivot])
        energy = float(v[pivot] / u[pivot])
        cross = np.outer(u, v - 0.5 * energy * u)
        self.curved -= cross + cross.T
        self.rest -= np.outer(u, u)
        return energy


def _gains(rest: np.ndarray, curved: np.ndarray, floor: np.ndarray) -> np.ndarray:
    usable = rest > floor
    return np.where(usable, curved / np.where(usable, rest, 1), 0.0)
