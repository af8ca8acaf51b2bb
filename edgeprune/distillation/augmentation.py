"""Augmented training samples, the same again for the same draw, so that answers can be kept."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from edgeprune.distillation.training_samples import Source
from edgeprune.distillation.training_settings import Augmentation
from edgeprune.recovery.image_copies import LEAST_AGREEMENT, move

SHIFT = 0.125


class Draw:
    """One augmentation of every sample of a source."""

    def __init__(self, source: Source, augmentation: Augmentation, seed: tuple[int, ...]) -> None:
        """Draw.

        Args:
            source: of the samples; images `(height, width, channels)` if anything is to change.
            augmentation: what may change.
            seed: of the draw.
        """
        self._source = source
        self._how = augmentation
        if not augmentation.changes:
            return
        generator = np.random.default_rng(seed)
        count = len(source)
        self._flipped = generator.random(count) < 0.5
        self._moved = generator.uniform(-1, 1, (count, 2))
        self._hole = generator.random((count, 2))
        self._partner = generator.permutation(count)
        self._share = generator.uniform(0, augmentation.mixup, count)

    def read(self, indices: np.ndarray) -> np.ndarray:
        """Return augmented samples `(m, ...)`."""
        if not self._how.changes:
            return self._source.read(indices)
        images = self._change(indices)
        if self._how.mixup:
            share = self._share[indices, None, None, None].astype(np.float32)
            images = (1 - share) * images + share * self._change(self._partner[indices])
        return images

    def mix(self, one_hot: np.ndarray, indices: np.ndarray) -> np.ndarray:
        """Return the labels of augmented samples.

        Args:
            one_hot: `(n, classes)` of all samples.
            indices: which ones are wanted.
        """
        if not self._how.mixup:
            return one_hot[indices]
        share = self._share[indices, None].astype(np.float32)
        return (1 - share) * one_hot[indices] + share * one_hot[self._partner[indices]]

    def _change(self, indices: np.ndarray) -> np.ndarray:
        images = self._source.read(indices)
        flips = self._flipped[indices] & self._how.horizontal_flip
        images = _move(images, flips, self._how.shift * self._moved[indices])
        if self._how.cutout:
            images = self._cut_out(images, self._hole[indices])
        return images

    def _cut_out(self, images: np.ndarray, places: np.ndarray) -> np.ndarray:
        height, width = images.shape[1:3]
        side = max(1, round(self._how.cutout * min(height, width)))
        rows = np.abs(np.arange(height) + 0.5 - places[:, :1] * height) <= side / 2
        columns = np.abs(np.arange(width) + 0.5 - places[:, 1:] * width) <= side / 2
        hole = (rows[:, :, None] & columns[:, None, :])[..., None]
        return np.where(hole, images.mean(axis=(1, 2), keepdims=True), images)


def _move(images: np.ndarray, flipped: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Mirror images and move them by shares `(n, 2)` of height and width."""
    return move(images, flipped, np.rint(shares * images.shape[1:3]).astype(np.int64))


def find_augmentation(
    answer: Callable[[np.ndarray], np.ndarray], inputs: np.ndarray
) -> Augmentation:
    """Return the changes that a model's answers survive: it knows what it is invariant to.

    Mirrored digits are other signs, mirrored animals are not; a mirrored or moved image is used
    where the answer stays the same for at least 80 % of the samples.

    Args:
        answer: `(n, ...)` inputs to `(n,)` class indices.
        inputs: samples; other than images are never changed.
    """
    if inputs.ndim != 4 or not len(inputs):
        return Augmentation()
    before = answer(inputs)
    nowhere = np.zeros((len(inputs), 2))
    corners = SHIFT * np.random.default_rng(0).choice([-1.0, 1.0], (len(inputs), 2))
    mirrored = _move(inputs, np.ones(len(inputs), bool), nowhere)
    moved = _move(inputs, np.zeros(len(inputs), bool), corners)
    return Augmentation(
        horizontal_flip=bool((answer(mirrored) == before).mean() >= LEAST_AGREEMENT),
        shift=SHIFT if (answer(moved) == before).mean() >= LEAST_AGREEMENT else 0.0,
    )
