"""Giving accuracy back with gradients: a pruned model learns from the original."""

from edgeprune.distillation.training_settings import Augmentation, Training

__all__ = ["Augmentation", "Training"]
