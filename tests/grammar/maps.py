"""Steps for maps `(batch, height, width, channels)`."""

from __future__ import annotations

from typing import Any

import keras
from keras import layers

from grammar.custom import Residual
from grammar.growing import Grower, divisors


def convolve(grower: Grower, x: Any) -> Any:
    channels = x.shape[-1]
    groups = grower.choice(divisors(channels)) if grower.number(0, 3) == 0 else 1
    strides = grower.number(1, 2)
    return layers.Conv2D(
        groups * grower.number(1, max(1, 6 // groups)),
        grower.choice([1, 3]),
        strides=strides,
        dilation_rate=grower.number(1, 2) if strides == 1 else 1,
        padding="same",
        groups=groups,
        use_bias=grower.yes(),
        activation=grower.activation(),
        trainable=grower.yes(),
    )(x)


def convolve_transposed(grower: Grower, x: Any) -> Any:
    return layers.Conv2DTranspose(
        grower.number(2, 5), 3, strides=grower.number(1, 2), padding="same", use_bias=grower.yes()
    )(x)


def convolve_depthwise(grower: Grower, x: Any) -> Any:
    return layers.DepthwiseConv2D(
        3, padding="same", depth_multiplier=grower.number(1, 2), use_bias=grower.yes()
    )(x)


def convolve_separable(grower: Grower, x: Any) -> Any:
    return layers.SeparableConv2D(
        grower.number(2, 6), 3, padding="same", depth_multiplier=grower.number(1, 2)
    )(x)


def move_positions(grower: Grower, x: Any) -> Any:
    options = [
        lambda: layers.ZeroPadding2D(1),
        lambda: layers.UpSampling2D(2),
        lambda: layers.SpatialDropout2D(0.5),
    ]
    if None in x.shape[1:3] or min(x.shape[1:3]) >= 3:
        options += [
            lambda: layers.MaxPooling2D(2),
            lambda: layers.AveragePooling2D(2, strides=1),
            lambda: layers.Cropping2D(((1, 0), (0, 1))),
            lambda: layers.Resizing(3, 3),
        ]
        if None not in x.shape[1:3]:
            options += [
                lambda: layers.CenterCrop(2, 3),
                lambda: layers.AdaptiveAveragePooling2D(2),
                lambda: layers.AdaptiveMaxPooling2D(2),
            ]
    return grower.choice(options)()(x)


def squeeze_and_excite(grower: Grower, x: Any) -> Any:
    channels = x.shape[-1]
    gate = layers.GlobalAveragePooling2D()(x)
    gate = layers.Reshape((1, 1, channels))(gate) if grower.yes() else gate[:, None, None]
    gate = layers.Conv2D(grower.number(1, 3), 1, activation="relu")(gate)
    gate = layers.Conv2D(channels, 1, activation="hard_sigmoid")(gate)
    return layers.Multiply()([x, gate]) if grower.yes() else x * gate


def gate_positions(grower: Grower, x: Any) -> Any:
    return x * layers.Conv2D(1, 3, padding="same", activation="sigmoid")(x)


def residual(grower: Grower, x: Any) -> Any:
    y = layers.Conv2D(x.shape[-1], 3, padding="same")(x)
    return layers.Add()([x, layers.BatchNormalization()(y)]) if grower.yes() else x + y


def channels_first(grower: Grower, x: Any) -> Any:
    """A part of the network in the other order of axes.

    Without biases: on TensorFlow, Keras 3.15 adds the bias of a layer along the width where that
    equals the number of filters.
    """
    options = {"padding": "same", "use_bias": False, "data_format": "channels_first"}
    y = layers.Permute((3, 1, 2))(x)
    groups = grower.choice(divisors(x.shape[-1]))
    y = layers.Conv2D(2 * groups, 3, groups=groups, activation="relu", **options)(y)
    y = grower.choice(
        [
            lambda: layers.BatchNormalization(axis=1),
            lambda: layers.GroupNormalization(groups, axis=1),
            lambda: layers.DepthwiseConv2D(3, depth_multiplier=2, **options),
            lambda: layers.SeparableConv2D(4, 3, **options),
            lambda: layers.Conv2DTranspose(4, 3, **options),
            lambda: layers.UpSampling2D(2, data_format="channels_first"),
            lambda: layers.GlobalAveragePooling2D(keepdims=True, data_format="channels_first"),
        ]
    )()(y)
    return layers.Permute((2, 3, 1))(y)


def nest(grower: Grower, x: Any) -> Any:
    """A nested model that is called twice, nested again or not, frozen or not."""
    channels = x.shape[-1]
    entrance = keras.Input(x.shape[1:])
    inside = layers.Conv2D(grower.number(2, 5), 1, activation="relu")(entrance)
    inside = layers.Conv2D(channels, 3, padding="same")(inside)
    if grower.yes():
        inside = layers.Add()([inside, entrance])
    model = keras.Model(entrance, inside)
    if grower.yes():
        model = keras.Sequential([model, layers.BatchNormalization()])
    if grower.yes():
        outer = keras.Input(x.shape[1:])
        model = keras.Model(outer, layers.ReLU()(model(outer)))
    model.trainable = grower.yes()
    return model(model(x))


def open_custom(grower: Grower, x: Any) -> Any:
    return Residual(x.shape[-1])(x)


def share(grower: Grower, x: Any) -> list[Any]:
    layer = layers.Conv2D(x.shape[-1], 3, padding="same")
    once = layer(x)
    return [once, layer(layers.ReLU()(once))]


def to_sequence(grower: Grower, x: Any) -> Any:
    if None in x.shape[1:]:
        return layers.Reshape((-1, x.shape[-1]))(x)
    return grower.choice(
        [
            lambda: layers.Reshape((x.shape[1] * x.shape[2], x.shape[3])),
            lambda: layers.TimeDistributed(layers.GlobalMaxPooling1D()),
            lambda: layers.ConvLSTM1D(grower.number(2, 4), 3, padding="same"),
        ]
    )()(x)


def to_volume(grower: Grower, x: Any) -> Any:
    if None in x.shape[1:]:
        return layers.SpatialDropout2D(0.5)(x)
    _, height, width, channels = x.shape
    if grower.yes():
        return layers.Reshape((height, width, 1, channels))(x)
    groups = grower.choice(divisors(channels))
    return layers.Reshape((height, width, groups, channels // groups))(x)


STEPS = [
    convolve, convolve, convolve, convolve_transposed, convolve_depthwise, convolve_separable,
    move_positions, move_positions, squeeze_and_excite, gate_positions, residual, channels_first,
    nest, open_custom, share, to_sequence, to_sequence, to_volume,
]  # fmt: skip
