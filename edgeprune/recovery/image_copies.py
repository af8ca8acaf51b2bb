"""More calibration images from few: mirrored and shifted copies, whose targets the original gives.

A refit needs no labels, only what the original makes of its inputs, so any plausible image serves.
"""

from __future__ import annotations

import numpy as np

LEAST_SIZE = 8
IMAGE_CHANNELS = (1, 3, 4)
LARGEST_SHIFT = 1 / 8
LEAST_AGREEMENT = 0.8
"""Share of images that must be answered alike after a change for the change to be harmless."""


def is_image(inputs: np.ndarray) -> bool:
    """Whether samples are images `(n, height, width, channels)` large enough to be shifted."""
    if inputs.ndim != 4 or inputs.shape[-1] not in IMAGE_CHANNELS:
        return False
    return min(inputs.shape[1:3]) >= LEAST_SIZE


def augment(inputs: np.ndarray, times: int, *, seed: int = 0) -> np.ndarray:
    """Return images together with copies of them, every second copy mirrored left to right.

    Copies after the first are also shifted by up to an eighth of the size, each image by its own
    amount; what comes in at the border is reflected.

    Args:
        inputs: `(n, height, width, channels)`.
        times: how many images to return for each, itself included.
        seed: of the shifts.

    Returns:
        `(times * n, height, width, channels)`, the images themselves first.

    Example:
        >>> augment(np.arange(3.0 * 64).reshape(1, 8, 8, 3), 2)[1, 0, 0].tolist()
        [21.0, 22.0, 23.0]
    """
    generator = np.random.default_rng(seed)
    copies = [inputs]
    for number in range(1, times):
        copy = inputs if number == 1 else _shift(inputs, generator)
        copies.append(copy[:, :, ::-1] if number % 2 else copy)
    return np.concatenate(copies)


def _shift(inputs: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Move each image by its own random amount."""
    count, height, width = inputs.shape[:3]
    most = [max(1, int(size * LARGEST_SHIFT)) for size in (height, width)]
    steps = [limit - generator.integers(0, 2 * limit + 1, count) for limit in most]
    return move(inputs, np.zeros(count, bool), np.stack(steps, axis=1))


def move(images: np.ndarray, flipped: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """Return images mirrored and moved, the border reflected.

    Args:
        images: `(n, height, width, channels)`.
        flipped: `(n,)` which ones to mirror.
        steps: `(n, 2)` how many pixels down and right.
    """
    height, width = images.shape[1:3]
    rows = _reflect(np.arange(height) - steps[:, :1], height)
    columns = _reflect(np.arange(width) - steps[:, 1:], width)
    columns = np.where(flipped[:, None], width - 1 - columns, columns)
    return images[np.arange(len(images))[:, None, None], rows[:, :, None], columns[:, None, :]]


def _reflect(positions: np.ndarray, size: int) -> np.ndarray:
    """Map positions beyond the ends back inside."""
    period = max(2 * size - 2, 1)
    inside = np.abs(positions) % period
    return np.where(inside < size, inside, period - inside)
