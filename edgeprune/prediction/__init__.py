"""What a network will cost on a board that is not at hand, from its operators. Needs NumPy only."""

from __future__ import annotations

from edgeprune.prediction.deployments import Deployment, deploy
from edgeprune.prediction.features import FEATURES, Kernels, count_features
from edgeprune.prediction.files import parse_operators, read_operators
from edgeprune.prediction.operators import Operator, Workload
from edgeprune.prediction.predictor import Prediction, Predictor, read_predictor

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
