"""Keras to `.tflite`, in the number format the board is good at."""

from __future__ import annotations

from edgeprune.tflite.conversion_checks import CALIBRATED, IO_TYPES, SCHEMES, Samples
from edgeprune.tflite.converter import Conversion, check_operators, convert, convert_in_detail
from edgeprune.tflite.description import describe_conversion
from edgeprune.tflite.fallback import Fallback
from edgeprune.tflite.layer_errors import LayerError
from edgeprune.tflite.quantization import Quantization
from edgeprune.tflite.ranges import RANGES

__all__ = [
    "CALIBRATED",
    "IO_TYPES",
    "RANGES",
    "SCHEMES",
    "Conversion",
    "Fallback",
    "LayerError",
    "Quantization",
    "Samples",
    "check_operators",
    "convert",
    "convert_in_detail",
    "describe_conversion",
]
