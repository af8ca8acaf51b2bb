"""Channels of unlike ranges: integers follow again, and floats stay the same to the last bit."""

from __future__ import annotations

import keras
import networks
import numpy as np
import pytest
from keras import layers, ops

from edgeprune.tflite import convert, convert_in_detail
from edgeprune.tflite.equalization import equalize
from edgeprune.tflite.flatbuffer_edits import pack
from edgeprune.tflite.runtime import TFLiteModel


def spread(model: keras.Model, seed: int = 0) -> keras.Model:
    """Give the channels that every layer writes sizes from a thousandth to ten."""
    generator = np.random.default_rng(seed)
    for layer in networks.randomize(model)._flatten_layers(include_self=False):
        if hasattr(layer, "kernel"):
            factors = 10 ** generator.uniform(-3, 1, layer.kernel.shape[-1])
            layer.kernel.assign(layer.kernel * factors)
    return model


def siamese() -> keras.Model:
    image = keras.Input((12, 12, 1))
    x = layers.Conv2D(8, 3, activation="relu")(image)
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(16, 3, activation="relu")(x))
    tower = keras.Model(image, layers.Dense(24, name="features")(x))
    first, second = keras.Input((12, 12, 1), name="a"), keras.Input((12, 12, 1), name="b")
    norm = layers.BatchNormalization(name="norm")
    x = layers.Dense(16, activation="relu")(norm(tower(first) - tower(second)))
    model = networks.randomize(keras.Model([first, second], layers.Dense(1)(x)))
    factors = 10 ** np.random.default_rng(3).uniform(-3, 1, 24)
    features = tower.get_layer("features")
    features.set_weights([weight * factors for weight in features.get_weights()])
    gamma, beta, mean, variance = norm.get_weights()
    norm.set_weights([gamma, beta, mean * factors, variance * np.square(factors / 5)])
    return model


def pairs(count: int) -> list[np.ndarray]:
    generator = np.random.default_rng(1)
    return [generator.normal(size=(count, 12, 12, 1)).astype("float32") for _ in range(2)]


def test_integers_follow_a_difference_that_a_batch_normalization_weighs(monkeypatch) -> None:
    samples = pairs(40)
    found = convert_in_detail(siamese(), calibration=samples)
    monkeypatch.setattr("edgeprune.tflite.post_training.POOR", np.inf)
    alone = convert_in_detail(siamese(), calibration=samples)
    assert found.error < 0.15 < 0.3 < alone.error


def traps() -> keras.Model:
    """Factors end at bent activations, at channels that change places, and at the outputs."""
    image = keras.Input((6, 6, 3))
    x = layers.Conv2D(6, 1)(image)
    outputs = [
        layers.Conv2D(6, 1)(ops.relu6(layers.Conv2D(6, 1)(x))),
        layers.Conv2D(6, 1)(layers.Conv2D(6, 1)(x)[..., ::-1]),
        layers.Dense(4)(layers.Flatten()(layers.Conv2D(6, 3, activation="relu")(x))),
        layers.Dense(4)(ops.mean(layers.Conv2D(6, 1)(x), axis=-1)),
        layers.Dense(4)(ops.transpose(layers.Conv2D(6, 1)(x), (0, 3, 1, 2))),
        layers.Conv2D(4, 1)(ops.softmax(layers.Conv2D(6, 1)(x) + 0.5)),
        layers.Conv2D(4, 1)(layers.Conv2D(6, 1)(x) * layers.Conv2D(1, 1)(x)),
        layers.Conv2D(4, 1)(ops.concatenate([layers.Conv2D(2, 1)(x), layers.Conv2D(3, 1)(x)], -1)),
        layers.DepthwiseConv2D(3, depth_multiplier=2)(layers.Conv2D(6, 1)(x)),
        x,
    ]
    return keras.Model(image, outputs)


@pytest.mark.parametrize(
    ("make", "changes"),
    [
        (siamese, True),
        (networks.build_residual_network, True),
        (networks.build_mobile_network, False),
        (networks.build_nested_network, True),
        (traps, False),
    ],
)
def test_floats_stay_the_same_to_the_last_bit(make, changes: bool) -> None:
    model = spread(make()) if make is not siamese else make()
    content = convert(model, scheme="float32")
    inputs = networks.random_inputs(model, samples=6)
    equal = equalize(content, ([x[i : i + 1] for x in inputs] for i in range(6)))
    assert (equal is not None) == changes
    if equal is None:
        return
    samples = inputs if len(inputs) > 1 else inputs[0]
    before, after = (TFLiteModel(it).predict(samples) for it in (content, pack(equal)))
    assert pack(equal) != content
    for one, other in zip(*map(keras.tree.flatten, (before, after)), strict=True):
        np.testing.assert_array_equal(one, other)
