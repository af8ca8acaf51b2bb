"""Small versions of what people bring: each is followed, and as much is removable as should be."""

from __future__ import annotations

import keras
import networks
import numpy as np
import pytest
from keras import layers, ops

from edgeprune.cost.cost_model import CostModel


def convolve(x, filters, size=3, strides=1):
    x = layers.Conv2D(filters, size, strides=strides, padding="same", use_bias=False)(x)
    return layers.ReLU()(layers.BatchNormalization()(x))


def build_unet() -> keras.Model:
    x = inputs = keras.Input((16, 16, 3))
    skips = []
    for filters in (6, 8):
        x = convolve(convolve(x, filters), filters)
        skips.append(x)
        x = layers.MaxPooling2D()(x)
    x = convolve(x, 10)
    for filters in (8, 6):
        x = layers.Conv2DTranspose(filters, 2, strides=2)(x)
        x = layers.Concatenate()([x, skips.pop()])
        x = convolve(x, filters)
    return keras.Model(inputs, layers.Conv2D(2, 1, name="mask")(x))


def build_shufflenet() -> keras.Model:
    inputs = keras.Input((8, 8, 3))
    x = convolve(inputs, 8)
    for _ in range(2):
        kept, worked = ops.split(x, 2, axis=-1)
        worked = convolve(worked, 4, 1)
        worked = layers.DepthwiseConv2D(3, padding="same", use_bias=False)(worked)
        worked = convolve(layers.BatchNormalization()(worked), 4, 1)
        x = ops.concatenate([kept, worked], axis=-1)
        x = ops.reshape(x, (-1, 8, 8, 2, 4))
        x = ops.reshape(ops.transpose(x, (0, 1, 2, 4, 3)), (-1, 8, 8, 8))
    x = layers.GlobalAveragePooling2D()(convolve(x, 12, 1))
    return keras.Model(inputs, layers.Dense(3, name="head")(x))


def build_resnext() -> keras.Model:
    inputs = keras.Input((8, 8, 3))
    x = convolve(inputs, 8)
    y = convolve(x, 12, 1)
    y = layers.BatchNormalization()(layers.Conv2D(12, 3, groups=3, padding="same")(y))
    x = layers.Add()([x, convolve(y, 8, 1)])
    return keras.Model(inputs, layers.Dense(3)(layers.GlobalAveragePooling2D()(x)))


def build_detector() -> keras.Model:
    """One head over two levels of a pyramid, as in RetinaNet; boxes and classes."""
    inputs = keras.Input((None, None, 3))
    fine = convolve(inputs, 6, strides=2)
    coarse = convolve(fine, 8, strides=2)
    top = layers.Conv2D(7, 1)(coarse)
    levels = [layers.Conv2D(7, 1)(fine) + layers.UpSampling2D()(top), top]
    tower = keras.Sequential(
        [keras.Input((None, None, 7)), layers.Conv2D(7, 3, padding="same", activation="relu")]
    )
    boxes, classes = (
        layers.Conv2D(2 * 4, 3, padding="same"),
        layers.Conv2D(2 * 5, 3, padding="same"),
    )
    found = [
        layers.Concatenate(axis=1)([layers.Reshape((-1, size))(head(tower(x))) for x in levels])
        for head, size in ((boxes, 4), (classes, 5))
    ]
    return keras.Model(inputs, {"boxes": found[0], "classes": layers.Softmax()(found[1])})


@keras.saving.register_keras_serializable("test_designs")
class Positions(keras.layers.Layer):
    """Adds a learned vector to every patch."""

    def build(self, shape):
        self.table = self.add_weight(shape=shape[1:], name="table")

    def call(self, x):
        return x + self.table


def build_transformer() -> keras.Model:
    inputs = keras.Input((16, 16, 3))
    x = layers.Conv2D(8, 4, strides=4, name="patches")(inputs)
    x = Positions()(layers.Reshape((16, 8))(x))
    for _ in range(2):
        y = layers.LayerNormalization()(x)
        x = layers.Add()([x, layers.MultiHeadAttention(4, 3)(y, y)])
        y = layers.LayerNormalization()(x)
        x = layers.Add()([x, layers.Dense(8)(layers.Dense(16, activation="gelu")(y))])
    return keras.Model(inputs, layers.Dense(3)(layers.GlobalAveragePooling1D()(x)))


def build_mixer() -> keras.Model:
    inputs = keras.Input((16, 16, 3))
    x = layers.Reshape((16, 8))(layers.Conv2D(8, 4, strides=4, name="patches")(inputs))
    y = layers.Permute((2, 1))(layers.BatchNormalization()(x))
    y = layers.Dense(16)(layers.Dense(12, activation="relu")(y))
    x = layers.Add()([x, layers.Permute((2, 1))(y)])
    x = layers.Add()([x, layers.Dense(8)(layers.Dense(16, activation="relu")(x))])
    return keras.Model(inputs, layers.Dense(3)(layers.GlobalAveragePooling1D()(x)))


def build_speech_model() -> keras.Model:
    inputs = keras.Input((20, 10))
    x = layers.Conv1D(8, 3, activation="relu")(inputs)
    x = layers.Bidirectional(layers.GRU(6, return_sequences=True))(x)
    x = layers.TimeDistributed(layers.Dense(5, activation="relu"))(x)
    return keras.Model(inputs, layers.Dense(4)(layers.LSTM(6)(x)))


def build_padded_resnet() -> keras.Model:
    """Shortcuts that pad with channels of zeros, as in ResNets for CIFAR-10."""
    inputs = keras.Input((8, 8, 3))
    x = convolve(inputs, 6)
    y = convolve(convolve(x, 10, strides=2), 10)
    shortcut = ops.pad(x[:, ::2, ::2], ((0, 0), (0, 0), (0, 0), (2, 2)))
    x = layers.Add()([y, shortcut])
    return keras.Model(inputs, layers.Dense(3)(layers.GlobalAveragePooling2D()(x)))


FLOORS = {
    build_unet: 0.1,
    build_shufflenet: 0.35,
    build_resnext: 0.35,
    build_detector: 0.5,
    build_transformer: 0.5,
    build_mixer: 0.45,
    build_speech_model: 0.25,
    build_padded_resnet: 0.1,
}


@pytest.mark.parametrize("build", FLOORS)
def test_a_design_is_followed_and_shrinks(build) -> None:
    model = build()
    groups = networks.assert_exact(model, size=16)
    costs = CostModel(groups)
    if None in model.inputs[0].shape[1:]:
        return
    floor = costs.count({group.name: 1 for group in groups.removable})
    assert floor.params < FLOORS[build] * costs.full.params
    assert np.isfinite(floor.macs)
