"""The main job: a trained model and images in; a smaller, quantized, proven `.tflite` out."""

from edgeprune.building.material import Amounts
from edgeprune.building.stages import Built, build

__all__ = ["Amounts", "Built", "build"]
