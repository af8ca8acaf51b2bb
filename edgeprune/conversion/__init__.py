"""Keras to `.tflite`, in the number format the board is good at."""

from __future__ import annotations

from edgeprune.conversion.checks import IO_TYPES, SCHEMES, Samples
from edgeprune.conversion.converter import convert

__all__ = ["IO_TYPES", "SCHEMES", "Samples", "convert"]
