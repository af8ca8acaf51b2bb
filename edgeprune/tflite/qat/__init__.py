"""Training that knows the integers a model will be stored in."""

from __future__ import annotations

from edgeprune.tflite.qat.qat_settings import QuantizedTraining

__all__ = ["QuantizedTraining"]
