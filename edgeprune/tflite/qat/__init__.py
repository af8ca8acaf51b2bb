"""Training that knows the integers a model will be stored in."""

from __future__ import annotations

from edgeprune.tflite.qat.qat_settings import QuantizedTraining
from edgeprune.tflite.qat.quantized_training import Trained, train_for_int8

__all__ = ["QuantizedTraining", "Trained", "train_for_int8"]
