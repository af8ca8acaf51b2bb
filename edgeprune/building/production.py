"""How one model is made: pruned until its file meets the budgets, trained, exported."""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeprune.building.artifacts import Exporter
from edgeprune.building.closed_loop import Round, Trial, meet_budgets, scale_to_machine
from edgeprune.building.splits import DataSplits
from edgeprune.building.verification import measure_on_validation
from edgeprune.cost.budgets import Budgets, Quantity
from edgeprune.data import assign_samples
from edgeprune.data.assignment import PREFERRED_SPLITS
from edgeprune.distillation import Training
from edgeprune.errors import BudgetError
from edgeprune.latency import Deployment
from edgeprune.pruning.drop_search import meet_drop
from edgeprune.pruning.pruning_settings import Pruning
from edgeprune.tflite import Conversion

if TYPE_CHECKING:
    import keras

    from edgeprune.distillation.fine_tuning import FineTuned
    from edgeprune.pruning.one_shot import Pruned
    from edgeprune.pruning.search import Search

ROOMS = (1.0, 0.99, 0.95)
"""Shares of an allowed size that a model to be trained may take, one after the other."""
LARGER = (
    "Not trained: the file would have become larger than its budget by a few bytes. Allow a little "
    "more."
)


@dataclass(frozen=True, eq=False)
class Making:
    """A model and its file, and how the loop came to it.

    Attributes:
        turn: the round whose widths it has.
        rounds: all rounds.
        limits: of every quantity that the file decides, in its own unit.
        deployment: what budgets are about.
        pruned: the model, trained where there was training.
        exported: its file.
        trials: what was tried for a drop: quantity, share and what was lost.
        lost: accuracy of the file against the original on validation samples, where a drop counts.
        note: what the user should know of it.
    """

    turn: Round
    rounds: tuple[Round, ...]
    limits: Mapping[Quantity, float]
    deployment: Deployment
    pruned: Pruned
    exported: Conversion
    trials: tuple[Mapping[str, Any], ...] = ()
    lost: float | None = None
    note: str = ""


@dataclass(frozen=True, eq=False)
class Workshop:
    """What models are made with, once or several times: statistics are collected before."""

    original: keras.Model
    splits: DataSplits
    exporter: Exporter
    trial: Trial
    budgets: Budgets
    pruning: Pruning
    out: Path
    search: Search
    start_ms: float | None
    deployment: Deployment


def open_workshop(
    original: keras.Model,
    splits: DataSplits,
    exporter: Exporter,
    trial: Trial,
    budgets: Budgets,
    pruning: Pruning,
    out: Path,
) -> Workshop:
    """Measure the original where latency is measured, and collect what all methods need.

    Args:
        original: the model before pruning.
        splits: samples.
        exporter: converts as a build delivers.
        trial: looks at files.
        budgets: that were asked for.
        pruning: how channels are chosen.
        out: where the build will be.

    Raises:
        EdgepruneError: as for `prune`.
    """
    from edgeprune.pruning.one_shot import open_search, require_answers

    deployment, start_ms = trial.deployment, None
    if trial.bench is not None:
        start_ms = trial.measure({"original": trial.original})["original"]
        deployment = scale_to_machine(deployment, original, start_ms)
    search = open_search(
        original, splits.calibration, budgets, splits.classes, splits.validation, pruning,
        deployment, splits.kind.task,
    )  # fmt: skip
    if budgets.drop is not None:
        require_answers(search.evaluator)
    return Workshop(
        original, splits, exporter, trial, budgets, pruning, out, search, start_ms, deployment
    )


def make_model(workshop: Workshop, training: Training | None) -> Making:
    """Make the model that is delivered: for a drop the smallest that loses little enough.

    Args:
        workshop: what to make it with.
        training: how; `None` trains nothing.

    Raises:
        BudgetError: the budgets cannot be met.
    """
    budgets, splits, export = workshop.budgets, workshop.splits, workshop.exporter.export
    prune = functools.cache(functools.partial(_prune, workshop))
    if budgets.drop is None:
        return _make_once(workshop, prune, budgets, training)

    before = workshop.search.evaluator.original.accuracy

    def make(asked: Budgets, share: float) -> tuple[Making, float]:
        making = _make_once(workshop, prune, asked, training and training.shorten(share))
        lost = before - measure_on_validation(making.exported.content, splits, export)
        return replace(making, lost=lost), lost

    quantity = choose_quantity(budgets, workshop.deployment)
    making, trials = meet_drop(make, budgets, quantity)
    return replace(
        making, trials=tuple({"quantity": quantity, **trial.to_dict()} for trial in trials)
    )


def choose_quantity(budgets: Budgets, deployment: Deployment) -> Quantity:
    """Return what is to become small for a drop: time where it can be told, else MACs."""
    taken = {budget.quantity for budget in budgets}
    timed = deployment.predictor is not None and "latency" not in taken
    return "latency" if timed else "macs" if "macs" not in taken else "params"


