"""How sensitive a model is to each of its groups: measured, kept in a file, drawn."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace

import keras

from edgeprune.allocation import CostLimits, Problem, Sensitivity, measure_sensitivity
from edgeprune.cost.budgets import Budgets
from edgeprune.evaluation.preconditions import ArrayData
from edgeprune.pruning.one_shot import open_search
from edgeprune.pruning.planning import measure_widths, rank_groups
from edgeprune.pruning.pruning_settings import DEFAULT_STEP, Pruning
from edgeprune.support.fingerprints import fingerprint
from edgeprune.support.gradients import without_gradients
from edgeprune.tracing.graph import describe_graph
from edgeprune.tracing.inference import full_float32
from edgeprune.tracing.outputs import Task


@full_float32()
@without_gradients
def measure_curves(
    model: keras.Model,
    data: ArrayData,
    *,
    classes: Sequence[int] | None = None,
    validation: ArrayData | None = None,
    pruning: Pruning | str | None = None,
    cache: str | os.PathLike[str] | None = None,
    task: Task = "auto",
) -> Sensitivity:
    """Narrow one group at a time, fold, and measure the accuracy on validation samples.

    What `allocation="sensitivity"` decides by; here to be looked at and kept.

    Args:
        model: as for `prune`.
        data: calibration samples, as for `prune`.
        classes: outputs to keep, in this order; `None` keeps all.
        validation: samples that are scored; a quarter of `data` by default.
        pruning: its criterion says which channels go, its step which widths are measured.
        cache: file that is written after every group; what it has is not measured again. One of
            another model, other data or other settings is replaced, with a warning.
        task: what the outputs mean, as for `prune`.

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
        >>> sorted(measure_curves(model, inputs).scores["conv"])
        [4, 8, 12, 16]
    """
    pruning = Pruning.parse(pruning)
    criterion = pruning.find_method().criterion
    chosen = None if classes is None else tuple(int(number) for number in classes)
    budgets = Budgets.parse("macs=100%")
    pruning = pruning if pruning.step else replace(pruning, step=DEFAULT_STEP)
    search = open_search(model, data, budgets, chosen, validation, pruning, task=task)
    context = search.context
    rankings = rank_groups(context, criterion)
    limits = CostLimits(search.costs, *budgets)
    problem = Problem(context.groups, rankings, limits, search.step)
    measure = measure_widths(search.measure, context, rankings)
    evaluator = search.evaluator
    settings = fingerprint(
        describe_graph(context.groups.graph), context.samples.inputs, context.samples.targets,
        evaluator.samples, chosen, criterion, search.step, pruning.seed,
        [kind.task for kind in evaluator.kinds],
    )  # fmt: skip
    return measure_sensitivity(problem, measure, cache=cache, settings=settings)
