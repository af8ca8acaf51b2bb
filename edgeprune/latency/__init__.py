"""What a network will cost on a board that is not at hand, from its operators. Needs NumPy only."""

from __future__ import annotations

from edgeprune.latency.deployments import Deployment, deploy
from edgeprune.latency.features import FEATURES, Kernels, count_features
from edgeprune.latency.file_operators import parse_operators, read_operators
from edgeprune.latency.operators import Operator, Workload
from edgeprune.latency.predictor import Prediction, Predictor, read_predictor

__all__ = [
    "FEATURES",
    "Deployment",
    "Kernels",
    "Operator",
    "Prediction",
    "Predictor",
    "Workload",
    "count_features",
    "deploy",
    "parse_operators",
    "read_operators",
    "read_predictor",
]
