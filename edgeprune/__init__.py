"""Smaller, quantized, proven networks from trained Keras CNNs.

Public names load on first use: `import edgeprune` imports neither Keras nor TensorFlow.
"""

from __future__ import annotations

import warnings
from importlib import import_module
from typing import TYPE_CHECKING, Any

from edgeprune.errors import (
    BenchmarkError,
    BudgetError,
    ClassError,
    ConversionError,
    DataError,
    EdgepruneError,
    EquivalenceError,
    ModelError,
    PlanError,
)

if TYPE_CHECKING:
    from edgeprune.benchmarking import Measurement, bench
    from edgeprune.building import build
    from edgeprune.cost.budgets import Budget
    from edgeprune.data import Data
    from edgeprune.distillation import Augmentation, Training
    from edgeprune.distillation.fine_tuning import fine_tune
    from edgeprune.loading import ModelFile, load_model
    from edgeprune.pruning.one_shot import prune
    from edgeprune.pruning.pruning_settings import Pruning
    from edgeprune.pruning.rounds import prune_in_rounds
    from edgeprune.support.progress import showing
    from edgeprune.surgery.plan import Plan
    from edgeprune.tflite import Quantization, convert
    from edgeprune.tflite.export_settings import Export
    from edgeprune.tracing.groups import find_groups
    from edgeprune.tracing.rules import rule

__version__ = "0.2.0.dev0"

_MODULES = {
    "Augmentation": "edgeprune.distillation",
    "Budget": "edgeprune.cost.budgets",
    "Data": "edgeprune.data",
    "Export": "edgeprune.tflite.export_settings",
    "Measurement": "edgeprune.benchmarking",
    "ModelFile": "edgeprune.loading",
    "Plan": "edgeprune.surgery.plan",
    "Pruning": "edgeprune.pruning.pruning_settings",
    "Quantization": "edgeprune.tflite",
    "Training": "edgeprune.distillation",
    "bench": "edgeprune.benchmarking",
    "build": "edgeprune.building",
    "convert": "edgeprune.tflite",
    "find_groups": "edgeprune.tracing.groups",
    "fine_tune": "edgeprune.distillation.fine_tuning",
    "load_model": "edgeprune.loading",
    "prune": "edgeprune.pruning.one_shot",
    "prune_in_rounds": "edgeprune.pruning.rounds",
    "rule": "edgeprune.tracing.rules",
    "showing": "edgeprune.support.progress",
}
_RENAMED = {"FineTuning": "Training"}

__all__ = [
    "Augmentation",
    "BenchmarkError",
    "Budget",
    "BudgetError",
    "ClassError",
    "ConversionError",
    "Data",
    "DataError",
    "EdgepruneError",
    "EquivalenceError",
    "Export",
    "Measurement",
    "ModelError",
    "ModelFile",
    "Plan",
    "PlanError",
    "Pruning",
    "Quantization",
    "Training",
    "__version__",
    "bench",
    "build",
    "convert",
    "find_groups",
    "fine_tune",
    "load_model",
    "prune",
    "prune_in_rounds",
    "rule",
    "showing",
]


def __getattr__(name: str) -> Any:
    if name in _RENAMED:
        new = _RENAMED[name]
        warnings.warn(f"edgeprune.{name} is now edgeprune.{new}.", DeprecationWarning, stacklevel=2)
        return __getattr__(new)
    if name not in _MODULES:
        raise AttributeError(f"module 'edgeprune' has no attribute '{name}'")
    value = getattr(import_module(_MODULES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
