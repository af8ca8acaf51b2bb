"""The step of a build that takes gradients: on the whole train split, after the closed forms."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeprune.building.material import Material
from edgeprune.building.request import Request
from edgeprune.data import Dataset, assign_samples
from edgeprune.data.assignment import PREFERRED_SPLITS
from edgeprune.support.progress import Progress

if TYPE_CHECKING:
    import keras

    from edgeprune.distillation.fine_tuning import FineTuned
    from edgeprune.pruning.pruning import Pruned


def tune_prepared(
    request: Request,
    original: keras.Model,
    pruned: Pruned,
    material: Material,
    out: str | os.PathLike[str],
    progress: Progress,
) -> tuple[Pruned, FineTuned | None]:
    """Fine-tune a pruned model if that was asked for.

    Args:
        request: what is asked for.
        original: the model before pruning.
        pruned: with the model to fine-tune.
        material: samples; those of the train split that serve nothing else are trained on too.
        out: where the build will be; an interrupted run leaves its checkpoint beside it.
        progress: told about it.

    Returns:
        The same with the fine-tuned model, and how it came about, if it was asked for.

    Raises:
        DataError: a training sample cannot be read.
    """
    settings = request.fine_tuning
    if settings is None:
        return pruned, None
    from edgeprune.distillation.fine_tuning import fine_tune
    from edgeprune.distillation.training_samples import DatasetSource

    place = Path(out).absolute()
    classes = material.classes or tuple(range(len(material.dataset.classes)))
    chosen = choose_training_samples(material.dataset, classes, request)
    tuned = fine_tune(
        pruned.model,
        original,
        DatasetSource(material.dataset, chosen, request.preprocess),
        settings=settings,
        classes=material.classes,
        validation=material.validation,
        checkpoint=place.parent / f".{place.name}-fine-tuning.npz",
        progress=progress,
    )
    return replace(pruned, model=tuned.model), tuned


def choose_training_samples(
    dataset: Dataset, classes: tuple[int, ...], request: Request
) -> np.ndarray:
    """Return the indices of all samples of the kept classes that neither test nor validation uses.

    Args:
        dataset: whose samples these are.
        classes: that are kept.
        request: says how samples were divided.
    """
    parts = assign_samples(
        dataset,
        classes,
        calibration_per_class=request.amounts.calibration_per_class,
        validation_per_class=request.amounts.validation_per_class,
        seed=request.seed,
    )
    split = next(name for name in PREFERRED_SPLITS["calibration"] if name in dataset.splits)
    candidates = np.asarray(dataset.splits[split], np.int64)
    candidates = candidates[np.isin(dataset.targets[candidates], classes)]
    return np.setdiff1d(candidates, np.concatenate([parts.validation, parts.test]))


def describe_tuning(tuned: FineTuned | None) -> dict[str, Any] | None:
    """Return what a report says about a fine-tuning, as JSON types."""
    if tuned is None:
        return None
    return {
        "validation_before": tuned.before.accuracy,
        "validation_after": tuned.after.accuracy,
        "gained": tuned.after > tuned.before,
        "epochs": tuned.epochs,
        "steps": tuned.steps,
        "seconds": tuned.seconds,
        "samples_per_second": tuned.samples_per_second,
        "augmentation": tuned.augmentation.to_dict(),
        "stopped": tuned.stopped,
    }
