"""Recurrent layers: a unit is written by every gate and read back by the recurrent kernel."""

from __future__ import annotations

from typing import Any

import numpy as np
from keras import layers

from edgeprune.tracing.opening import MergeTime, SplitTime
from edgeprune.tracing.rules.registry import (
    RULES,
    Labels,
    Tracing,
    channel_axis,
    place,
    rule,
    varying_axes,
)

RECURRENT = {
    layers.SimpleRNN, layers.GRU, layers.LSTM,
    layers.ConvLSTM1D, layers.ConvLSTM2D, layers.ConvLSTM3D,
}  # fmt: skip


@rule(layers.SimpleRNN, layers.GRU, layers.LSTM)
def recur(tracing: Tracing, layer: Any, x: Labels, *states: Labels) -> list[Labels]:
    """Read the features of a step and the units of the last one; write the units."""
    x = tracing.pass_spatial(x, -1)
    return _recur(tracing, layer, tracing.on_axis(x, -1), states, -1, "units")


@rule(layers.RNN)
def recur_cell(tracing: Tracing, layer: Any, x: Labels, *states: Labels) -> list[Labels]:
    """Keras' own cells are known, stacked and custom ones lock."""
    if type(layer.cell) not in (layers.SimpleRNNCell, layers.GRUCell, layers.LSTMCell):
        reason = f"cell '{layer.cell.name}' of '{tracing.call.path}' has no channel rule"
        return tracing.opaque(reason, [x, *states])
    x = tracing.pass_spatial(x, -1)
    return _recur(tracing, layer, tracing.on_axis(x, -1), states, -1, "cell/config/units")


@rule(layers.ConvLSTM1D, layers.ConvLSTM2D, layers.ConvLSTM3D)
def recur_convolved(tracing: Tracing, layer: Any, x: Labels, *states: Labels) -> list[Labels]:
    """Like LSTM, with convolutions in place of matrices."""
    axis = 1 if layer.data_format == "channels_first" else -1
    x = tracing.pass_spatial(x, axis)
    along = tracing.on_axis(x, axis)
    return _recur(tracing, layer, along, states, channel_axis(layer), "filters")


def _recur(
    tracing: Tracing, layer: Any, read: Labels, states: tuple[Labels, ...], axis: int, entry: str
) -> list[Labels]:
    cell = layer.cell
    gates = cell.kernel.shape[-1] // cell.recurrent_kernel.shape[-2]
    tracing.use(cell.kernel, -2, "reads", read)
    made = tracing.use(cell.recurrent_kernel, -2, "reads")
    for weight in (cell.kernel, cell.recurrent_kernel, cell.bias):
        tracing.use(weight, -1, "writes", np.tile(made, gates))
    tracing.count(entry, made)
    for attribute in ("activation", "recurrent_activation"):
        tracing.activate(cell, made, attribute)
    for state in states:
        tracing.space.tie(tracing.space.collapse(state, axis), made)
    if layer.stateful:
        tracing.space.lock(made, f"kept between the calls of '{tracing.call.path}'")
    outputs = []
    for index, shape in enumerate(tracing.output_shapes):
        has_steps = index == 0 and layer.return_sequences
        where = axis + 1 if axis == 0 and has_steps else axis
        outputs.append(place(made, where, len(shape)))
    return outputs


@rule(layers.Bidirectional)
def recur_both_ways(tracing: Tracing, layer: Any, x: Labels, *states: Labels) -> list[Labels]:
    """Two recurrent layers; Keras takes them to be equally wide, so their units are tied."""
    parts = (layer.forward_layer, layer.backward_layer)
    if {type(part) for part in parts} - RECURRENT:
        reason = f"'{tracing.call.path}' wraps a layer without a rule for both directions"
        return tracing.opaque(reason, [x, *states])
    merged = layer.merge_mode is not None
    outputs = tracing.call.outputs
    count = (len(outputs) - (1 if merged else 2)) // 2
    seen = (outputs[0], *outputs[len(outputs) - 2 * count : len(outputs) - count])
    half = len(states) // 2
    made: list[list[Labels]] = []
    for part, own, where in zip(
        parts,
        (states[:half], states[half:]),
        ("layer/config/", "backward_layer/config/"),
        strict=True,
    ):
        inner = tracing.inside(part, where, tracing.call.inputs, seen)
        found = RULES[type(part)](inner, part, x, *own)
        made.append(list(found))
    (forward, *forward_states), (backward, *backward_states) = made
    tracing.space.tie(forward, backward)
    axis = varying_axes(forward)[0] if varying_axes(forward) else forward.ndim - 1
    if layer.merge_mode == "concat":
        main = [np.concatenate([forward, backward], axis=axis)]
    elif merged:
        main = [forward]
    else:
        main = [forward, backward]
    return [*main, *forward_states, *backward_states]


@rule(MergeTime)
def merge_time(tracing: Tracing, operation: Any, x: Labels) -> Labels:
    """Every step holds the same channels; the axis of time may hold none."""
    if 0 in varying_axes(x):
        tracing.space.lock(x, f"'{tracing.call.path}' repeats a layer over these channels")
    return tracing.space.collapse(x.reshape(x.shape[0], -1), -1).reshape(x.shape[1:])


@rule(SplitTime)
def split_time(tracing: Tracing, operation: Any, x: Labels, original: Labels) -> Labels:
    """Every step holds what the layer inside made."""
    return x[None]
