"""Activations, dropout and noise: what happens to a number depends on that number alone."""

from __future__ import annotations

from typing import Any

import numpy as np
from keras import layers

from edgeprune.tracing.keras_internals import StochasticDepth
from edgeprune.tracing.labels import Keep
from edgeprune.tracing.rules.registry import (
    NORMALIZED,
    Labels,
    Tracing,
    channel_axis,
    rule,
    varying_axes,
)


@rule(
    layers.Activation, layers.ReLU, layers.LeakyReLU, layers.ELU, layers.Dropout,
    layers.SpatialDropout1D, layers.SpatialDropout2D, layers.SpatialDropout3D,
    layers.GaussianDropout, layers.GaussianNoise, layers.AlphaDropout,
    layers.ActivityRegularization, layers.Identity, StochasticDepth,
)  # fmt: skip
def pass_elementwise(tracing: Tracing, layer: Any, x: Labels) -> Labels:
    """Channels pass, unless the activation normalises over them."""
    return tracing.activate(layer, x)


@rule(layers.PReLU)
def pass_with_slopes(tracing: Tracing, layer: Any, x: Labels) -> Labels:
    """One slope per position of every axis that is not shared."""
    for axis in varying_axes(x):
        if layer.alpha.shape[axis] > 1:
            tracing.use(layer.alpha, axis, "passes", tracing.on_axis(x, axis))
    return x


@rule(layers.Rescaling)
def rescale(tracing: Tracing, layer: Any, x: Labels) -> Labels:
    """One factor and offset for all channels, or one per channel."""
    axis = channel_axis(layer)
    if max(np.size(layer.scale), np.size(layer.offset)) == 1:
        return x
    along = tracing.on_axis(tracing.pass_spatial(x, axis), axis)

    def change(config: dict[str, Any], keep: Keep) -> None:
        for entry in ("scale", "offset"):
            if np.size(getattr(layer, entry)) > 1:
                config[entry] = np.take(getattr(layer, entry), keep(along), axis=-1).tolist()

    tracing.change_config(change)
    return x


@rule(layers.Softmax)
def normalize(tracing: Tracing, layer: Any, x: Labels) -> Labels:
    """Softmax ties the values of an axis to one sum; channels on other axes pass."""
    axes = layer.axis if isinstance(layer.axis, (tuple, list)) else (layer.axis,)
    rank = len(tracing.call.inputs[0].shape)
    if {axis % rank - 1 for axis in axes} & set(varying_axes(x)):
        tracing.space.lock(x, NORMALIZED)
    return x
