"""Which operators the Edge TPU has, under which conditions, and what to take in place of others.

After the table "TensorFlow models on the Edge TPU" of coral.ai and what its compiler 16 was seen to
refuse. A condition is a function from an operator in its model to what is wrong, or nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgeprune.tflite.flatbuffer import operator_kind

MOST_SOFTMAX_VALUES = 16_000


@dataclass(frozen=True, eq=False)
class Node:
    """One operator with what is around it.

    Attributes:
        parsed: `ModelT` of the TFLite schema.
        operator: `OperatorT`.
        inputs: its tensors, without the optional ones that are left out.
        outputs: its tensors.
    """

    parsed: Any
    operator: Any
    inputs: tuple[Any, ...]
    outputs: tuple[Any, ...]

    @property
    def version(self) -> int:
        """Version of the operator in the schema."""
        return int(self.parsed.operatorCodes[self.operator.opcodeIndex].version)

    @property
    def kind(self) -> str:
        """Name of the operator in the schema."""
        return operator_kind(self.parsed, self.operator)

    def constant(self, position: int) -> np.ndarray | None:
        """Return the whole numbers of a constant input, such as axes; `None` if computed."""
        if position >= len(self.inputs):
            return None
        data = self.parsed.buffers[self.inputs[position].buffer].data
        return None if data is None else np.asarray(data, np.uint8).view(np.int32)


Condition = Callable[[Node], str]


def _anything(node: Node) -> str:
    return ""


def _equal_dilation(node: Node) -> str:
    options = node.operator.builtinOptions
    if options.dilationWFactor != options.dilationHFactor:
        return "dilation differs between height and width"
    return ""


def _no_activation(node: Node) -> str:
    return (
        "activation fused into it" if node.operator.builtinOptions.fusedActivationFunction else ""
    )


def _not_the_batch(node: Node) -> str:
    axes, rank = node.constant(1), len(node.inputs[0].shape)
    if axes is None:
        return "axes are computed while running"
    return "works along the batch" if rank > 1 and 0 in axes % rank else ""


def _mean(node: Node) -> str:
    axes, shape = node.constant(1), node.inputs[0].shape
    if axes is None:
        return "axes are computed while running"
    wrong = [axis for axis in axes % len(shape) if shape[axis] > 1 and axis == len(shape) - 1]
    return "averages over channels" if wrong and len(shape) > 2 else _not_the_batch(node)


def _pad(node: Node) -> str:
    amounts = node.constant(1)
    if amounts is None:
        return "padding is computed while running"
    rank = len(node.inputs[0].shape)
    return "pads the batch" if rank == 4 and amounts[:2].any() else ""


def _softmax(node: Node) -> str:
    *outer, values = (int(size) for size in node.inputs[0].shape)
    if int(np.prod(outer)) > 1:
        return "softmax over a map; one vector is allowed"
    if values > MOST_SOFTMAX_VALUES:
        return f"softmax over {values:,} values; {MOST_SOFTMAX_VALUES:,} are allowed"
    return ""


def _dense(node: Node) -> str:
    rows = int(np.prod(node.outputs[0].shape[:-1]))
    return f"{rows} rows at once; one vector is allowed" if rows > 1 else ""


def _strided_slice(node: Node) -> str:
    strides, options = node.constant(3), node.operator.builtinOptions
    if strides is None or (strides != 1).any():
        return "stride is not 1"
    if options.ellipsisMask or options.newAxisMask:
        return "slice with a new axis or an ellipsis"
    return ""


def _prelu(node: Node) -> str:
    alpha = node.inputs[1].shape
    return "alpha differs between positions" if int(np.prod(alpha[:-1])) > 1 else ""


SUPPORTED: dict[str, Condition] = {
    **dict.fromkeys(
        "ADD EXPAND_DIMS L2_NORMALIZATION LOGISTIC MAXIMUM MINIMUM MUL PACK QUANTIZE RELU RELU6 "
        "RELU_N1_TO_1 RESHAPE RESIZE_BILINEAR RESIZE_NEAREST_NEIGHBOR RSQRT SLICE SPACE_TO_DEPTH "
        "SPLIT SQUEEZE SUB SQUARED_DIFFERENCE TANH TRANSPOSE TRANSPOSE_CONV "
        "UNIDIRECTIONAL_SEQUENCE_LSTM".split(),
        _anything,
    ),
    "AVERAGE_POOL_2D": _no_activation,
    "CONCATENATION": _no_activation,
    "CONV_2D": _equal_dilation,
    "DEPTHWISE_CONV_2D": _equal_dilation,
    "FULLY_CONNECTED": _dense,
    "MAX_POOL_2D": _no_activation,
    "MEAN": _mean,
    "PAD": _pad,
    "PADV2": _pad,
    "PRELU": _prelu,
    "REDUCE_MAX": _not_the_batch,
    "REDUCE_MIN": _not_the_batch,
    "SOFTMAX": _softmax,
    "STRIDED_SLICE": _strided_slice,
    "SUM": _not_the_batch,
}

NEWEST_VERSIONS = {
    "CONV_2D": 5,
    "EXP": 1,
    "QUANTIZE": 2,
    "TRANSPOSE_CONV": 3,
    **dict.fromkeys(("RESHAPE", "PRELU"), 1),
    **dict.fromkeys(("L2_NORMALIZATION", "RSQRT", "SPACE_TO_DEPTH", "SQUEEZE", "SUM"), 2),
    **dict.fromkeys(
        "AVERAGE_POOL_2D CONCATENATION LOGISTIC MAX_POOL_2D MEAN PACK REDUCE_MAX REDUCE_MIN RELU "
        "RELU6 SOFTMAX TANH UNIDIRECTIONAL_SEQUENCE_LSTM".split(),
        3,
    ),
    **dict.fromkeys(
        "ADD MAXIMUM MINIMUM PAD PADV2 RESIZE_BILINEAR RESIZE_NEAREST_NEIGHBOR SPLIT".split(), 4
    ),
    **dict.fromkeys(("DEQUANTIZE", "MUL", "SLICE", "SUB", "TRANSPOSE"), 5),
    **dict.fromkeys(("DEPTHWISE_CONV_2D", "STRIDED_SLICE"), 6),
    "FULLY_CONNECTED": 9,
}
"""The newest version of each operator that the compiler may know; with one that is newer it refuses
the whole file. The first four were seen to be refused by its version 16 in the next version
(google-coral/edgetpu, issues 631, 879 and 845; libedgetpu, issue 71). Of the others this is what
TensorFlow 2.9 knew, which is younger than the compiler: it may know less."""

CHANGE_OF_VERSION = {
    "CONV_2D": "groups=1, or a DepthwiseConv2D: the version is that of a convolution in groups",
    "EXP": "convert with edgeprune, which writes it in other operators, or take it on the CPU",
    "FULLY_CONNECTED": "int8 in place of dynamic range, with representative samples",
    "QUANTIZE": "converter._experimental_disable_per_channel = True: the version is that of a "
    "conversion with one scale per channel",
    "TRANSPOSE_CONV": "convert with edgeprune, or with converter.experimental_new_converter = "
    "False where TensorFlow still has it: the version is that of an activation fused into it",
}
CHANGE_OF_VERSION_OTHERWISE = "convert with an older TensorFlow"

CHANGES = {
    "HARD_SWISH": "activation relu6 in place of hard-swish",
    "LEAKY_RELU": "ReLU or PReLU in place of LeakyReLU",
    "ELU": "ReLU in place of ELU",
    "GELU": "ReLU in place of GELU",
    "ARG_MAX": "end the model before ArgMax and take the maximum on the CPU",
    "GATHER": "slices or a convolution in place of gathering by index",
    "GATHER_ND": "slices or a convolution in place of gathering by index",
    "FLOOR_MOD": "do the indexing outside the model",
    "BATCH_MATMUL": "convolutions in place of attention or matrix products of activations",
    "DIV": "multiply by the reciprocal, if it is constant",
    "POW": "multiply the tensor with itself",
    "SQUARE": "multiply the tensor with itself",
    "MIRROR_PAD": "zero padding in place of reflection",
    "TILE": "UpSampling2D or concatenation in place of tiling",
    "CUMSUM": "do it outside the model",
}
CHANGE_OTHERWISE = "replace the layer, or end the model before it"
CHANGE_OF_TYPE = "int8: edgeprune convert --quantize int8"
CHANGE_OF_RANK = "at most height, width and channels above 1: reshape, or fewer axes"
CHANGE_OF_CONDITION = {
    "FULLY_CONNECTED": "a 1x1 convolution in place of a Dense layer on several rows",
    "SOFTMAX": "end the model before the softmax and take it on the CPU",
    "STRIDED_SLICE": "pooling or a strided convolution in place of strided slicing",
    "MEAN": "average over height and width, as GlobalAveragePooling2D does",
    "CONV_2D": "the same dilation in height and width",
    "DEPTHWISE_CONV_2D": "the same dilation in height and width",
    "PRELU": "PReLU(shared_axes=[1, 2])",
}
