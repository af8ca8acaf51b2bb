"""From a float `.tflite` and the ranges of its tensors to one in integers.

This is the one place where the quantizer is called. It is TensorFlow's, with ranges of our own;
`docs/quantization.md` has the comparison with ai-edge-quantizer (now litert-quantizer) behind it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

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

    given, answered = map(tf.as_dtype, io)
    content = _with_ranges(parsed, ranges, keep_float)
    return bytes(mlir_quantize(content, input_data_type=given, output_data_type=answered))


def to_int16(parsed: Any, ranges: Mapping[int, Range]) -> bytes:
    """Quantize to 16-bit activations and 8-bit weights.

    Args:
        parsed: `ModelT` of the float model; its ranges are set, nothing else is changed.
        ranges: smallest and largest value by tensor index.

    Returns:
        The content of the `.tflite`, with inputs and outputs in float.
    """
    import tensorflow as tf
    from tensorflow.lite.python.optimize.calibrator import Calibrator

    # Without samples it takes the ranges as they are: its own of zeros have no scale.
    return bytes(
        Calibrator(_with_ranges(parsed, ranges)).calibrate_and_quantize(
            lambda: iter(()), tf.float32, tf.float32, False, tf.int16, tf.int64
        )
    )


def _with_ranges(
    parsed: Any, ranges: Mapping[int, Range], keep_float: Collection[int] = ()
) -> bytes:
    schema = find_schema()
    for index, tensor in enumerate(parsed.subgraphs[0].tensors):
        tensor.quantization = schema.QuantizationParametersT()
        if index in ranges and index not in keep_float:
            low, high = ranges[index]
            if low == high:  # a tensor of zeros: any range holds them, an empty one has no scale
                high = low + 1.0
            tensor.quantization.min, tensor.quantization.max = [low], [high]
    return pack(parsed)
