"""Random networks for property tests: a pool of tensors grows by one drawn step after another."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from hypothesis import strategies as st
from keras import layers, ops

Draw = Callable[[st.SearchStrategy], Any]
ACTIVATIONS = st.sampled_from([None, "relu", "tanh", "sigmoid", "gelu", "hard_silu", "leaky_relu"])


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


def divisors(number: int) -> list[int]:
    return [d for d in range(1, number + 1) if number % d == 0]


class Grower:
    """Draws one network.

    Attributes:
        draw: draws from a hypothesis strategy.
        merge: whether tensors of equal shape may be merged (not where sizes are open).
        pool: tensors that may still be used.
        used: numbers of tensors that something takes.
    """

    def __init__(self, draw: Draw, merge: bool) -> None:
        self.draw = draw
        self.merge = merge
        self.pool: list[Any] = []
        self.used: set[int] = set()

    # Choices -----------------------------------------------------------------------------------

    def number(self, low: int, high: int) -> int:
        return self.draw(st.integers(low, high))

    def choice(self, options: Any) -> Any:
        return self.draw(st.sampled_from(list(options)))

    def yes(self) -> bool:
        return self.draw(st.booleans())

    def constants(self, *shape: int) -> np.ndarray:
        seed = self.number(0, 3)
        return np.random.default_rng(seed).uniform(0.5, 1.5, shape).astype(np.float32)

    # Steps -------------------------------------------------------------------------------------

    def step(self) -> None:
        x = self.choice(range(len(self.pool)))
        tensor = self.pool[x]
        partners = [
            index
            for index, other in enumerate(self.pool)
            if self.merge and index != x and other.shape == tensor.shape
        ]
        kinds = {2: VECTOR_STEPS, 3: SEQUENCE_STEPS, 4: MAP_STEPS}[len(tensor.shape)]
        if partners and self.number(0, 2) == 0:
            y = self.choice(partners)
            made = self.choice(MERGES)(self, tensor, self.pool[y])
            self.used |= {x, y}
        else:
            made = self.choice(kinds)(self, tensor)
            self.used.add(x)
        for one in made if isinstance(made, list) else [made]:
            if None in one.shape[1:] or 0 < np.prod(one.shape[1:]) <= 4000:
                self.pool.append(one)

    def to_vector(self, x: Any) -> Any:
        if len(x.shape) == 2:
            return x
        if len(x.shape) == 3:
            kind = self.choice([layers.GlobalAveragePooling1D, layers.GlobalMaxPooling1D])
            return kind()(x)
        if None not in x.shape[1:] and self.yes():
            return layers.Flatten()(x)
        return self.choice([layers.GlobalAveragePooling2D, layers.GlobalMaxPooling2D])()(x)

    # Maps --------------------------------------------------------------------------------------

    def convolve(self, x: Any) -> Any:
        channels = x.shape[-1]
        groups = self.choice(divisors(channels)) if self.number(0, 3) == 0 else 1
        strides = self.number(1, 2)
        return layers.Conv2D(
            groups * self.number(1, max(1, 6 // groups)),
            self.choice([1, 3]),
            strides=strides,
            dilation_rate=self.number(1, 2) if strides == 1 else 1,
            padding="same",
            groups=groups,
            use_bias=self.yes(),
            activation=self.draw(ACTIVATIONS),
        )(x)

    def convolve_transposed(self, x: Any) -> Any:
        return layers.Conv2DTranspose(
            self.number(2, 5), 3, strides=self.number(1, 2), padding="same", use_bias=self.yes()
        )(x)

    def convolve_depthwise(self, x: Any) -> Any:
        return layers.DepthwiseConv2D(
            3, padding="same", depth_multiplier=self.number(1, 2), use_bias=self.yes()
        )(x)

    def convolve_separable(self, x: Any) -> Any:
        return layers.SeparableConv2D(
            self.number(2, 6), 3, padding="same", depth_multiplier=self.number(1, 2)
        )(x)

    def densify(self, x: Any) -> Any:
        return layers.Dense(self.number(2, 6), activation=self.draw(ACTIVATIONS))(x)

    def einsum(self, x: Any) -> Any:
        return layers.EinsumDense("...x,xy->...y", self.number(2, 6), bias_axes="y")(x)

    def normalize(self, x: Any) -> Any:
        channels = x.shape[-1]
        return self.choice(
            [
                layers.BatchNormalization(),
                layers.BatchNormalization(scale=False, center=self.yes()),
                layers.LayerNormalization(),
                layers.GroupNormalization(self.choice([-1, *divisors(channels)])),
                layers.UnitNormalization(axis=self.choice([-1, 1])),
                layers.Normalization(
                    mean=self.constants(channels), variance=self.constants(channels)
                ),
                layers.Rescaling(self.constants(channels).tolist()),
            ]
        )(x)

    def activate(self, x: Any) -> Any:
        return self.choice(
            [
                layers.ReLU(6.0),
                layers.LeakyReLU(),
                layers.PReLU(shared_axes=list(range(1, len(x.shape) - 1)) or None),
                layers.Activation("hard_sigmoid"),
                layers.Dropout(0.5),
                layers.GaussianNoise(0.1),
                layers.Softmax(axis=1),
            ]
        )(x)

    def move_positions(self, x: Any) -> Any:
        large = None in x.shape[1:3] or min(x.shape[1:3]) >= 3
        options = [layers.ZeroPadding2D(1), layers.UpSampling2D(2)]
        if large:
            options += [
                layers.MaxPooling2D(2),
                layers.AveragePooling2D(2, strides=1),
                layers.Cropping2D(((1, 0), (0, 1))),
                layers.Resizing(3, 3),
            ]
        return self.choice(options)(x)

    def squeeze_and_excite(self, x: Any) -> Any:
        channels = x.shape[-1]
        gate = layers.GlobalAveragePooling2D()(x)
        gate = layers.Reshape((1, 1, channels))(gate) if self.yes() else gate[:, None, None]
        gate = layers.Conv2D(self.number(1, 3), 1, activation="relu")(gate)
        gate = layers.Conv2D(channels, 1, activation="hard_sigmoid")(gate)
        return layers.Multiply()([x, gate]) if self.yes() else x * gate

    def gate_positions(self, x: Any) -> Any:
        return x * layers.Conv2D(1, 3, padding="same", activation="sigmoid")(x)

    def residual(self, x: Any) -> Any:
        y = layers.Conv2D(x.shape[-1], 3, padding="same")(x)
        return layers.Add()([x, layers.BatchNormalization()(y)]) if self.yes() else x + y

    def nest(self, x: Any) -> Any:
        """A nested model that is called twice."""
        channels = x.shape[-1]
        entrance = keras.Input(x.shape[1:])
        inside = layers.Conv2D(self.number(2, 5), 1, activation="relu")(entrance)
        inside = layers.Conv2D(channels, 3, padding="same")(inside)
        if self.yes():
            inside = layers.Add()([inside, entrance])
        model = keras.Model(entrance, inside)
        if self.yes():
            model = keras.Sequential([model, layers.BatchNormalization()])
        return model(model(x))

    def open_custom(self, x: Any) -> Any:
        return Residual(x.shape[-1])(x)

    def share(self, x: Any) -> list[Any]:
        layer = layers.Conv2D(x.shape[-1], 3, padding="same")
        once = layer(x)
        return [once, layer(layers.ReLU()(once))]

    # keras.ops, for tensors of any rank --------------------------------------------------------

    def scale(self, x: Any) -> Any:
        channels = x.shape[-1]
        return self.choice(
            [
                lambda: x * 2,
                lambda: 1.5 - x,
                lambda: x * self.constants(channels),
                lambda: ops.maximum(x, 0.1),
                lambda: ops.clip(x, -1.0, 1.0),
                lambda: -ops.abs(x) / 2,
                lambda: ops.tanh(x) * x,
                lambda: layers.Lambda(lambda v: v * v)(x),
            ]
        )()

    def split(self, x: Any) -> list[Any]:
        channels = x.shape[-1]
        if channels < 2:
            return [x * 1.0]
        if self.yes():
            return list(ops.split(x, self.choice(divisors(channels)), axis=-1))[:3]
        return list(ops.split(x, [self.number(1, channels - 1)], axis=-1))

    def slice(self, x: Any) -> Any:
        channels = x.shape[-1]
        start = self.number(0, channels - 1)
        stop = self.number(start + 1, channels)
        return self.choice(
            [
                lambda: x[..., start:stop],
                lambda: x[..., start : start + 1],
                lambda: x[..., ::2],
                lambda: x[..., ::-1],
                lambda: ops.take(x, [start, channels - 1, 0], axis=-1),
                lambda: x[:, 1:] if x.shape[1] is None or x.shape[1] > 1 else x[:, :1],
            ]
        )()

    def shuffle(self, x: Any) -> Any:
        return Shuffle(self.choice(divisors(x.shape[-1])))(x)

    def concatenate_parts(self, x: Any) -> Any:
        parts = self.split(x)[::-1]
        parts = [ops.relu(parts[0]), *parts[1:]]
        return ops.concatenate(parts, axis=-1) if len(parts) > 1 else parts[0]

    def pad(self, x: Any) -> Any:
        widths = [(0, 0)] * (len(x.shape) - 1) + [(self.number(0, 2), self.number(0, 2))]
        return ops.pad(x, widths)

    def reshape(self, x: Any) -> Any:
        """There and back through groups of channels."""
        if None in x.shape[1:]:
            return x - ops.mean(x, axis=1, keepdims=True)
        groups = self.choice(divisors(x.shape[-1]))
        sizes = (*x.shape[1:-1], groups, x.shape[-1] // groups)
        y = ops.reshape(x, (-1, *sizes))
        y = ops.swapaxes(y, -1, -2) if self.yes() else ops.flip(y, axis=-1)
        return ops.reshape(y, (-1, *x.shape[1:]))

    def stack(self, x: Any) -> Any:
        return ops.mean(ops.stack([x, ops.sigmoid(x)], axis=1), axis=1)

    def mix(self, x: Any) -> Any:
        return self.choice(
            [
                lambda: x - ops.mean(x, axis=-1, keepdims=True),
                lambda: ops.softmax(x, axis=-1),
                lambda: ops.cumsum(x, axis=-1),
                lambda: x * ops.max(x, axis=-1, keepdims=True),
            ]
        )()

    # Sequences ---------------------------------------------------------------------------------

    def to_sequence(self, x: Any) -> Any:
        if None in x.shape[1:]:
            return layers.Reshape((-1, x.shape[-1]))(x)
        if self.yes():
            return layers.Reshape((x.shape[1] * x.shape[2], x.shape[3]))(x)
        return layers.TimeDistributed(layers.GlobalMaxPooling1D())(x)

    def convolve_sequence(self, x: Any) -> Any:
        kind = self.choice([layers.Conv1D, layers.SeparableConv1D, layers.Conv1DTranspose])
        return kind(self.number(2, 5), 3, padding="same")(x)

    def recur(self, x: Any) -> Any:
        kind = self.choice([layers.LSTM, layers.GRU, layers.SimpleRNN])
        made = kind(self.number(2, 4), return_sequences=True)
        return (layers.Bidirectional(made) if self.yes() else made)(x)

    def attend(self, x: Any) -> Any:
        return layers.MultiHeadAttention(self.number(1, 3), 2, value_dim=self.number(1, 3))(x, x)

    def attend_simply(self, x: Any) -> Any:
        return layers.Attention()([x, layers.Dense(x.shape[-1])(x)])

    def distribute(self, x: Any) -> Any:
        return layers.TimeDistributed(layers.Dense(self.number(2, 5), activation="relu"))(x)

    # Vectors -----------------------------------------------------------------------------------

    def to_map(self, x: Any) -> Any:
        return layers.Reshape((1, 1, x.shape[-1]))(x)

    def repeat(self, x: Any) -> Any:
        return layers.RepeatVector(3)(x)

    def broadcast(self, x: Any) -> Any:
        maps = [y for y in self.pool if len(y.shape) == 4]
        if not maps:
            return x * 0.5
        y = self.choice(maps)
        vector = layers.Dense(y.shape[-1])(x)
        return y * layers.Reshape((1, 1, y.shape[-1]))(vector)


def concatenate(grower: Grower, x: Any, y: Any) -> Any:
    axis = grower.choice([-1, 1])
    return layers.Concatenate(axis=axis)([x, y]) if grower.yes() else ops.concatenate([x, y], axis)


MERGES = [
    concatenate,
    lambda grower, x, y: layers.Add()([x, y]),
    lambda grower, x, y: layers.Multiply()([x, y]),
    lambda grower, x, y: layers.Maximum()([x, y]),
    lambda grower, x, y: layers.Average()([x, y]),
    lambda grower, x, y: layers.Subtract()([x, y]),
    lambda grower, x, y: x + y,
    lambda grower, x, y: ops.where(x > 0, x, y),
]
ANY_RANK = [
    Grower.densify, Grower.einsum, Grower.normalize, Grower.activate, Grower.scale, Grower.split,
    Grower.slice, Grower.shuffle, Grower.concatenate_parts, Grower.pad, Grower.reshape,
    Grower.stack, Grower.mix,
]  # fmt: skip
MAP_STEPS = [
    Grower.convolve, Grower.convolve, Grower.convolve_transposed, Grower.convolve_depthwise,
    Grower.convolve_separable, Grower.move_positions, Grower.squeeze_and_excite,
    Grower.gate_positions, Grower.residual, Grower.nest, Grower.open_custom, Grower.share,
    Grower.to_sequence, Grower.to_vector, *ANY_RANK,
]  # fmt: skip
SEQUENCE_STEPS = [
    Grower.convolve_sequence, Grower.recur, Grower.attend, Grower.attend_simply,
    Grower.distribute, Grower.to_vector, *ANY_RANK,
]  # fmt: skip
VECTOR_STEPS = [Grower.to_map, Grower.repeat, Grower.broadcast, *ANY_RANK]


def draw_model(draw: Draw) -> keras.Model:
    """Draw a network with one or two inputs and outputs."""
    keras.backend.clear_session()
    size = draw(st.sampled_from([4, 5, None]))
    grower = Grower(draw, merge=size is not None)
    inputs = [keras.Input((size, size, 3), name="image")]
    grower.pool.append(layers.Conv2D(grower.number(3, 6), 3, padding="same")(inputs[0]))
    if grower.number(0, 3) == 0:
        inputs.append(keras.Input((4,), name="vector"))
        grower.pool.append(layers.Dense(grower.number(3, 6))(inputs[1]))
    for _ in range(grower.number(1, 8)):
        grower.step()
    leaves = [x for index, x in enumerate(grower.pool) if index not in grower.used]
    vectors = [grower.to_vector(x) for x in leaves]
    x = layers.Concatenate()(vectors) if len(vectors) > 1 else vectors[0]
    outputs = [layers.Dense(3, name="head")(x)]
    if grower.yes():
        outputs.append(layers.Dense(2, activation="softmax", name="second")(vectors[-1]))
    structure = {tensor.name: tensor for tensor in inputs} if grower.yes() else inputs
    return keras.Model(structure, outputs)
