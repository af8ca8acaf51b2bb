"""Least squares for the kernel of one consumer, with what a ReLU sets to zero left free."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from edgeprune.support.linear_algebra import Definite

ROUNDS = 4
TINY = float(np.finfo(np.float32).tiny)

Solver = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Equations:
    """At n sampled places, `found + (patches @ kernel + constant) * scale = wanted` should hold.

    Attributes:
        patches: `(n, size)` float32.
        found: `(n, outputs)` what there is.
        wanted: `(n, outputs)` what there should be.
        scale: `(outputs,)`, not zero.
    """

    patches: np.ndarray
    found: np.ndarray
    wanted: np.ndarray
    scale: np.ndarray

    def solve(self, *, ridge: float, rectified: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """Return the kernel `(size, outputs)` and the constant `(outputs,)` that fit best.

        The larger of n and size never appears squared: with more unknowns than places the same
        problem is solved for one weight per place.

        Args:
            ridge: penalty on the kernel, as a fraction of the mean square of the patches.
            rectified: where `wanted` is not positive, anything not positive is as good.

        Returns:
            Kernel and constant; zeros if something is not finite.
        """
        count, size = self.patches.shape
        solution = np.zeros((size + 1, len(self.scale)), np.float32)
        if not all(np.isfinite(x).all() for x in (self.patches, self.found, self.wanted)):
            return solution[:-1], solution[-1]
        squares = float(np.einsum("ij,ij->", self.patches, self.patches, dtype=np.float64))
        penalty = max(ridge * squares / size, TINY)
        find = self._by_unknowns(penalty) if size <= count else self._by_places(penalty)
        for _ in range(ROUNDS if rectified else 1):
            goal = self.wanted
            if rectified:
                now = self.found + self._apply(solution)
                goal = np.where(self.wanted > 0, self.wanted, np.minimum(now, 0))
            solution = find((goal - self.found) / self.scale).astype(np.float32)
        return solution[:-1], solution[-1]

    def _by_unknowns(self, penalty: float) -> Solver:
        """Return a solver by the normal matrix of the unknowns, `(size + 1, size + 1)`."""
        count, size = self.patches.shape
        normal = np.empty((size + 1, size + 1))
        normal[:size, :size] = self.patches.T @ self.patches
        normal[:size, size] = normal[size, :size] = self.patches.sum(axis=0, dtype=np.float64)
        normal[size, size] = count
        normal[np.arange(size), np.arange(size)] += penalty
        matrix = Definite(normal)

        def solve(rest: np.ndarray) -> np.ndarray:
            right = np.vstack([self.patches.T @ rest, rest.sum(axis=0)])
            return matrix.solve(right)

        return solve

    def _by_places(self, penalty: float) -> Solver:
        """Return a solver by the products of the places with each other, `(n, n)`."""
        mean = self.patches.mean(axis=0, dtype=np.float64).astype(np.float32)
        centred = self.patches - mean
        products = (centred @ centred.T).astype(np.float64)
        products[np.arange(len(products)), np.arange(len(products))] += penalty
        matrix = Definite(products)

        def solve(rest: np.ndarray) -> np.ndarray:
            middle = rest.mean(axis=0, dtype=np.float64)
            weights = matrix.solve(rest - middle)
            kernel = centred.T @ weights.astype(np.float32)
            return np.vstack([kernel, middle - mean @ kernel])

        return solve

    def _apply(self, solution: np.ndarray) -> np.ndarray:
        return np.asarray((self.patches @ solution[:-1] + solution[-1]) * self.scale)
