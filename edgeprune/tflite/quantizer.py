"""From a float `.tflite` and the ranges of its tensors to one in 8-bit integers.

This is the one place where the quantizer is called. It is TensorFlow's, with ranges of our own;
`docs/quantization.md` has the comparison with ai-edge-quantizer (now litert-quantizer) behind it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from edgeprune.tflite.flatbuffer import find_schema
from edgeprune.tflite.flatbuffer_edits import pack
from edgeprune.tflite.ranges import Range


def to_int8(
    parsed: Any,
    ranges: Mapping[int, Range],
    *,
    io: tuple[str, str] = ("float32", "float32"),
    keep_float: Collection[int] = (),
) -> bytes:
    """Quantize: weights per channel, activations per tensor.

    A tensor without a range stays in float, and so do the operators that make and read it.

    Args:
        parsed: `ModelT` of the float model; its ranges are set, nothing else is changed.
        ranges: smallest and largest value by tensor index.
        io: type of the inputs, and of the outputs.
        keep_float: tensors that stay in float.

    Returns:
        The content of the `.tflite`.
    """
    import tensorflow as tf
    from tensorflow.lite.python.convert import mlir_quantize

    schema = find_schema()
    for index, tensor in enumerate(parsed.subgraphs[0].tensors):
        tensor.quantization = schema.QuantizationParametersT()
        if index in ranges and index not in keep_float:
            low, high = ranges[index]
            if low == high:  # a tensor of zeros: any range holds them, an empty one has no scale
                high = low + 1.0
            tensor.quantization.min, tensor.quantization.max = [low], [high]
    given, answered = map(tf.as_dtype, io)
    return bytes(mlir_quantize(pack(parsed), input_data_type=given, output_data_type=answered))


def to_int16(content: bytes, samples: Iterable[Sequence[np.ndarray]]) -> bytes:
    """Quantize to 16-bit activations and 8-bit weights; TensorFlow observes the ranges itself.

    Args:
        content: of the float model, without loops: their calibration ends the process.
        samples: the inputs of each, in the order of the file, with a batch of one.

    Returns:
        The content of the `.tflite`, with inputs and outputs in float.
    """
    import tensorflow as tf
    from tensorflow.lite.python.optimize import calibrator

    made = calibrator.Calibrator(calibrator.add_intermediate_tensors(content))
    return bytes(
        made.calibrate_and_quantize(
            lambda: iter(samples), tf.float32, tf.float32, False, tf.int16, tf.int64
        )
    )
