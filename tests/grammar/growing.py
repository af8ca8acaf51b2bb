"""What all steps share: the pool, and how choices are drawn."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

import numpy as np

Step = Callable[["Grower", Any], Any]
ACTIVATIONS = [None, "relu", "tanh", "sigmoid", "gelu", "hard_silu", "leaky_relu"]
MOST_ELEMENTS = 4000


def divisors(number: int) -> list[int]:
    return [d for d in range(1, number + 1) if number % d == 0]


class Grower:
    """Draws one network.

    Attributes:
        random: what chooses, evenly.
        merge: whether tensors of equal shape may be merged (not where sizes are open).
        pool: tensors that may still be used.
        used: numbers of tensors that something takes.
    """

    def __init__(self, random: Random, merge: bool) -> None:
        self.random = random
        self.merge = merge
        self.pool: list[Any] = []
        self.used: set[int] = set()

    def number(self, low: int, high: int) -> int:
        return self.random.randint(low, high)

    def choice(self, options: Any) -> Any:
        return self.random.choice(list(options))

    def yes(self) -> bool:
        return self.random.random() < 0.5

    def activation(self) -> str | None:
        return self.choice(ACTIVATIONS)

    def constants(self, *shape: int) -> np.ndarray:
        seed = self.number(0, 3)
        return np.random.default_rng(seed).uniform(0.5, 1.5, shape).astype(np.float32)

    def add(self, made: Any) -> None:
        """Put tensors of usable size into the pool; their channels are counted."""
        for one in made if isinstance(made, list) else [made]:
            if one.shape[-1] is None:
                continue
            if None in one.shape[1:] or 0 < np.prod(one.shape[1:]) <= MOST_ELEMENTS:
                self.pool.append(one)

    def partners(self, number: int) -> list[int]:
        """Return the tensors that a tensor may be merged with."""
        shape = self.pool[number].shape
        return [
            index
            for index, other in enumerate(self.pool)
            if self.merge and index != number and other.shape == shape
        ]
