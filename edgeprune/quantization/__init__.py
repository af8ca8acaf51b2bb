"""Training that knows the integers a model will be stored in."""

from __future__ import annotations

from edgeprune.quantization.settings import Training
from edgeprune.quantization.training import Trained, train_for_int8

__all__ = ["Trained", "Training", "train_for_int8"]
