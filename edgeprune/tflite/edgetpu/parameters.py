"""How much of the Edge TPU's memory the parameters of a model take.

Beyond it they are sent again at every inference, which on USB takes longer than computing.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from edgeprune.boards.targets import PARAMETER_MEMORIES
from edgeprune.tflite.flatbuffer import operator_kind, parse_model

PARAMETER_MEMORY_BYTES = round(PARAMETER_MEMORIES["edgetpu"])
_WITH_PARAMETERS = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV", "PRELU")


def edgetpu_parameter_bytes(content: bytes) -> int:
    """Count the bytes of kernels and biases in a quantized `.tflite`.

    The compiler pads kernels to the width of its arithmetic, which is not counted. In Google's
    compiled MobileNetV1-0.25-128 it stores 566,912 bytes where 478,804 are counted, 18 % more.
    The true figure of a model is in the compiler's log.

    Args:
        content: of the file.

    Raises:
        ModelError: the file is damaged.
    """
    return count_parameter_bytes(parse_model(content))


def count_parameter_bytes(parsed: Any) -> int:
    """Count the bytes of kernels and biases in a `ModelT` of the TFLite schema."""
    subgraph = parsed.subgraphs[0]
    buffers = {
        subgraph.tensors[index].buffer
        for operator in subgraph.operators
        if operator_kind(parsed, operator) in _WITH_PARAMETERS
        for index in operator.inputs
        if index >= 0
    }
    stored = (parsed.buffers[buffer].data for buffer in buffers)
    return sum(np.asarray(data).nbytes for data in stored if data is not None)
