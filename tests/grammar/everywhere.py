"""Steps for tensors of any rank, channels last: dense layers, normalisation, `keras.ops`."""

from __future__ import annotations

from typing import Any

from keras import layers, ops

from edgeprune.tracing.keras_internals import LayerScale
from grammar.custom import Shuffle, Temperature
from grammar.growing import Grower, divisors


def densify(grower: Grower, x: Any) -> Any:
    return layers.Dense(grower.number(2, 6), activation=grower.activation())(x)


def einsum(grower: Grower, x: Any) -> Any:
    """A dense layer by equation.

    With `...` only where its axes are alike: Keras 3.15 states them in reverse order, and layers
    behind are then built for sizes that never come.
    """
    units = grower.number(2, 6)
    around = x.shape[1:-1]
    if len(set(around)) < 2:
        return layers.EinsumDense("...x,xy->...y", units, bias_axes="y")(x)
    axes = "zabc"[: len(around) + 1]
    return layers.EinsumDense(f"{axes}x,xy->{axes}y", (*around, units), bias_axes="y")(x)


def normalize(grower: Grower, x: Any) -> Any:
    channels = x.shape[-1]
    return grower.choice(
        [
            layers.BatchNormalization,
            lambda: layers.BatchNormalization(scale=False, center=grower.yes()),
            lambda: layers.BatchNormalization(trainable=False),
            layers.LayerNormalization,
            layers.RMSNormalization,
            lambda: layers.GroupNormalization(grower.choice([-1, *divisors(channels)])),
            lambda: layers.UnitNormalization(axis=grower.choice([-1, 1])),
            lambda: layers.Normalization(
                mean=grower.constants(channels), variance=grower.constants(channels)
            ),
            lambda: layers.Rescaling(grower.constants(channels).tolist()),
            lambda: LayerScale(0.5, channels),
        ]
    )()(x)


def activate(grower: Grower, x: Any) -> Any:
    shared = list(range(1, len(x.shape) - 1)) or None
    sized = None not in x.shape[1:]
    return grower.choice(
        [
            lambda: layers.ReLU(6.0),
            layers.LeakyReLU,
            layers.ELU,
            lambda: layers.PReLU(shared_axes=shared),
            lambda: layers.PReLU(shared_axes=None if sized else shared),
            lambda: layers.Activation("hard_sigmoid"),
            lambda: layers.Dropout(0.5),
            lambda: layers.GaussianNoise(0.1),
            lambda: layers.GaussianDropout(0.1),
            lambda: layers.AlphaDropout(0.1),
            lambda: softmax_positions,
        ]
    )()(x)


def softmax_positions(x: Any) -> Any:
    """Keras 3.15 refuses the mask of an Embedding there; an operation drops it."""
    return layers.Softmax(axis=1)(x * 1.0)


def scale(grower: Grower, x: Any) -> Any:
    channels = x.shape[-1]
    return grower.choice(
        [
            lambda: x * 2,
            lambda: 1.5 - x,
            lambda: x * grower.constants(channels),
            lambda: ops.maximum(x, 0.1),
            lambda: ops.clip(x, -1.0, 1.0),
            lambda: -ops.abs(x) / 2,
            lambda: ops.tanh(x) * x,
            lambda: layers.Lambda(lambda v: v * v)(x),
        ]
    )()


def lower_precision(grower: Grower, x: Any) -> Any:
    """A layer that computes in bfloat16, as in mixed precision, and one back in float32."""
    y = layers.Dense(grower.number(2, 5), dtype="mixed_bfloat16")(x)
    return layers.Dense(grower.number(2, 5), dtype="float32")(y)


def freeze(grower: Grower, x: Any) -> Any:
    return layers.Dense(grower.number(2, 5), trainable=False)(x)


def lock(grower: Grower, x: Any) -> Any:
    return Temperature()(x)


