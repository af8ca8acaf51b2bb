"""Smaller, quantized, proven networks from trained Keras CNNs.

Public names load on first use: `import edgeprune` imports neither Keras nor TensorFlow.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgeprune.benchmarking import bench
    from edgeprune.building import build
    from edgeprune.cost.budgets import Budget
    from edgeprune.distillation import Augmentation, FineTuning
    from edgeprune.distillation.fine_tuning import fine_tune
    from edgeprune.loading import load_model
    from edgeprune.pruning.gathering import prune_with_gathers
    from edgeprune.pruning.pruning import prune
    from edgeprune.pruning.rounds import prune_in_rounds
    from edgeprune.surgery.plan import Plan
    from edgeprune.tflite import convert
    from edgeprune.tracing.groups import find_groups
    from edgeprune.tracing.rules import rule

__version__ = "0.1.0"

__all__ = [
    "Augmentation",
    "Budget",
    "FineTuning",
    "Plan",
    "__version__",
    "bench",
    "build",
    "convert",
    "find_groups",
    "fine_tune",
    "load_model",
    "prune",
    "prune_in_rounds",
    "prune_with_gathers",
    "rule",
]

_MODULES = {
    "Augmentation": "edgeprune.distillation",
    "Budget": "edgeprune.cost.budgets",
    "FineTuning": "edgeprune.distillation",
    "Plan": "edgeprune.surgery.plan",
    "bench": "edgeprune.benchmarking",
    "build": "edgeprune.building",
    "convert": "edgeprune.tflite",
    "find_groups": "edgeprune.tracing.groups",
    "fine_tune": "edgeprune.distillation.fine_tuning",
    "load_model": "edgeprune.loading",
    "prune": "edgeprune.pruning.pruning",
    "prune_in_rounds": "edgeprune.pruning.rounds",
    "prune_with_gathers": "edgeprune.pruning.gathering",
    "rule": "edgeprune.tracing.rules",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'edgeprune' has no attribute '{name}'")
    value = getattr(import_module(_MODULES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
