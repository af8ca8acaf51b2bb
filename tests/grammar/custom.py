"""Layers and models as users write them."""

from __future__ import annotations

import keras
from keras import layers, ops


class Residual(keras.layers.Layer):
    """A custom layer made of layers."""

    def __init__(self, filters, **kwargs):
        super().__init__(**kwargs)
        self.inner = layers.Conv2D(filters, 3, padding="same")
        self.norm = layers.BatchNormalization()

    def call(self, x):
        return x + ops.relu(self.norm(self.inner(x)))


class Shuffle(keras.layers.Layer):
    """A custom layer without weights and without a rule."""

    def __init__(self, groups, **kwargs):
        super().__init__(**kwargs)
        self.groups = groups

    def call(self, x):
        channels = x.shape[-1]
        front = ops.shape(x)[:-1]
        x = ops.reshape(x, (*front, self.groups, channels // self.groups))
        return ops.reshape(ops.swapaxes(x, -1, -2), (*front, channels))

    def compute_output_spec(self, x):
        """Keras 3.15 takes `x * 1.0` for sparse and cannot infer what follows."""
        return keras.KerasTensor(x.shape, x.dtype)


class Temperature(keras.layers.Layer):
    """A custom layer with a weight per channel and without a rule: its channels are locked."""

    def build(self, shape):
        self.factor = self.add_weight(shape=(shape[-1],), initializer="ones", name="factor")

    def call(self, x):
        return x * self.factor


class Subclassed(keras.Model):
    """A model without a functional graph of its own, around one that has one."""

    def __init__(self, inner):
        super().__init__(name="subclassed")
        self.inner = inner
        self.hidden = layers.Dense(4, activation="relu", name="hidden")
        self.last = layers.Dense(2, name="last")

    def call(self, x):
        given = keras.tree.pack_sequence_as(self.inner.input, keras.tree.flatten(x))
        first, *rest = keras.tree.flatten(self.inner(given))
        return [self.last(self.hidden(first)), *rest]
