"""What the Edge TPU of the Coral boards can run, and what its compiler says."""

from __future__ import annotations

from edgeprune.tflite.edgetpu.chip_compatibility import ChipCompatibility, Obstacle, examine
from edgeprune.tflite.edgetpu.compiler import (
    Compilation,
    compile_here,
    compile_model,
    compile_together,
    compiler_command,
    find_compiler,
)
from edgeprune.tflite.edgetpu.compiler_log import CompilerLog, parse_log
from edgeprune.tflite.edgetpu.parameters import PARAMETER_MEMORY_BYTES, edgetpu_parameter_bytes

__all__ = [
    "PARAMETER_MEMORY_BYTES",
    "ChipCompatibility",
    "Compilation",
    "CompilerLog",
    "Obstacle",
    "compile_here",
    "compile_model",
    "compile_together",
    "compiler_command",
    "edgetpu_parameter_bytes",
    "examine",
    "find_compiler",
    "is_edgetpu",
    "parse_log",
]


def is_edgetpu(delegate: str | None) -> bool:
    """Tell whether the delegate of a target is that of the Edge TPU.

    Example:
        >>> is_edgetpu("libedgetpu.so.1"), is_edgetpu(None)
        (True, False)
    """
    return "edgetpu" in (delegate or "")
