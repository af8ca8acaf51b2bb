"""More calibration images from few: mirrored and shifted copies, whose targets the original gives.

A refit needs no labels, only what the original makes of its inputs, so any plausible image serves.
"""

from __future__ import annotations

import numpy as np

LEAST_SIZE = 8
IMAGE_CHANNELS = (1, 3, 4)
LARGEST_SHIFT = 1 / 8


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
    margins = ((0, 0), (most[0], most[0]), (most[1], most[1]), (0, 0))
    padded = np.pad(inputs, margins, mode="reflect")
    rows, columns = (
        generator.integers(0, 2 * limit + 1, (count, 1)) + np.arange(size)
        for limit, size in zip(most, (height, width), strict=True)
    )
    each = np.arange(count)[:, None, None]
    return np.asarray(padded[each, rows[:, :, None], columns[:, None, :]])
