"""What a branch leaves behind that keeps no channel: a constant per channel.

A layer that reads no channel gives its bias everywhere, without a border, and what follows turns
that into another constant. Where it meets what still depends on the input, a layer of its own adds
it or multiplies with it: a BatchNormalization that only shifts or scales.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from edgeprune.errors import PlanError
from edgeprune.tracing.graph import Call, fill_in
from edgeprune.tracing.groups import EXAMPLE_SIZE, Groups
from edgeprune.tracing.inference import full_float32
from edgeprune.tracing.replica import Detour, set_weights
from edgeprune.tracing.vanishing import Vanished

EPSILON = 2.0**-10
"""With a variance of one less that, both exact in float32, the layer divides by one."""
FIXED = 1.0
"""Momentum of a layer whose statistics nothing moves: by this it is told from a user's."""
UNEVEN = 1e-5


@full_float32()
def evaluate_constants(
    groups: Groups, vanished: Vanished, offsets: Mapping[str, np.ndarray] | None = None
) -> dict[int, np.ndarray]:
    """Return the constants per channel that a model without some groups computes.

    Args:
        groups: of the whole model, which is in their graph.
        vanished: what is gone.
        offsets: path of a layer that has lost all its inputs -> what is added to its output.

    Returns:
        Number of a constant tensor -> `(channels,)`, the channels being those of the whole model.

    Raises:
        PlanError: one differs between places.
    """
    values: dict[int, Any] = {}
    for call in groups.graph.calls:
        if not all(ref.number in vanished.constants for ref in call.outputs):
            continue
        operation: Any = call.operation
        if all(ref.number in values for ref in call.inputs):
            args, kwargs = fill_in(call, values)
            made = operation(*args, **kwargs)
        else:
            (ref,) = call.inputs
            shape = (1, *(size or EXAMPLE_SIZE for size in ref.shape[1:]))
            made = operation(keras.ops.zeros(shape, ref.dtype))
            if offsets and call.path in offsets:
                made = _with_offset(operation, made, offsets[call.path])
        values.update(
            zip((ref.number for ref in call.outputs), keras.tree.flatten(made), strict=True)
        )
    return {number: _per_channel(value) for number, value in values.items()}


def _with_offset(layer: Any, made: Any, offset: np.ndarray) -> Any:
    """Return what a layer that reads nothing gives with another bias."""
    before = keras.ops.zeros_like(made) + keras.ops.convert_to_tensor(offset.astype(np.float32))
    if layer.use_bias:
        before = before + layer.bias
    return layer.activation(before)


def _per_channel(value: Any) -> np.ndarray:
    rows = keras.ops.convert_to_numpy(value).astype(np.float64)
    rows = rows.reshape(-1, rows.shape[-1])
    if np.ptp(rows, axis=0).max(initial=0.0) > UNEVEN * (1 + np.abs(rows).max(initial=0.0)):
        raise PlanError("What an emptied branch leaves differs between places: it must stay.")
    return np.asarray(rows[0])


def describe_constants(
    groups: Groups, vanished: Vanished, constants: Mapping[int, np.ndarray]
) -> dict[tuple[str, int], tuple[str, np.ndarray]]:
    """Return, for every call that loses constants, the layer that makes up for it.

    Returns:
        (path, which of its calls) -> path of the layer, and what it adds to or multiplies with
        each channel of the call's output, `(channels,)`.
    """
    found = {}
    for call, lost in _find_lossy_calls(groups, vanished):
        known = [constants[ref.number] for ref in lost if ref.number in constants]
        if not known:
            continue
        channels = groups.tensors[call.outputs[0].number].group.size
        combine = np.multiply if _multiplies(call) else np.add
        whole = combine.reduce([np.broadcast_to(value, (channels,)) for value in known])
        found[call.path, call.position] = (name_layer(groups, vanished, call), whole)
    return found


