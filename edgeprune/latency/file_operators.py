"""The operators of a `.tflite` file, read from its flatbuffer; nothing is executed."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from edgeprune.errors import ModelError
from edgeprune.latency.operators import Kind, Operator
from edgeprune.support.files import read_tflite
from edgeprune.tflite.flatbuffer import operator_kind, parse_model

_MOVEMENT = frozenset("RESHAPE SQUEEZE EXPAND_DIMS SHAPE".split())
_VARIABLES = frozenset("READ_VARIABLE VAR_HANDLE CALL_ONCE ASSIGN_VARIABLE".split())


def read_operators(path: str | os.PathLike[str]) -> tuple[Operator, ...]:
    """Return the operators of a `.tflite` file in their order.

    Needs no TensorFlow where ai-edge-litert is installed.

    Args:
        path: of the file.

    Returns:
        The operators of the main graph, as they run at batch one. Constants are weights, everything
        else is an activation.

    Raises:
        ModelError: the file cannot be read.
        EdgepruneError: no consumer is installed.

    Example:
        >>> sum(operator.macs for operator in read_operators("model.tflite"))   # doctest: +SKIP
        7489664.0
    """
    content = read_tflite(path, ModelError)
    name = f"'{os.fspath(path)}'"
    if content[4:8] != b"TFL3":
        raise ModelError(f"{name} is not a TensorFlow Lite model: expected a .tflite file.")
    return parse_operators(content, name)


def parse_operators(content: bytes, name: str = "the model") -> tuple[Operator, ...]:
    """Return the operators of the content of a `.tflite` file.

    Args:
        content: a TensorFlow Lite flatbuffer, files may be attached.
        name: how to call it in the message.

    Raises:
        ModelError: the flatbuffer is damaged.
        EdgepruneError: no consumer is installed.
    """
    model = parse_model(content, name)
    graph = model.subgraphs[0]
    shapes = [tuple(_listed(tensor.shape)) for tensor in graph.tensors]
    constant = {
        index
        for index, tensor in enumerate(graph.tensors)
        if model.buffers[tensor.buffer].data is not None and len(model.buffers[tensor.buffer].data)
    }
    found = []
    for operator in graph.operators:
        kind = operator_kind(model, operator)
        inputs, outputs = _listed(operator.inputs), _listed(operator.outputs)
        if inputs and all(index < 0 or index in constant for index in inputs):
            # Weights in float16 are widened once, when the model is opened.
            constant.update(outputs)
            continue
        if kind in _VARIABLES:
            continue
        given = {index: shapes[index] for index in inputs if index >= 0 and index not in constant}
        kernel = shapes[inputs[1]] if len(inputs) > 1 and inputs[1] in constant else None
        found.append(_describe(kind, given, kernel, [shapes[index] for index in outputs]))
    return tuple(found)


def _listed(values: Any) -> list[int]:
    return [] if values is None else [int(value) for value in values]


def _describe(
    name: str,
    given: Mapping[int, tuple[int, ...]],
    kernel: tuple[int, ...] | None,
    made: Sequence[tuple[int, ...]],
) -> Operator:
    read, written = (float(sum(map(_volume, shapes))) for shapes in (given.values(), made))
    output = made[0] if made else ()
    channels = float(output[-1]) if output else 1.0
    positions = _volume(output) / channels if channels else 0.0
    kind: Kind = "movement" if name in _MOVEMENT else "elementwise"
    if kernel is None or name not in (
        "CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV"
    ):  # fmt: skip
        return Operator(kind, positions, 0, 0, 1, read, written, name)
    taps = float(np.prod(kernel[1:3])) if len(kernel) == 4 else 1.0
    if name == "DEPTHWISE_CONV_2D":
        return Operator("depthwise", positions, channels, taps, taps, read, written, name)
    if name == "FULLY_CONNECTED":
        depth = float(kernel[1])
        return Operator("fully_connected", positions, channels, depth, 1, read, written, name)
    depth = taps * kernel[3]
    if name == "TRANSPOSE_CONV":  # the kernel is used at every input position
        positions = next((_volume(shape) / shape[-1] for shape in given.values()), 1.0)
    kind = "pointwise" if taps == 1 else "convolution"
    return Operator(kind, positions, channels, depth, taps, read, written, name)


def _volume(shape: Sequence[int]) -> float:
    return float(np.prod(np.maximum(shape, 1))) if len(shape) else 1.0
