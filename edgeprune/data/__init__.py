"""Labelled samples from folders, files, names and arrays; chosen, read and scaled.

dataset = load_dataset("photos/", input_shape=(224, 224, 3))
classes = find_classes("cat,dog,fox", dataset.classes)
parts = assign_samples(dataset, classes)
samples = read_samples(dataset, parts.calibration, parse_preprocess("unit"))
"""

from __future__ import annotations

from edgeprune.data.assignment import Assignment, assign_samples
from edgeprune.data.classes import find_classes
from edgeprune.data.data_settings import Data
from edgeprune.data.dataset import Dataset, Samples, read_samples
from edgeprune.data.datasets import load_dataset
from edgeprune.data.plausibility import warn_better_scaling, warn_near_chance, warn_shared_samples
from edgeprune.data.preprocessing import Preprocess, parse_preprocess

__all__ = [
    "Assignment",
    "Data",
    "Dataset",
    "Preprocess",
    "Samples",
    "assign_samples",
    "find_classes",
    "load_dataset",
    "parse_preprocess",
    "read_samples",
    "warn_better_scaling",
    "warn_near_chance",
    "warn_shared_samples",
]
