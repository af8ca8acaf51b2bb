"""Keras to `.tflite`, in the number format the board is good at; and what is inside such a file.

Names load on first use: who only runs or reads a file needs neither Keras nor SciPy.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgeprune.tflite.conversion_checks import CALIBRATED, IO_TYPES, SCHEMES, Samples
    from edgeprune.tflite.converter import (
        Conversion,
        check_operators,
        convert,
        convert_in_detail,
    )
    from edgeprune.tflite.convertible import Convertible
    from edgeprune.tflite.description import describe_conversion
    from edgeprune.tflite.fallback import Fallback
    from edgeprune.tflite.layer_errors import LayerError
    from edgeprune.tflite.quantization import Quantization
    from edgeprune.tflite.ranges import RANGES

_MODULES = {
    "CALIBRATED": "conversion_checks",
    "IO_TYPES": "conversion_checks",
    "RANGES": "ranges",
    "SCHEMES": "conversion_checks",
    "Conversion": "converter",
    "Convertible": "convertible",
    "Fallback": "fallback",
    "LayerError": "layer_errors",
    "Quantization": "quantization",
    "Samples": "conversion_checks",
    "check_operators": "converter",
    "convert": "converter",
    "convert_in_detail": "converter",
    "describe_conversion": "description",
}

__all__ = [
    "CALIBRATED",
    "IO_TYPES",
    "RANGES",
    "SCHEMES",
    "Conversion",
    "Convertible",
    "Fallback",
    "LayerError",
    "Quantization",
    "Samples",
    "check_operators",
    "convert",
    "convert_in_detail",
    "describe_conversion",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'edgeprune.tflite' has no attribute '{name}'")
    return getattr(import_module(f"edgeprune.tflite.{_MODULES[name]}"), name)
