"""Smaller, quantized, proven networks from trained Keras CNNs.

Public names load on first use: `import edgeprune` imports neither Keras nor TensorFlow.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgeprune.benchmarking import bench
    from edgeprune.budgets import Budget
    from edgeprune.building import build
    from edgeprune.conversion import convert
    from edgeprune.gathering import prune_with_gathers
    from edgeprune.groups import find_groups
    from edgeprune.iteration import prune_in_rounds
    from edgeprune.loading import load_model
    from edgeprune.plan import Plan
    from edgeprune.pruning import prune
    from edgeprune.rules import rule
    from edgeprune.tuning import Augmentation, FineTuning
    from edgeprune.tuning.fine_tuning import fine_tune

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
    "Augmentation": "edgeprune.tuning",
    "Budget": "edgeprune.budgets",
    "FineTuning": "edgeprune.tuning",
    "Plan": "edgeprune.plan",
    "bench": "edgeprune.benchmarking",
    "build": "edgeprune.building",
    "convert": "edgeprune.conversion",
    "find_groups": "edgeprune.groups",
    "fine_tune": "edgeprune.tuning.fine_tuning",
    "load_model": "edgeprune.loading",
    "prune": "edgeprune.pruning",
    "prune_in_rounds": "edgeprune.iteration",
    "prune_with_gathers": "edgeprune.gathering",
    "rule": "edgeprune.rules",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'edgeprune' has no attribute '{name}'")
    value = getattr(import_module(_MODULES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