def split(grower: Grower, x: Any) -> list[Any]:
    """The last part may go unused."""
    channels = x.shape[-1]
    if channels < 2:
        return [x * 1.0]
    if grower.yes():
        parts = list(ops.split(x, grower.choice(divisors(channels)), axis=-1))[:3]
    else:
        parts = list(ops.split(x, [grower.number(1, channels - 1)], axis=-1))
    return parts[:1] if grower.yes() else parts


def slice_channels(grower: Grower, x: Any) -> Any:
    channels = x.shape[-1]
    start = grower.number(0, channels - 1)
    stop = grower.number(start + 1, channels)
    return grower.choice(
        [
            lambda: x[..., start:stop],
            lambda: x[..., start : start + 1],
            lambda: x[..., ::2],
            lambda: x[..., ::-1],
            lambda: ops.take(x, [start, channels - 1, 0], axis=-1),
            lambda: x[:, 1:] if x.shape[1] is None or x.shape[1] > 1 else x[:, :1],
        ]
    )()


def shuffle(grower: Grower, x: Any) -> Any:
    return Shuffle(grower.choice(divisors(x.shape[-1])))(x)


def concatenate_parts(grower: Grower, x: Any) -> Any:
    parts = split(grower, x)[::-1]
    parts = [ops.relu(parts[0]), *parts[1:]]
    return ops.concatenate(parts, axis=-1) if len(parts) > 1 else parts[0]


def concatenate_concatenated(grower: Grower, x: Any) -> Any:
    y = layers.Dense(grower.number(1, 4))(x)
    inner = layers.Concatenate()([x, y])
    return layers.Concatenate()([inner, layers.ReLU()(y), x] if grower.yes() else [y, inner])


def pad(grower: Grower, x: Any) -> Any:
    widths = [(0, 0)] * (len(x.shape) - 1) + [(grower.number(0, 2), grower.number(0, 2))]
    return ops.pad(x, widths)


def reshape(grower: Grower, x: Any) -> Any:
    """There and back through groups of channels."""
    if None in x.shape[1:]:
        return x - ops.mean(x, axis=1, keepdims=True)
    groups = grower.choice(divisors(x.shape[-1]))
    sizes = (*x.shape[1:-1], groups, x.shape[-1] // groups)
    y = ops.reshape(x, (-1, *sizes))
    y = ops.swapaxes(y, -1, -2) if grower.yes() else ops.flip(y, axis=-1)
    return ops.reshape(y, (-1, *x.shape[1:]))


def transpose(grower: Grower, x: Any) -> Any:
    """Channels away from the last axis and back, with something done to them there."""
    rank = len(x.shape)
    if rank == 2 or None in x.shape[1:]:
        return ops.mean(ops.stack([x, ops.tanh(x)], axis=-1), axis=-1)
    moved = [0, rank - 1, *range(1, rank - 1)]
    back = [moved.index(axis) for axis in range(rank)]
    if grower.yes():
        y = layers.Permute(moved[1:])(x)
        y = layers.BatchNormalization(axis=1)(y)
        return layers.Permute(back[1:])(y)
    return ops.transpose(ops.relu(ops.transpose(x, moved)), back)


def stack(grower: Grower, x: Any) -> Any:
    return ops.mean(ops.stack([x, ops.sigmoid(x)], axis=1), axis=1)


def mix(grower: Grower, x: Any) -> Any:
    return grower.choice(
        [
            lambda: x - ops.mean(x, axis=-1, keepdims=True),
            lambda: ops.softmax(x, axis=-1),
            lambda: ops.cumsum(x, axis=-1),
            lambda: x * ops.max(x, axis=-1, keepdims=True),
        ]
    )()


STEPS = [
    densify, einsum, normalize, normalize, activate, activate, scale, lower_precision, freeze,
    lock, split, slice_channels, shuffle, concatenate_parts, concatenate_concatenated, pad,
    reshape, transpose, stack, mix,
]  # fmt: skip
