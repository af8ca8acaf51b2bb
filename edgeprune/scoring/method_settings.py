"""What a method fixes beyond its names: how much is drawn, tried and repeated."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Settings:
    """Numbers that criteria and allocations work with.

    Attributes:
        rounds: how often widths and rankings are worked out, each from the other; criteria that do
            not look at widths need one.
        masks_per_channel: random masks drawn per channel of a group (`ensemble`, `best_mask`).
        off_probability: share of the channels that a random mask silences.
        mask_rounds: remove, recover, resample: the worst channels of each round stay silent in the
            next.
        mask_samples: calibration samples on which the loss of a mask is measured.
        generations: of the search for a blend, the first included; 0 does not search.
        population: blends per generation, the pure criteria not counted.
    """

    rounds: int = 1
    masks_per_channel: float = 3.0
    off_probability: float = 0.3
    mask_rounds: int = 2
    mask_samples: int = 64
    generations: int = 0
    population: int = 5


DEFAULT_SETTINGS = Settings()
