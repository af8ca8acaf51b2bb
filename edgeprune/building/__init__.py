"""The main job: a trained model and samples in; a smaller, quantized, proven `.tflite` out."""

from __future__ import annotations

from edgeprune.building.job import COMMAND, DEFAULT_TARGET, Built, build

__all__ = ["COMMAND", "DEFAULT_TARGET", "Built", "build"]
