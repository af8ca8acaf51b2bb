"""From measured micro-models to a predictor: its tiles, its coefficients, its channel step."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from edgeprune.calibration.micro_models import RATED, WIDTHS, MicroModel
from edgeprune.calibration.networks import Scheme
from edgeprune.errors import BenchmarkError
from edgeprune.latency import (
    FEATURES,
    Kernels,
    Predictor,
    Workload,
    count_features,
    parse_operators,
)
from edgeprune.latency.fitting import fit, left_out_errors

ROWS = (1, 4, 8)
COLUMNS = (4, 8, 16, 32)
DEPTHS = (1, 4, 8, 16)
CACHES = (2**19, 2**21, 2**23)
CALL_WEIGHTS = (1.0, 2.0, 4.0)
FOLDS = 8
STEPS = (1, 2, 4, 8, 16, 32)
STATED = 0.9
SMALLEST_ERROR = 0.05


def fit_predictor(
    target: str,
    scheme: Scheme,
    models: Sequence[MicroModel],
    medians: Mapping[str, float],
    *,
    threads: int,
    source: str,
) -> Predictor:
    """Return the predictor that fits the measured medians best.

    The tiles and caches are those with which micro-models that are left out, one in eight at a
    time, are predicted best. The stated error is what nine of ten mixtures were within, each left
    out alone.

    Args:
        target: name of the target.
        scheme: number format that was measured.
        models: the micro-models.
        medians: p50 in ms by the name of the model.
        threads: of the runtime.
        source: machine, runtime and date.

    Raises:
        BenchmarkError: a model was not measured.
    """
    missing = [model.name for model in models if model.name not in medians]
    if missing:
        raise BenchmarkError(f"Not measured in {scheme}: {', '.join(missing[:3])}.")
    work = Workload.of_networks([parse_operators(model.write(scheme)) for model in models])
    latencies = np.array([medians[model.name] for model in models])
    mixtures = np.array([model.kind == "network" for model in models])
    folds = [number % FOLDS for number in range(len(models))]
    rated = [name for name in RATED if name in work.names]
    best: tuple[float, Kernels, np.ndarray] | None = None
    for kernels in _list_kernels():
        features = count_features(work, kernels, scheme, rated)
        errors = np.abs(left_out_errors(features, latencies, folds))
        score = float(errors.mean() + errors[mixtures].mean())
        if best is None or score < best[0]:
            best = score, kernels, features
    assert best is not None  # there are tiles to choose from
    _, kernels, features = best
    errors = np.abs(left_out_errors(features, latencies, range(len(models)))[mixtures])
    coefficients = fit(features, latencies)
    return Predictor(
        target,
        scheme,
        coefficients[: len(FEATURES)],
        kernels,
        error=max(SMALLEST_ERROR, float(np.quantile(errors, STATED))),
        rates=dict(zip(rated, coefficients[len(FEATURES) :].tolist(), strict=True)),
        threads=threads,
        channel_step=choose_step(medians),
        source=source,
    )


def _list_kernels() -> Iterator[Kernels]:
    """Yield what the kernels of a runtime may be like."""
    choices = itertools.product(ROWS, COLUMNS, DEPTHS, (True, False), CALL_WEIGHTS)
    for rows, columns, depth, unrolls, weight in choices:
        for size in CACHES:
            yield Kernels(rows, columns, depth, size, unrolls, True, weight)


def choose_step(medians: Mapping[str, float]) -> int:
    """Return the channel step that explains best why some widths are as slow as wider ones.

    Pointwise convolutions from w to w channels take the time of whole tiles of output channels,
    of their bytes, and a constant; the tile that fits best is the step.

    Args:
        medians: in ms by the name of the model, those of `WIDTHS` among them.

    Example:
        >>> choose_step({f"width {width}": -(-width // 8) * 8 * width + 900 for width in WIDTHS})
        8
    """
    widths = np.array(WIDTHS, dtype=float)
    latencies = np.array([medians[f"width {width}"] for width in WIDTHS])
    misfit = {}
    for step in STEPS:
        terms = np.column_stack([np.ceil(widths / step) * step * widths, widths, widths**0])
        coefficients = fit(terms, latencies)
        misfit[step] = float(np.abs(terms @ coefficients / latencies - 1).max())
    return min(misfit, key=lambda step: round(misfit[step], 4))
