"""Networks of a few thousand weights, with BatchNorm away from its initial identity."""

from __future__ import annotations

import contextlib

import keras
import numpy as np
from keras import layers


def randomize(model: keras.Model) -> keras.Model:
    generator = np.random.default_rng(3)
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.set_weights(
                [generator.uniform(0.5, 1.5, weight.shape) for weight in layer.get_weights()]
            )
    return model


def classifier() -> keras.Model:
    keras.utils.set_random_seed(1)
    image = keras.Input((8, 8, 3), name="image")
    x = layers.Conv2D(16, 3, padding="same")(image)
    x = layers.BatchNormalization()(x)
    x = layers.ReLU()(x)
    x = layers.Conv2D(16, 3, strides=2, activation="relu")(x)
    x = layers.Flatten()(x)
    outputs = layers.Dense(3, activation="softmax", name="classes")(x)
    return randomize(keras.Model(image, outputs, name="small"))


def sequential() -> keras.Model:
    return keras.Sequential(
        [keras.Input((8, 8, 3)), layers.Conv2D(4, 3), layers.Flatten(), layers.Dense(3)]
    )


def two_inputs() -> keras.Model:
    """Inputs and outputs whose order is not the alphabetical one."""
    right, left = keras.Input((8, 8, 1), name="right"), keras.Input((8, 8, 3), name="left")
    x = layers.Flatten()(layers.Conv2D(4, 3)(layers.Concatenate()([right, left])))
    outputs = [layers.Dense(3, name="zebra")(x), layers.Dense(2, name="ape")(x)]
    return keras.Model([right, left], outputs)


def dictionaries() -> keras.Model:
    model = two_inputs()
    inputs = {tensor.name: tensor for tensor in model.inputs}
    return keras.Model(inputs, {"zebra": model.outputs[0], "ape": model.outputs[1]})


def samples(count: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(5).normal(size=(count, *(shape or (8, 8, 3)))).astype(np.float32)


class Recorder:
    """A progress that remembers its stages: [name, total, steps]."""

    def __init__(self) -> None:
        self.stages: list[list] = []

    @contextlib.contextmanager
    def stage(self, name, total=None):
        entry = [name, total, 0]
        self.stages.append(entry)

        def advance() -> None:
            entry[2] += 1

        yield advance
