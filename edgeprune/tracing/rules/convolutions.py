"""Convolutions: kernels that read channels on one axis and write them on another."""

from __future__ import annotations

from typing import Any

import numpy as np
from keras import layers

from edgeprune.tracing.rules.registry import Labels, Tracing, channel_axis, place, rule


@rule(layers.Conv1D, layers.Conv2D, layers.Conv3D)
def convolve(tracing: Tracing, layer: Any, x: Labels) -> Labels:
    """Read on the kernel's axis -2, write on its axis -1."""
    axis = channel_axis(layer)
    along = tracing.on_axis(tracing.pass_spatial(x, axis), axis)
    groups, filters = layer.groups, layer.kernel.shape[-1]
    if groups > (along.size + filters) // groups:
        made = convolve_whole_groups(tracing, layer, along)
    else:
        tracing.use(layer.kernel, -2, "reads", tie_ranks(tracing, along, groups))
        made = tracing.use(layer.kernel, -1, "writes")
        tie_ranks(tracing, made, groups)
        tracing.use(layer.bias, 0, "writes", made)
    tracing.count("filters", made)
    return tracing.activate(layer, place(made, axis, x.ndim))


def tie_ranks(tracing: Tracing, labels: Labels, groups: int) -> Labels:
    """Tie the first channel of every group, the second of every group, and so on."""
    rows = labels.reshape(groups, -1)
    for row in rows[1:]:
        tracing.space.tie(rows[0], row)
    return rows[0]


def convolve_whole_groups(tracing: Tracing, layer: Any, along: Labels) -> Labels:
    """Let a group go with all it reads and writes: finer where there are many small groups.

    With one channel per group this is a depthwise convolution.
    """
    rows = along.reshape(layer.groups, -1)
    for column in rows.T[1:]:
        tracing.space.tie(rows[:, 0], column)
    made = np.repeat(rows[:, 0], layer.kernel.shape[-1] // layer.groups)
    tracing.use(layer.kernel, -1, "passes", made)
    tracing.use(layer.bias, 0, "passes", made)
    tracing.count("groups", rows[:, 0])
    return made


@rule(layers.Conv1DTranspose, layers.Conv2DTranspose, layers.Conv3DTranspose)
def convolve_transposed(tracing: Tracing, layer: Any, x: Labels) -> Labels:
    """The kernel's axes are swapped: it reads on axis -1 and writes on axis -2."""
    axis = channel_axis(layer)
    tracing.use(layer.kernel, -1, "reads", tracing.on_axis(tracing.pass_spatial(x, axis), axis))
    made = tracing.use(layer.kernel, -2, "writes")
    tracing.use(layer.bias, 0, "writes", made)
    tracing.count("filters", made)
    return tracing.activate(layer, place(made, axis, x.ndim))


@rule(layers.DepthwiseConv1D, layers.DepthwiseConv2D)
def convolve_depthwise(tracing: Tracing, layer: Any, x: Labels) -> Labels:
    """Each channel makes `depth_multiplier` channels of its own."""
    axis = channel_axis(layer)
    along = tracing.on_axis(tracing.pass_spatial(x, axis), axis)
    tracing.use(layer.kernel, -2, "passes", along)
    made = np.repeat(along, layer.depth_multiplier)
    tracing.use(layer.bias, 0, "passes", made)
    return tracing.activate(layer, place(made, axis, x.ndim))


@rule(layers.SeparableConv1D, layers.SeparableConv2D)
def convolve_separable(tracing: Tracing, layer: Any, x: Labels) -> Labels:
    """A depthwise convolution that passes, then a pointwise one that reads and writes."""
    axis = channel_axis(layer)
    along = tracing.on_axis(tracing.pass_spatial(x, axis), axis)
    tracing.use(layer.depthwise_kernel, -2, "passes", along)
    tracing.use(layer.pointwise_kernel, -2, "reads", np.repeat(along, layer.depth_multiplier))
    made = tracing.use(layer.pointwise_kernel, -1, "writes")
    tracing.use(layer.bias, 0, "writes", made)
    tracing.count("filters", made)
    return tracing.activate(layer, place(made, axis, x.ndim))
