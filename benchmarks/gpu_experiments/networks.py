"""The networks of the CIFAR-10 rows in pruning papers, as Keras models that end in softmax."""

from __future__ import annotations

from typing import Any

import keras
from keras import layers

VGG_STAGES = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))


def _normalise(x: Any, name: str) -> Any:
    return layers.BatchNormalization(momentum=0.9, epsilon=1e-5, name=f"{name}_bn")(x)


def _convolve(x: Any, channels: int, size: int, strides: int, name: str) -> Any:
    convolution = layers.Conv2D(
        channels,
        size,
        strides=strides,
        padding="same",
        use_bias=False,
        kernel_initializer="he_normal",
        name=name,
    )
    return _normalise(convolution(x), name)


def _classify(x: Any, num_classes: int) -> Any:
    """End in float32, whatever precision the rest has."""
    logits = layers.Dense(num_classes, dtype="float32", name="logits")(x)
    return layers.Softmax(dtype="float32", name="predictions")(logits)


def make_resnet(depth: int, num_classes: int = 10) -> keras.Model:
    """Return a residual network for small images (He et al., 2016): depth 20, 56, 110."""
    image = keras.Input((32, 32, 3), name="image")
    x = layers.ReLU()(_convolve(image, 16, 3, 1, "stem"))
    for stage, channels in enumerate((16, 32, 64), start=1):
        for block in range(1, (depth - 2) // 6 + 1):
            name = f"stage{stage}_block{block}"
            strides = 2 if stage > 1 and block == 1 else 1
            y = layers.ReLU()(_convolve(x, channels, 3, strides, f"{name}_first"))
            y = _convolve(y, channels, 3, 1, f"{name}_second")
            if x.shape[-1] != channels:
                x = _convolve(x, channels, 1, strides, f"{name}_shortcut")
            x = layers.ReLU(name=f"{name}_end")(layers.Add(name=f"{name}_add")([x, y]))
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(image, _classify(x, num_classes), name=f"resnet{depth}")


def make_vgg16(num_classes: int = 10) -> keras.Model:
    """Return VGG-16 with BatchNorm and one hidden dense layer, the usual form on CIFAR."""
    image = x = keras.Input((32, 32, 3), name="image")
    for stage, (channels, count) in enumerate(VGG_STAGES, start=1):
        for number in range(1, count + 1):
            x = layers.ReLU()(_convolve(x, channels, 3, 1, f"stage{stage}_conv{number}"))
        x = layers.MaxPooling2D(name=f"stage{stage}_pool")(x)
    x = layers.Flatten(name="flatten")(x)
    x = layers.ReLU()(_normalise(layers.Dense(512, use_bias=False, name="hidden")(x), "hidden"))
    x = layers.Dropout(0.3, name="dropout")(x)
    return keras.Model(image, _classify(x, num_classes), name="vgg16")


def make_network(name: str) -> keras.Model:
    """Return `vgg16` or `resnetDEPTH`, with fresh weights."""
    return make_vgg16() if name == "vgg16" else make_resnet(int(name.removeprefix("resnet")))
