"""Keras to `.tflite`, in the number format the board is good at."""

from __future__ import annotations

from edgeprune.conversion.checks import CALIBRATED, IO_TYPES, SCHEMES, Samples
from edgeprune.conversion.converter import Conversion, check_operators, convert, convert_in_detail
from edgeprune.conversion.description import describe_conversion
from edgeprune.conversion.fallback import Fallback
from edgeprune.conversion.layer_errors import LayerError
from edgeprune.conversion.ranges import RANGES
from edgeprune.conversion.settings import Quantization

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