def list_added_constants(groups: Groups, vanished: Vanished) -> frozenset[str]:
    """Return the paths of the layers that add what emptied branches leave.

    Args:
        groups: of the whole model.
        vanished: what is gone.
    """
    return frozenset(
        name_layer(groups, vanished, call)
        for call, lost in _find_lossy_calls(groups, vanished)
        if not _multiplies(call) and any(ref.number in vanished.constants for ref in lost)
    )


def name_layer(groups: Groups, vanished: Vanished, call: Call) -> str:
    """Return the path of the layer that makes up for what a call loses.

    It has the name of the call's layer where that is gone with its only call.

    Args:
        groups: of the whole model.
        vanished: what is gone.
        call: of the whole model.
    """
    positions = {other.position for other in groups.graph.calls if other.path == call.path}
    if len(positions) > 1:
        return f"{call.path}_constant_{call.position}"
    alone = len(vanished.remaining[call.path, call.position]) == 1
    return call.path if alone else f"{call.path}_constant"


def _find_lossy_calls(groups: Groups, vanished: Vanished) -> list[tuple[Call, list[Any]]]:
    found = []
    for call in groups.graph.calls:
        stay = vanished.remaining.get((call.path, call.position))
        if stay is not None and call.outputs[0].number in vanished.computed:
            lost = [ref for index, ref in enumerate(call.inputs) if index not in stay]
            found.append((call, lost))
    return found


def _multiplies(call: Call) -> bool:
    return type(call.operation).__name__ == "Multiply"


def find_detours(groups: Groups, vanished: Vanished) -> dict[tuple[str, int], Detour]:
    """Return what takes the place of the calls of a model that lose inputs or are gone.

    Args:
        groups: of the whole model.
        vanished: what is gone.
    """
    detours: dict[tuple[str, int], Detour] = {}
    alive: set[str] = set()
    around: set[str] = set()
    for call in groups.graph.calls:
        parts = call.path.split("/")[:-1]
        prefixes = {"/".join(parts[: length + 1]) for length in range(len(parts))}
        around |= prefixes
        if any(ref.number in vanished.computed for ref in call.outputs):
            alive |= prefixes
        else:
            detours[call.path, call.position] = Detour()
    detours.update(dict.fromkeys(((prefix, 0) for prefix in around - alive), Detour()))
    constants = describe_constants(groups, vanished, evaluate_constants(groups, vanished))
    for call, _ in _find_lossy_calls(groups, vanished):
        key = call.path, call.position
        then: tuple[keras.Layer, ...] = ()
        if key in constants:
            then = (make_constant_layer(call, constants[key][0].rsplit("/", 1)[-1]),)
        detours[key] = Detour(vanished.remaining[key], then)
    return detours


def make_constant_layer(call: Call, name: str) -> keras.Layer:
    """Return a layer that adds to every channel, or multiplies it with, a number of its own.

    Args:
        call: of the addition or multiplication whose constant it takes over.
        name: of the layer.
    """
    scales = _multiplies(call)
    policy = getattr(call.operation, "dtype_policy", None)
    return keras.layers.BatchNormalization(
        momentum=FIXED, epsilon=EPSILON, center=not scales, scale=scales, trainable=False,
        name=name, dtype=policy,
    )  # fmt: skip


def set_constant(layer: Any, constant: np.ndarray) -> None:
    """Let a layer of `make_constant_layer` add or multiply with these numbers, `(channels,)`."""
    zeros = np.zeros(constant.shape, np.float32)
    set_weights(layer, [constant.astype(np.float32), zeros, zeros + np.float32(1 - EPSILON)])


def is_constant_layer(layer: Any) -> bool:
    """Whether a layer is one of `make_constant_layer`: its statistics are never to be measured.

    A user's layer may have statistics that nothing moves as well, but not these.
    """
    if type(layer) is not keras.layers.BatchNormalization or layer.momentum != FIXED:
        return False
    mean, variance = map(keras.ops.convert_to_numpy, (layer.moving_mean, layer.moving_variance))
    return layer.epsilon == EPSILON and not mean.any() and bool((variance == 1 - EPSILON).all())
