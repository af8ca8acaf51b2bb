"""What the integers of a quantized input mean, changed after conversion."""

from __future__ import annotations

from typing import Any

import numpy as np

from edgeprune.tflite.flatbuffer import operator_kind, type_name


def set_input_range(parsed: Any, scale: float, zero_point: int) -> None:
    """Say what the bytes of the input mean: real = (byte - zero_point) * scale.

    A QUANTIZE operator turns the bytes into the int8 numbers that calibration chose. Where only
    convolutions and dense layers read these, they get the resolution of the bytes, and the operator
    is left with a shift by 128: every byte is exact.

    Args:
        parsed: `ModelT` of the TFLite schema with one uint8 input, changed in place.
        scale: of the bytes.
        zero_point: the byte that stands for 0.
    """
    subgraph = parsed.subgraphs[0]
    (entrance,) = subgraph.inputs
    _set_quantization(subgraph.tensors[entrance], scale, zero_point)
    consumers = [operator for operator in subgraph.operators if entrance in operator.inputs]
    if len(consumers) != 1 or operator_kind(parsed, consumers[0]) != "QUANTIZE":
        return
    inner = consumers[0].outputs[0]
    layers = [operator for operator in subgraph.operators if inner in operator.inputs]
    if inner in subgraph.outputs or not all(_adds_bias(parsed, layer, inner) for layer in layers):
        return
    ratio = float(subgraph.tensors[inner].quantization.scale[0]) / scale
    _set_quantization(subgraph.tensors[inner], scale, zero_point - 128)
    changed: set[int] = set()
    for layer in layers:
        if len(layer.inputs) > 2 and layer.inputs[2] >= 0 and layer.inputs[2] not in changed:
            changed.add(layer.inputs[2])
            _rescale_bias(parsed, subgraph.tensors[layer.inputs[2]], ratio)


def _set_quantization(tensor: Any, scale: float, zero_point: int) -> None:
    quantization = tensor.quantization
    quantization.scale = np.asarray([scale], np.float32)
    quantization.zeroPoint = np.asarray([zero_point], np.int64)
    quantization.min = quantization.max = None


def _adds_bias(parsed: Any, operator: Any, data: int) -> bool:
    """Tell whether an operator is a weighted sum of this tensor, with constant int32 bias."""
    if operator_kind(parsed, operator) not in ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"):
        return False
    if operator.inputs[0] != data or data in operator.inputs[1:]:
        return False
    if len(operator.inputs) < 3 or operator.inputs[2] < 0:
        return True
    bias = parsed.subgraphs[0].tensors[operator.inputs[2]]
    others = [
        other
        for other in parsed.subgraphs[0].operators
        if operator.inputs[2] in other.inputs and other.inputs[0] != data
    ]
    return (
        type_name(bias) == "int32" and parsed.buffers[bias.buffer].data is not None and not others
    )


def _rescale_bias(parsed: Any, bias: Any, ratio: float) -> None:
    """Keep the real value of a bias whose unit, input scale x kernel scale, has changed."""
    stored = np.asarray(parsed.buffers[bias.buffer].data, np.uint8).view(np.int32)
    limits = np.iinfo(np.int32)
    integers = np.clip(np.rint(stored * ratio), limits.min, limits.max).astype(np.int32)
    buffer = type(parsed.buffers[bias.buffer])()  # buffers may be shared
    buffer.data = integers.view(np.uint8)
    parsed.buffers.append(buffer)
    bias.buffer = len(parsed.buffers) - 1
    bias.quantization.scale = np.float32(np.asarray(bias.quantization.scale) / ratio)
