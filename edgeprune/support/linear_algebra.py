"""Symmetric systems of statistics, also where these are of lower rank than they should be.

Few samples, constant channels and channels that repeat each other make covariances singular;
rounding then makes them indefinite by a hair, and a Cholesky factorisation fails.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.linalg import LinAlgError, cho_factor, cho_solve

RANK = 1e-10
"""Eigenvalues below this share of the largest are rounding."""


class Definite:
    """A positive semi-definite matrix that systems are solved with.

    Example:
        >>> twice = np.ones((2, 2))  # one channel, seen twice
        >>> Definite(twice).solve(np.array([[2.0], [2.0]])).round(9).tolist()
        [[1.0], [1.0]]
    """

    def __init__(self, matrix: np.ndarray) -> None:
        """Factorise it: by Cholesky, or by its eigenvalues where it is singular.

        Args:
            matrix: `(n, n)`, symmetric. One that is not finite solves nothing: all
                solutions are zero.
        """
        matrix = np.asarray(matrix, np.float64)
        self._factor: Any = None
        self._roots = np.zeros((len(matrix), 0))
        if not np.isfinite(matrix).all():
            return
        diagonal = np.diag(matrix).copy()
        try:
            self._factor = cho_factor(matrix, lower=True, check_finite=False)
            least = np.square(np.diag(self._factor[0])) > RANK * diagonal
            if not least.all():
                raise LinAlgError
        except LinAlgError:
            self._factor, self._roots = None, invert_root(matrix)

    def solve(self, right: np.ndarray) -> np.ndarray:
        """Return the solution `(n, m)`, the smallest where there are many.

        Args:
            right: `(n, m)`.
        """
        if self._factor is not None:
            found = cho_solve(self._factor, np.asarray(right, np.float64), check_finite=False)
        else:
            found = self._roots @ (self._roots.T @ right)
        return np.where(np.isfinite(found), found, 0.0)


def invert_root(matrix: np.ndarray) -> np.ndarray:
    """Return `R` such that `R R^T` is the inverse of a matrix on the directions that it knows.

    Args:
        matrix: `(n, n)`, symmetric, positive semi-definite up to rounding.

    Returns:
        `(n, rank)`; of rank 0 if something is not finite.

    Example:
        >>> invert_root(np.diag([4.0, 0.0])).tolist()
        [[0.5], [0.0]]
    """
    if not np.isfinite(matrix).all():
        return np.zeros((len(matrix), 0))
    values, vectors = np.linalg.eigh(matrix)
    known = values > max(RANK * float(values.max(initial=0.0)), np.finfo(float).tiny)
    return np.asarray(vectors[:, known] / np.sqrt(values[known]))
