"""Giving accuracy back with gradients: a slim model learns from the original."""

from edgeprune.tuning.settings import Augmentation, FineTuning

__all__ = ["Augmentation", "FineTuning"]