def _make_once(
    workshop: Workshop,
    prune: Callable[[Budgets], tuple[Round, tuple[Round, ...]]],
    budgets: Budgets,
    training: Training | None,
) -> Making:
    """Prune until a file meets the budgets, train, export; again where training changed too much.

    Trained weights can give a file of a few bytes more: it then gets a little less room, and where
    there is none, the model stays as it was before its training.
    """
    limits = workshop.trial.limits(workshop.budgets, workshop.start_ms)
    rounds = prune(budgets)

    def finish(pruned: Pruned, note: str = "") -> Making:
        best, every = rounds
        exported = _export(workshop.exporter, pruned, best)
        return Making(best, every, limits, workshop.deployment, pruned, exported, note=note)

    for room in ROOMS:
        try:
            rounds = prune(budgets.scale("size", room))
        except BudgetError:
            break
        trained = train_pruned(
            workshop.original, rounds[0].pruned, workshop.splits, training, workshop.out,
            workshop.pruning.seed,
        )  # fmt: skip
        making = finish(trained)
        if len(making.exported.content) <= limits.get("size", math.inf):
            return making
    rounds = prune(budgets)
    return finish(rounds[0].pruned, LARGER)


def _prune(workshop: Workshop, budgets: Budgets) -> tuple[Round, tuple[Round, ...]]:
    """Prune until the exported file meets the budgets; return the best round, and all."""
    from edgeprune.pruning.one_shot import run_search

    return meet_budgets(
        lambda asked: run_search(workshop.search, asked, workshop.pruning),
        workshop.trial, budgets, workshop.start_ms,
    )  # fmt: skip


def _export(exporter: Exporter, pruned: Pruned, turn: Round) -> Conversion:
    """Return the delivered file: the one that the loop made, unless weights or format changed."""
    made = turn.exported
    if made is not None and pruned.model is turn.pruned.model and exporter.scheme == made.scheme:
        return made
    return exporter.export_pruned(pruned)


def train_pruned(
    original: keras.Model,
    pruned: Pruned,
    splits: DataSplits,
    training: Training | None,
    out: str | os.PathLike[str],
    seed: int,
) -> Pruned:
    """Train a pruned model towards the original, where there are samples enough.

    Args:
        original: the model before pruning.
        pruned: with the model to train.
        splits: samples; those of the train split that serve nothing else are trained on too.
        training: how; `None` or too few samples for it return what was given.
        out: where the build will be; an interrupted run leaves its checkpoint beside it.
        seed: of the division of the samples.

    Raises:
        DataError: a training sample cannot be read.
    """
    samples = choose_training_samples(splits, seed)
    if training is None or len(samples) < training.least_samples:
        return pruned
    from edgeprune.distillation.fine_tuning import fine_tune
    from edgeprune.distillation.training_samples import DatasetSource

    place = Path(out).absolute()
    trained = fine_tune(
        pruned.recovered,
        original,
        DatasetSource(splits.dataset, samples, splits.preprocess, splits.store.free),
        settings=training,
        classes=splits.classes,
        validation=splits.validation,
        checkpoint=place.parent / f".{place.name}-fine-tuning.npz",
        task=splits.kind.task,
    )
    return replace(pruned, model=trained.model, training=trained)


def warn_untrained(training: Training | None, splits: DataSplits, seed: int) -> list[str]:
    """Say so where training was left out for want of samples."""
    count = len(choose_training_samples(splits, seed))
    if training is None or count >= training.least_samples:
        return []
    return [
        f"Not trained: {count:,} samples to learn from are fewer than the {training.least_samples} "
        "from which training has been seen to help. Give more, or say how long with --effort 90s."
    ]


def choose_training_samples(splits: DataSplits, seed: int) -> np.ndarray:
    """Return the indices of all samples of the kept classes that neither test nor validation uses.

    Args:
        splits: that were read.
        seed: of their division.
    """
    dataset = splits.dataset
    parts = assign_samples(
        dataset,
        splits.outputs,
        calibration_per_class=splits.wanted.calibration,
        validation_per_class=splits.wanted.validation,
        seed=seed,
    )
    split = next(name for name in PREFERRED_SPLITS["calibration"] if name in dataset.splits)
    candidates = np.asarray(dataset.splits[split], np.int64)
    candidates = candidates[np.isin(dataset.targets[candidates], splits.outputs)]
    return np.setdiff1d(candidates, np.concatenate([parts.validation, parts.test]))


def describe_training(trained: FineTuned | None, labelled: bool) -> dict[str, Any] | None:
    """Return what a report says about a training, as JSON types.

    Args:
        trained: what came of it; `None` where there was none.
        labelled: whether validation knows what is right.
    """
    if trained is None:
        return None
    return {
        "validation_before": trained.before.accuracy if labelled else trained.before.closeness,
        "validation_after": trained.after.accuracy if labelled else trained.after.closeness,
        "gained": trained.gained,
        "epochs": trained.epochs,
        "steps": trained.steps,
        "seconds": trained.seconds,
        "samples_per_second": trained.samples_per_second,
        "augmentation": trained.augmentation.to_dict(),
        "stopped": trained.stopped,
    }
