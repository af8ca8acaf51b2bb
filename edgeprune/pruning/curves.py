"""How sensitive a model is to each of its groups: measured, kept in a file, drawn."""

from __future__ import annotations

import os
from collections.abc import Sequence

import keras

from edgeprune.allocation import DEFAULT_STEP, CostLimits, Problem, Sensitivity, measure_sensitivity
from edgeprune.cost.budgets import Budget, Budgets
from edgeprune.evaluation.preconditions import Data
from edgeprune.pruning.methods import DEFAULT_METHOD, find_method
from edgeprune.pruning.planning import measure_widths, rank_groups
from edgeprune.pruning.pruning import check_methods, open_contest
from edgeprune.support.progress import SILENT, Progress


def measure_curves(
    model: keras.Model,
    data: Data,
    *,
    classes: Sequence[int] | None = None,
    validation: Data | None = None,
    criterion: str | None = None,
    step: int = DEFAULT_STEP,
    cache: str | os.PathLike[str] | None = None,
    seed: int = 0,
    progress: Progress = SILENT,
) -> Sensitivity:
    """Narrow one group at a time, fold, and measure the accuracy on validation samples.

    What `allocation="sensitivity"` decides by; here to be looked at and kept.

    Args:
        model: as for `prune`.
        data: calibration samples, as for `prune`.
        classes: outputs to keep, in this order; `None` keeps all.
        validation: samples that are graded; a quarter of `data` by default.
        criterion: name in `CRITERIA` that says which channels go; by default that of `auto`.
        step: widths are multiples of it (see `allowed_widths`).
        cache: file that is written after every group; what it has is not measured again.
        seed: of everything that is drawn.
        progress: told about stages.

    Returns:
        The accuracy per group and width; its `plot` draws it. Without class indices, minus the
        divergence of the outputs.

    Raises:
        EdgepruneError: as for `prune`, or the file holds something else.

    Example:
        >>> import numpy as np
        >>> model = keras.Sequential([
        ...     keras.Input((8, 8, 1)), keras.layers.Conv2D(16, 3, name="conv"),
        ...     keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(3)])
        >>> inputs = np.random.default_rng(0).random((32, 8, 8, 1), dtype="float32")
        >>> sorted(measure_curves(model, inputs).grades["conv"])
        [4, 8, 12, 16]
    """
    check_methods(DEFAULT_METHOD, criterion, None, None, None)
    contest = open_contest(
        model, data, Budgets.parse(Budget("macs", 1.0)),
        classes=None if classes is None else tuple(int(number) for number in classes),
        validation=validation, step=step, seed=seed, progress=progress,
    )  # fmt: skip
    evidence = contest.evidence
    by = find_method(criterion=criterion).criterion
    rankings = rank_groups(evidence, by, progress)
    limits = CostLimits(contest.costs, *contest.budgets)
    problem = Problem(evidence.groups, rankings, limits, step)
    measure = measure_widths(contest.measure, evidence, rankings)
    settings = f"classes {evidence.classes} criterion {by} step {step} seed {seed}"
    return measure_sensitivity(problem, measure, cache=cache, settings=settings, progress=progress)
