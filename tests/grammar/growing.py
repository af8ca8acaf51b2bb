"""What all steps share: the pool, and how choices are drawn."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from hypothesis import strategies as st

Draw = Callable[[st.SearchStrategy], Any]
Step = Callable[["Grower", Any], Any]
ACTIVATIONS = st.sampled_from([None, "relu", "tanh", "sigmoid", "gelu", "hard_silu", "leaky_relu"])
MOST_ELEMENTS = 4000


def divisors(number: int) -> list[int]:
    return [d for d in range(1, number + 1) if number % d == 0]


class Grower:
    """Draws one network.

    Attributes:
        draw: draws from a hypothesis strategy.
        merge: whether tensors of equal shape may be merged (not where sizes are open).
        pool: tensors that may still be used.
        used: numbers of tensors that something takes.
    """

    def __init__(self, draw: Draw, merge: bool) -> None:
        self.draw = draw
        self.merge = merge
        self.pool: list[Any] = []
        self.used: set[int] = set()

    def number(self, low: int, high: int) -> int:
        return self.draw(st.integers(low, high))

    def choice(self, options: Any) -> Any:
        return self.draw(st.sampled_from(list(options)))

    def yes(self) -> bool:
        return self.draw(st.booleans())

    def activation(self) -> str | None:
        return self.draw(ACTIVATIONS)

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
