"""Layers with several inputs."""

from __future__ import annotations

from typing import Any

import numpy as np
from keras import layers

from edgeprune.tracing.keras_internals import CustomScaleLayer
from edgeprune.tracing.rules.registry import Labels, Tracing, place, rule, varying_axes


@rule(
    layers.Add, layers.Subtract, layers.Multiply, layers.Average, layers.Maximum, layers.Minimum,
    CustomScaleLayer,
)  # fmt: skip
def merge(tracing: Tracing, layer: Any, *inputs: Labels) -> Labels:
    """Position by position: what is added must be removed together."""
    return tracing.space.merge(inputs, tracing.input_shapes)


@rule(layers.Concatenate)
def join(tracing: Tracing, layer: Any, *inputs: Labels) -> Labels:
    """Side by side along one axis; channels on another axis are tied."""
    shapes = tracing.input_shapes
    axis = layer.axis % len(tracing.call.inputs[0].shape) - 1
    varying = {a for x in inputs for a in varying_axes(x)}
    if axis < 0 or (varying - {axis} and axis in varying):
        reason = f"'{tracing.call.path}' joins channels that lie on different axes"
        return tracing.opaque(reason, inputs)[0]
    if varying - {axis} or None in (shape[axis] for shape in shapes):
        ignored = [tuple(1 if a == axis else s for a, s in enumerate(shape)) for shape in shapes]
        return tracing.space.merge(inputs, ignored)
    along = [tracing.on_axis(x, axis, index) for index, x in enumerate(inputs)]
    return place(np.concatenate(along), axis, inputs[0].ndim)
