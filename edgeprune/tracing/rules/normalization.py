"""Normalisation: per-channel constants pass, statistics over channels lock."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
from keras import layers

from edgeprune.tracing.keras_internals import LayerScale, existing_types
from edgeprune.tracing.labels import Keep
from edgeprune.tracing.rules.registry import Labels, Tracing, place, rule, varying_axes


def _axes(tracing: Tracing, layer: Any) -> list[int]:
    """Axes that a layer works on, in the order of its config, without counting the batch."""
    axes = layer.axis if isinstance(layer.axis, Collection) else (layer.axis,)
    return [axis % len(tracing.call.inputs[0].shape) - 1 for axis in axes]


@rule(layers.BatchNormalization)
def scale_channels(tracing: Tracing, layer: Any, x: Labels) -> Labels:
    """Every weight holds one value per channel of the normalised axis."""
    (axis,) = _axes(tracing, layer)
    x = tracing.pass_spatial(x, axis)
    along = tracing.on_axis(x, axis)
    for weight in (layer.gamma, layer.beta, layer.moving_mean, layer.moving_variance):
        tracing.use(weight, 0, "passes", along)
    return place(along, axis, x.ndim)


@rule(LayerScale)
def scale_by_layer(tracing: Tracing, layer: Any, x: Labels) -> Labels:
    """One factor per channel (ConvNeXt)."""
    along = tracing.on_axis(tracing.pass_spatial(x, -1), -1)
    tracing.use(layer.gamma, 0, "passes", along)
    tracing.count("projection_dim", along)
    return x


@rule(*existing_types(layers, "LayerNormalization UnitNormalization RMSNormalization"))
def normalize_positions(tracing: Tracing, layer: Any, x: Labels) -> Labels:
    """Mean and scale come from all values on some axes: channels on these depend on each other."""
    if set(_axes(tracing, layer)) & set(varying_axes(x)):
        kind = type(layer).__name__
        tracing.space.lock(x, f"normalised over by '{tracing.call.path}' ({kind})")
    return x


@rule(layers.GroupNormalization)
def normalize_groups(tracing: Tracing, layer: Any, x: Labels) -> Labels:
    """Groups of neighbouring channels are normalised together, and go together."""
    (axis,) = _axes(tracing, layer)
    x = tracing.pass_spatial(x, axis)
    along = tracing.on_axis(x, axis)
    groups = along.size if layer.groups == -1 else layer.groups
    if groups == 1:
        tracing.space.lock(x, f"normalised over by '{tracing.call.path}' (GroupNormalization)")
        return x
    rows = along.reshape(groups, -1)
    for column in rows.T[1:]:
        tracing.space.tie(rows[:, 0], column)
    if layer.get_config()["groups"] != -1:
        tracing.count("groups", rows[:, 0])
    for weight in (layer.gamma, layer.beta):
        tracing.use(weight, 0, "passes", along)
    return place(along, axis, x.ndim)


@rule(layers.Normalization)
def standardize(tracing: Tracing, layer: Any, x: Labels) -> Labels:
    """Mean and variance, as weights or in the config, have one axis per axis that is kept."""
    kept = sorted(_axes(tracing, layer))
    for axis in set(varying_axes(x)) & set(kept):
        along = tracing.on_axis(x, axis)
        where = kept.index(axis)
        if layer.input_mean is None:
            for weight in (layer.adapt_mean, layer.adapt_variance):
                tracing.use(weight, where, "passes", along)
        elif np.ndim(layer.input_mean) > 0:
            _slice_constants(tracing, where - len(kept), along)
    return x


def _slice_constants(tracing: Tracing, axis: int, along: Labels) -> None:
    def change(config: dict[str, Any], keep: Keep) -> None:
        for entry in ("mean", "variance"):
            constants = np.asarray(config[entry])
            if constants.ndim >= -axis and constants.shape[axis] > 1:
                config[entry] = np.take(constants, keep(along), axis=axis).tolist()

    tracing.change_config(change)
