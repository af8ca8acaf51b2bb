"""At sampled places: what a layer multiplies with, what it gives, and what it should give."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from keras import ops

from edgeprune.recovery.batches import Values
from edgeprune.scoring.consumer_kinds import channels_last, kernel_matrix, take_patches
from edgeprune.scoring.consumers import Consumer
from edgeprune.scoring.destinations import Destination

LEAST_SCALE = np.float32(1e-6)

Sample = tuple[np.ndarray, np.ndarray, np.ndarray]


def match(
    consumer: Consumer,
    layer: Any,
    normalization: Any | None,
    kept: np.ndarray,
    before: tuple[Any, Values],
    after: tuple[Any, Values],
    places: np.ndarray,
) -> Sample:
    """Return what the pruned consumer multiplies with, and what lands: there, and in the original.

    Args:
        consumer: of the original.
        layer: the same layer of the pruned model.
        normalization: the BatchNormalization behind it in the pruned model, if there is one.
        kept: `(kept outputs,)` which of the original's outputs stay.
        before: the original's input of the layer, and its other tensors.
        after: those of the pruned model.
        places: `(n,)` output positions.

    Returns:
        `(n, taps, channels)` and twice `(n, kept outputs)`.
    """
    destination = consumer.destination
    patches = home(take_patches(layer, after[0], places))
    found = multiply(layer, normalization, patches)
    seen = home(take_patches(consumer.layer, before[0], places))
    own = destination.normalization
    wanted = multiply(consumer.layer, None if own is None else own.operation, seen)
    for other in destination.added if knows(destination, before[1], after[1]) else ():
        if after[1][other] is not None:  # else its branch is gone
            found += _rows(channels_last(layer, after[1][other]), places)
        wanted += _rows(channels_last(layer, before[1][other]), places)
    return patches, found, wanted[:, kept]


def join(samples: Sequence[Sample]) -> Sample:
    """Put samples of several batches together."""
    patches, found, wanted = (np.concatenate(part) for part in zip(*samples, strict=True))
    return patches, found, wanted


def knows(destination: Destination, before: Values, after: Values) -> bool:
    """Whether everything that is added to a layer's output was computed already."""
    return all(number in before and number in after for number in destination.added)


def multiply(layer: Any, normalization: Any | None, patches: np.ndarray) -> np.ndarray:
    """Return what a consumer makes of patches, normalised if it is, `(n, outputs)`."""
    kernel = kernel_matrix(layer).astype(np.float32)
    blocks = patches.shape[-1] // kernel.shape[1]
    parts = [
        x.reshape(len(x), -1) @ w.reshape(-1, w.shape[-1])
        for x, w in zip(
            np.split(patches, blocks, axis=-1), np.split(kernel, blocks, axis=-1), strict=True
        )
    ]
    bias = home(layer.bias) if layer.use_bias else np.float32(0)
    scale, shift = scale_and_shift(normalization, kernel.shape[-1])
    return np.asarray((np.concatenate(parts, axis=-1) + bias) * scale + shift)


def scale_and_shift(layer: Any | None, outputs: int) -> tuple[np.ndarray, np.ndarray]:
    """Return what a BatchNormalization does to its channels; nothing if there is none."""
    if layer is None:
        return np.ones(outputs, np.float32), np.zeros(outputs, np.float32)
    mean, variance = home(layer.moving_mean), home(layer.moving_variance)
    gamma = np.ones_like(mean) if layer.gamma is None else home(layer.gamma)
    beta = np.zeros_like(mean) if layer.beta is None else home(layer.beta)
    scale = gamma / np.sqrt(variance + layer.epsilon)
    shift = beta - mean * scale
    return np.where(np.abs(scale) < LEAST_SCALE, LEAST_SCALE, scale), shift


def home(x: Any) -> np.ndarray:
    """Return a backend tensor as float32."""
    return np.asarray(ops.convert_to_numpy(x), dtype=np.float32)


def _rows(x: Any, places: np.ndarray) -> np.ndarray:
    """Return the channels of a map at some positions, counted over samples, rows and columns."""
    return home(ops.take(ops.reshape(x, (-1, x.shape[-1])), places, axis=0))
