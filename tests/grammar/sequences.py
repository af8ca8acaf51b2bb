"""Steps for sequences `(batch, length, channels)`."""

from __future__ import annotations

from typing import Any

from keras import layers

from grammar.growing import Grower, divisors


def convolve(grower: Grower, x: Any) -> Any:
    width, groups = grower.number(2, 5), grower.choice(divisors(x.shape[-1]))
    return grower.choice(
        [
            lambda: layers.Conv1D(groups * 2, 3, padding="same", groups=groups),
            lambda: layers.Conv1D(width, 3, padding="causal", dilation_rate=2),
            lambda: layers.SeparableConv1D(width, 3, padding="same", depth_multiplier=2),
            lambda: layers.Conv1DTranspose(width, 3, padding="same"),
            lambda: layers.DepthwiseConv1D(3, padding="same", depth_multiplier=2),
        ]
    )()(x)


def move_positions(grower: Grower, x: Any) -> Any:
    options = [
        lambda: layers.ZeroPadding1D(1),
        lambda: layers.UpSampling1D(2),
        lambda: layers.SpatialDropout1D(0.5),
    ]
    if x.shape[1] is None or x.shape[1] >= 3:
        options += [
            lambda: layers.MaxPooling1D(2),
            lambda: layers.AveragePooling1D(2),
            lambda: layers.Cropping1D(1),
        ]
    return grower.choice(options)()(x)


def recur(grower: Grower, x: Any) -> Any:
    kind = grower.choice([layers.LSTM, layers.GRU, layers.SimpleRNN])
    made = kind(grower.number(2, 4), return_sequences=True)
    return (layers.Bidirectional(made) if grower.yes() else made)(x)


def hand_over_states(grower: Grower, x: Any) -> Any:
    """An encoder whose states start a decoder."""
    kind, units = grower.choice([layers.LSTM, layers.GRU]), grower.number(2, 4)
    _, *states = kind(units, return_state=True)(x)
    return kind(units, return_sequences=True)(x, initial_state=states)


def attend(grower: Grower, x: Any) -> Any:
    """Attention of a sequence to itself.

    Without biases: on TensorFlow, Keras 3.15 adds a bias of shape (heads, 1) along the positions
    where there are as many as heads, so the answer of a layer changes with its sizes.
    """
    return layers.MultiHeadAttention(
        grower.number(1, 3), 2, value_dim=grower.number(1, 3), use_bias=False
    )(x, x)


def attend_in_groups(grower: Grower, x: Any) -> Any:
    return layers.GroupQueryAttention(2, 4, 2)(x, x)


def attend_simply(grower: Grower, x: Any) -> Any:
    return layers.Attention()([x, layers.Dense(x.shape[-1])(x)])


def distribute(grower: Grower, x: Any) -> Any:
    return layers.TimeDistributed(layers.Dense(grower.number(2, 5), activation="relu"))(x)


STEPS = [
    convolve, convolve, convolve, move_positions, move_positions, recur, hand_over_states, attend,
    attend_in_groups, attend_simply, distribute,
]  # fmt: skip
