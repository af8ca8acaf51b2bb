"""Layers that mix or move positions and leave channels alone."""

from __future__ import annotations

from typing import Any

from keras import layers

from edgeprune.tracing.keras_internals import existing_types
from edgeprune.tracing.rules.registry import Labels, Tracing, channel_axis, place, rule

ADAPTIVE = """AdaptiveMaxPooling1D AdaptiveMaxPooling2D AdaptiveMaxPooling3D
    AdaptiveAveragePooling1D AdaptiveAveragePooling2D AdaptiveAveragePooling3D"""


@rule(
    layers.MaxPooling1D, layers.MaxPooling2D, layers.MaxPooling3D,
    layers.AveragePooling1D, layers.AveragePooling2D, layers.AveragePooling3D,
    *existing_types(layers, ADAPTIVE),
    layers.ZeroPadding1D, layers.ZeroPadding2D, layers.ZeroPadding3D,
    layers.Cropping1D, layers.Cropping2D, layers.Cropping3D,
    layers.UpSampling1D, layers.UpSampling2D, layers.UpSampling3D,
    layers.Resizing, layers.CenterCrop,
)  # fmt: skip
def pass_positions(tracing: Tracing, layer: Any, x: Labels) -> Labels:
    """Positions mix or move, channels do not."""
    return tracing.pass_spatial(x, channel_axis(layer))


@rule(
    layers.GlobalAveragePooling1D, layers.GlobalAveragePooling2D, layers.GlobalAveragePooling3D,
    layers.GlobalMaxPooling1D, layers.GlobalMaxPooling2D, layers.GlobalMaxPooling3D,
)  # fmt: skip
def pool_globally(tracing: Tracing, layer: Any, x: Labels) -> Labels:
    """One value per channel; the spatial axes go or become 1."""
    axis = channel_axis(layer)
    along = tracing.on_axis(tracing.pass_spatial(x, axis), axis)
    return place(along, axis, len(tracing.output_shapes[0]))
