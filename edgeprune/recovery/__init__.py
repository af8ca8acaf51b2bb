"""Giving accuracy back in closed form: `RECOVERIES`, from name to function, in rising cost."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import keras
import numpy as np

from edgeprune.groups import Groups
from edgeprune.plan import Plan
from edgeprune.progress import SILENT, Progress
from edgeprune.recovery.folds import fold
from edgeprune.recovery.recalibration import recalibrate
from edgeprune.recovery.refitting import refit
from edgeprune.statistics import Statistics


@dataclass(frozen=True)
class Loss:
    """What was taken away, and what is known about it.

    Attributes:
        smaller: `slim(model, plan)`.
        groups: of the original, which is in their graph.
        plan: what was kept.
        statistics: of the original on calibration data.
        inputs: `(n, ...)` preprocessed calibration samples.
        seed: of the choice of positions.
        progress: for the longer ones.
    """

    smaller: keras.Model
    groups: Groups
    plan: Plan
    statistics: Statistics
    inputs: np.ndarray
    seed: int = 0
    progress: Progress = SILENT


Recovery = Callable[[Loss], keras.Model]


def keep_as_cut(loss: Loss) -> keras.Model:
    """Do nothing: the slim model as surgery left it."""
    return loss.smaller


def fold_means(loss: Loss) -> keras.Model:
    """Replace every removed channel by its mean."""
    return fold(loss.smaller, loss.groups, loss.plan, loss.statistics, "mean")


def fold_least_squares(loss: Loss) -> keras.Model:
    """Replace every removed channel by the best affine combination of the kept ones."""
    return fold(loss.smaller, loss.groups, loss.plan, loss.statistics, "least_squares")


def refit_kernels(loss: Loss) -> keras.Model:
    """Fold by least squares, then solve the readers' kernels again, front to back."""
    return refit(
        fold_least_squares(loss),
        loss.groups,
        loss.plan,
        loss.inputs,
        seed=loss.seed,
        progress=loss.progress,
    )


RECOVERIES: dict[str, Recovery] = {
    "none": keep_as_cut,
    "mean": fold_means,
    "least_squares": fold_least_squares,
    "refit": refit_kernels,
}

__all__ = ["RECOVERIES", "Loss", "Recovery", "recalibrate"]
