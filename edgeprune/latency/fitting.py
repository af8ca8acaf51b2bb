"""Coefficients from measured latencies: non-negative least squares on the relative error.

Coefficients are times per unit of work, so none may be negative. A prior, in the same units, keeps
those apart that the measured networks cannot tell apart (all of their widths grow together): it
weighs `strength` times as much as the measurements.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np

from edgeprune.errors import BenchmarkError

DEFAULT_STRENGTH = 0.02


def fit(
    features: np.ndarray,
    latencies: np.ndarray,
    prior: np.ndarray | None = None,
    strength: float = DEFAULT_STRENGTH,
) -> np.ndarray:
    """Return the coefficients that predict the latencies with the least squared relative error.

    Args:
        features: `(networks, features)`, see `count_features`.
        latencies: `(networks,)` in ms, positive.
        prior: `(features,)` expected coefficients, positive; `None` trusts the measurements alone.
        strength: weight of the prior's relative deviations against those of all measurements.

    Returns:
        `(features,)`, none negative.

    Raises:
        BenchmarkError: there are no latencies, or some are not positive.

    Example:
        >>> features = np.array([[1.0, 1], [2, 1], [5, 1]])
        >>> fit(features, features @ [3.0, 2.0]).round(6).tolist()
        [3.0, 2.0]
    """
    from scipy.optimize import nnls

    if not latencies.size or not (latencies > 0).all():
        raise BenchmarkError(
            f"A predictor is fitted to positive latencies; got {latencies.tolist()[:5]}."
        )
    largest = features.max(axis=0)
    scale = 1 / np.where(largest > 0, largest, 1.0) if prior is None else prior
    matrix = features * scale / latencies[:, None]
    wanted = np.ones(len(latencies))
    if prior is not None:
        weight = np.sqrt(strength * len(latencies))
        matrix = np.vstack([matrix, weight * np.eye(len(prior))])
        wanted = np.append(wanted, np.full(len(prior), weight))
    return nnls(matrix, wanted)[0] * scale


def largest_shares(features: np.ndarray, coefficients: np.ndarray) -> np.ndarray:
    """Return the largest part of the predicted time that each feature has in a network.

    Args:
        features: `(networks, features)`.
        coefficients: of the fit.

    Returns:
        `(features,)`.
    """
    parts = features * coefficients
    return (parts / parts.sum(axis=1, keepdims=True)).max(axis=0)


def left_out_errors(
    features: np.ndarray,
    latencies: np.ndarray,
    parts: Sequence[Hashable],
    prior: np.ndarray | None = None,
    strength: float = DEFAULT_STRENGTH,
) -> np.ndarray:
    """Return the relative error of each network, predicted from the networks of the other parts.

    Args:
        features: as for `fit`.
        latencies: likewise.
        parts: which part each network belongs to, such as its family.
        prior: as for `fit`.
        strength: likewise.

    Returns:
        `(networks,)` predicted / measured - 1.
    """
    errors = np.empty(len(latencies))
    for part in dict.fromkeys(parts):
        held = np.array([other == part for other in parts])
        found = fit(features[~held], latencies[~held], prior, strength)
        errors[held] = features[held] @ found / latencies[held] - 1
    return errors
