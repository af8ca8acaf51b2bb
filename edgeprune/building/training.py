"""The step of a build that takes gradients: on the whole train split, after the closed forms."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeprune.building.splits import DataSplits
from edgeprune.data import assign_samples
from edgeprune.data.assignment import PREFERRED_SPLITS
from edgeprune.distillation import Training

if TYPE_CHECKING:
    import keras

    from edgeprune.distillation.fine_tuning import FineTuned
    from edgeprune.pruning.one_shot import Pruned


def train_pruned(
    original: keras.Model,
    pruned: Pruned,
    splits: DataSplits,
    training: Training | None,
    out: str | os.PathLike[str],
    seed: int,
) -> Pruned:
    """Train a pruned model towards the original if that was asked for.

    Args:
        original: the model before pruning.
        pruned: with the model to train.
        splits: samples; those of the train split that serve nothing else are trained on too.
        training: how; `None` returns what was given.
        out: where the build will be; an interrupted run leaves its checkpoint beside it.
        seed: of the division of the samples.

    Raises:
        DataError: a training sample cannot be read.
    """
    if training is None:
        return pruned
    from edgeprune.distillation.fine_tuning import fine_tune
    from edgeprune.distillation.training_samples import DatasetSource

    place = Path(out).absolute()
    trained = fine_tune(
        pruned.recovered,
        original,
        DatasetSource(splits.dataset, choose_training_samples(splits, seed), splits.preprocess),
        settings=training,
        classes=splits.classes,
        validation=splits.validation,
        checkpoint=place.parent / f".{place.name}-fine-tuning.npz",
    )
    return replace(pruned, model=trained.model, training=trained)


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
        calibration_per_class=splits.taken.calibration,
        validation_per_class=splits.taken.validation,
        seed=seed,
    )
    split = next(name for name in PREFERRED_SPLITS["calibration"] if name in dataset.splits)
    candidates = np.asarray(dataset.splits[split], np.int64)
    candidates = candidates[np.isin(dataset.targets[candidates], splits.outputs)]
    return np.setdiff1d(candidates, np.concatenate([parts.validation, parts.test]))


def describe_training(trained: FineTuned | None) -> dict[str, Any] | None:
    """Return what a report says about a training, as JSON types."""
    if trained is None:
        return None
    return {
        "validation_before": trained.before.accuracy,
        "validation_after": trained.after.accuracy,
        "gained": trained.after > trained.before,
        "epochs": trained.epochs,
        "steps": trained.steps,
        "seconds": trained.seconds,
        "samples_per_second": trained.samples_per_second,
        "augmentation": trained.augmentation.to_dict(),
        "stopped": trained.stopped,
    }
