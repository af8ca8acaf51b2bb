"""Steps for volumes `(batch, depth, height, width, channels)`."""

from __future__ import annotations

from typing import Any

import keras
from keras import layers

from grammar.growing import Grower, divisors


def convolve(grower: Grower, x: Any) -> Any:
    groups = grower.choice(divisors(x.shape[-1]))
    return grower.choice(
        [
            lambda: layers.Conv3D(groups * 2, 2, padding="same", groups=groups),
            lambda: layers.Conv3D(
                grower.number(2, 4), 3, padding="same", activation=grower.activation()
            ),
            lambda: layers.Conv3DTranspose(grower.number(2, 4), 2, padding="same"),
        ]
    )()(x)


def move_positions(grower: Grower, x: Any) -> Any:
    depth, height, width = x.shape[1:4]
    axes = [int(size > 1) for size in (depth, height, width)]
    pool = [1 + one for one in axes]
    return grower.choice(
        [
            lambda: layers.MaxPooling3D(pool),
            lambda: layers.AveragePooling3D(pool),
            lambda: layers.UpSampling3D((1, 1, 2)),
            lambda: layers.ZeroPadding3D(((0, 1), (0, 0), (0, 0))),
            lambda: layers.Cropping3D(tuple((0, one) for one in axes)),
        ]
    )()(x)


def recur(grower: Grower, x: Any) -> Any:
    return layers.ConvLSTM2D(grower.number(2, 4), 2, padding="same")(x)


def distribute(grower: Grower, x: Any) -> Any:
    filters = grower.number(2, 4)
    inner = layers.Conv2D(filters, 3, padding="same")
    if filters == 3:  # a model, without another draw: seeds still give the networks they gave
        inner = keras.Sequential([inner, layers.ReLU(), layers.BatchNormalization()])
    return layers.TimeDistributed(inner)(x)


def flatten_depth(grower: Grower, x: Any) -> Any:
    depth, height, width, channels = x.shape[1:]
    return layers.Reshape((depth * height, width, channels))(x)


STEPS = [
    convolve, convolve, convolve, move_positions, move_positions, move_positions, recur,
    distribute, flatten_depth,
]  # fmt: skip
