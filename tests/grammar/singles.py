"""One layer or operation a step, for the types that the other steps draw too seldom."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from keras import layers, ops

from edgeprune.tracing.keras_internals import LayerScale
from grammar import sequences
from grammar.everywhere import softmax_positions
from grammar.growing import Grower, Step


def apply(make: Callable[[], Any]) -> Step:
    """Return the step that calls a new layer."""
    return lambda grower, x: make()(x)


def take_reversed(grower: Grower, x: Any) -> Any:
    return ops.take(x, list(range(x.shape[-1]))[::-1], axis=-1)


def transpose_twice(grower: Grower, x: Any) -> Any:
    """Channels to the front, something done to them there, and back."""
    rank = len(x.shape)
    moved = [0, rank - 1, *range(1, rank - 1)]
    y = ops.relu(ops.transpose(x, moved))
    return ops.transpose(y, [moved.index(axis) for axis in range(rank)])


def fit(grower: Grower, x: Any, least: int, make: Callable[[], Any]) -> Any:
    """Call a layer that needs so many positions along each axis; a ReLU where there are fewer."""
    sizes = x.shape[1:-1]
    return make()(x) if None not in sizes and min(sizes) >= least else layers.ReLU()(x)


def normalize_by_constants(grower: Grower, x: Any) -> Any:
    mean, variance = grower.constants(x.shape[-1]), grower.constants(x.shape[-1])
    return layers.Normalization(mean=mean, variance=variance)(x)


def dense_on_stack(grower: Grower, x: Any) -> Any:
    return ops.mean(ops.stack([x, layers.Dense(x.shape[-1])(x)], axis=-1), axis=-1)


ANY = [
    normalize_by_constants,
    take_reversed,
    transpose_twice,
    dense_on_stack,
    lambda grower, x: layers.Rescaling(grower.constants(x.shape[-1]).tolist())(x),
    lambda grower, x: LayerScale(0.5, x.shape[-1])(x),
    lambda grower, x: layers.GroupNormalization(-1)(x),
    lambda grower, x: layers.Lambda(lambda value: value * value)(x),
    lambda grower, x: ops.flip(x, axis=-1),
    lambda grower, x: ops.cumsum(x, axis=-1),
    lambda grower, x: ops.pad(x, [(0, 0)] * (len(x.shape) - 1) + [(1, 1)]),
    lambda grower, x: ops.split(x, [1], axis=-1)[0],
    lambda grower, x: ops.where(x > 0, x, ops.tanh(x)),
    lambda grower, x: layers.PReLU(shared_axes=list(range(1, len(x.shape) - 1)) or None)(x),
    apply(layers.LayerNormalization),
    apply(layers.RMSNormalization),
    apply(layers.UnitNormalization),
    apply(lambda: layers.Dropout(0.5)),
    apply(lambda: layers.GaussianNoise(0.1)),
    apply(lambda: layers.GaussianDropout(0.1)),
    apply(lambda: layers.AlphaDropout(0.1)),
    lambda grower, x: softmax_positions(x),
]
SEQUENCES = [
    sequences.recur,
    sequences.recur,
    sequences.attend,
    sequences.attend_in_groups,
    sequences.attend_simply,
    lambda grower, x: fit(grower, x, 3, lambda: layers.Cropping1D(1)),
    lambda grower, x: fit(grower, x, 2, lambda: layers.MaxPooling1D(2)),
    lambda grower, x: fit(grower, x, 2, lambda: layers.AveragePooling1D(2)),
    lambda grower, x: layers.Conv1DTranspose(grower.number(2, 4), 3, padding="same")(x),
    lambda grower, x: layers.SeparableConv1D(grower.number(2, 4), 3, padding="same")(x),
    lambda grower, x: ops.swapaxes(ops.relu(ops.swapaxes(x, 1, 2)), 1, 2),
    apply(lambda: layers.UpSampling1D(2)),
    apply(lambda: layers.ZeroPadding1D(1)),
    apply(lambda: layers.SpatialDropout1D(0.5)),
    apply(lambda: layers.DepthwiseConv1D(3, padding="same")),
]
MAPS = [
    lambda grower, x: fit(grower, x, 3, lambda: layers.CenterCrop(2, 3)),
    lambda grower, x: fit(grower, x, 2, lambda: layers.AdaptiveAveragePooling2D(2)),
    lambda grower, x: fit(grower, x, 2, lambda: layers.AdaptiveMaxPooling2D(2)),
    lambda grower, x: fit(grower, x, 2, lambda: layers.MaxPooling2D(2)),
    lambda grower, x: fit(grower, x, 2, lambda: layers.Cropping2D(((1, 0), (0, 1)))),
    lambda grower, x: fit(grower, x, 1, lambda: layers.ConvLSTM1D(3, 2, padding="same")),
    apply(lambda: layers.Resizing(3, 3)),
    apply(lambda: layers.UpSampling2D(2)),
    apply(lambda: layers.ZeroPadding2D(1)),
    apply(lambda: layers.SpatialDropout2D(0.5)),
    apply(lambda: layers.AveragePooling2D(2, strides=1, padding="same")),
]
VOLUMES = [
    apply(lambda: layers.UpSampling3D((1, 1, 2))),
    apply(lambda: layers.Conv3DTranspose(3, 2, padding="same")),
    apply(lambda: layers.MaxPooling3D(2, padding="same")),
    apply(lambda: layers.AveragePooling3D(2, padding="same")),
    apply(lambda: layers.ZeroPadding3D(((0, 1), (0, 0), (0, 0)))),
    apply(lambda: layers.ConvLSTM2D(3, 2, padding="same")),
    lambda grower, x: fit(grower, x, 2, lambda: layers.Cropping3D(((0, 1), (0, 0), (1, 0)))),
]
OF_RANK = {2: ANY, 3: SEQUENCES, 4: MAPS, 5: VOLUMES}
