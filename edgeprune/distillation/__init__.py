"""Giving accuracy back with gradients: a slim model learns from the original."""

from edgeprune.distillation.training_settings import Augmentation, FineTuning

__all__ = ["Augmentation", "FineTuning"]
