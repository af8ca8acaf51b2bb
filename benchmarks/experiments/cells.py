"""Runs one cell of the grid: prune, recover, perhaps fine-tune; the test split is read once."""

from __future__ import annotations

import os
import platform
import time
from functools import lru_cache
from pathlib import Path
from typing import Any

import keras
import numpy as np

from benchmarks.experiments.material import TRAIN, Images, draw, load_images, load_train_split
from benchmarks.experiments.recipes import Cell, Recipe, choose_classes, read_recipe
from edgeprune.data import parse_preprocess
from edgeprune.distillation import Training
from edgeprune.evaluation.equivalence import predict
from edgeprune.evaluation.metrics import measure
from edgeprune.pruning.one_shot import prune
from edgeprune.pruning.pruning_settings import Pruning
from edgeprune.tracing.outputs import OutputKind

CLASSIFIER = OutputKind("classify", "linear", 0)


def run_cell(cell: Cell, recipe_path: Path, folder: Path, shared: Path) -> dict[str, Any]:
    """Return all figures of a cell, as JSON types.

    Args:
        cell: what to run.
        recipe_path: of the recipe it is from.
        folder: of prepared models and images.
        shared: the folder of real data, for fine-tuning, which sees the whole train split.
    """
    recipe = read_recipe(recipe_path)
    images = _images(folder, recipe.subjects[cell.model].data)
    model = _model(folder, cell.model)
    classes = choose_classes(recipe, cell, images.names)
    wanted = tuple(range(len(images.names))) if classes is None else classes
    preprocess = parse_preprocess(recipe.subjects[cell.model].preprocess)
    amounts = recipe.calibration_per_class, recipe.validation_per_class
    drawn = draw(images, wanted, amounts, cell.seed)
    parts = [
        (preprocess(images.pool[part].astype(np.float32)), images.pool_targets[part])
        for part in drawn
    ]
    begun = time.perf_counter()
    pruned = prune(
        model,
        parts[0],
        validation=parts[1],
        budget=f"macs={100 * cell.kept:g}%",
        classes=classes,
        pruning=Pruning(
            cell.method,
            criterion=cell.criterion,
            recovery=cell.recovery,
            recalibration="off" if cell.recovery else None,
            step=recipe.subjects[cell.model].step,
            search_seconds=recipe.time_limit,
            seed=cell.seed,
        ),
        training=None,
    )
    seconds = {"pruning": time.perf_counter() - begun}
    models = {"slim": pruned.unrecovered, "recovered": pruned.model}
    details: dict[str, Any] = {}
    settings = Training.choose(cell.fine_tuning or None)
    if settings is not None:
        from edgeprune.distillation.fine_tuning import fine_tune

        source = _train_split(shared, images, recipe, cell, drawn[1])
        inside = np.isin(source[1], wanted)
        source = preprocess(source[0][inside].astype(np.float32)), source[1][inside]
        begun = time.perf_counter()
        tuned = fine_tune(
            pruned.model, model, source,
            settings=settings, classes=classes, validation=parts[1],
        )  # fmt: skip
        seconds["fine_tuning"] = time.perf_counter() - begun
        models["fine_tuned"] = tuned.model
        details = {"epochs": tuned.epochs, "steps": tuned.steps, "stopped": tuned.stopped}
    tested = np.isin(images.test_targets, wanted)
    targets = images.test_targets[tested]
    outputs = {
        "original_subset": _original_outputs(folder, recipe, cell.model)[tested],
        **{
            name: _predict(found, images.test[tested], preprocess) for name, found in models.items()
        },
    }
    return {
        "key": cell.key,
        **{name: getattr(cell, name) for name in cell.__dataclass_fields__},
        "classes": [images.names[number] for number in wanted],
        "accuracy": {
            name: measure(CLASSIFIER, found, targets, classes, cut=name != "original_subset")[
                "accuracy"
            ]
            for name, found in outputs.items()
        },
        "test_samples": len(targets),
        "validation_accuracy": pruned.chosen.score.accuracy,
        "chosen": f"{pruned.chosen.criterion}: {pruned.chosen.name}",
        "macs": pruned.after.macs / pruned.before.macs,
        "params": pruned.after.params / pruned.before.params,
        "equivalence": pruned.equivalence.relative,
        "seconds": seconds,
        "fine_tuned": details,
        "where": _describe_machine(),
    }


@lru_cache(maxsize=4)
def _images(folder: Path, data: str) -> Images:
    return load_images(folder, data)


@lru_cache(maxsize=4)
def _model(folder: Path, name: str) -> keras.Model:
    return keras.saving.load_model(folder / f"{name}.keras", compile=False, safe_mode=True)


@lru_cache(maxsize=4)
def _original_outputs_of(folder: Path, name: str, data: str, preprocess: str) -> np.ndarray:
    return _predict(_model(folder, name), _images(folder, data).test, parse_preprocess(preprocess))


def _original_outputs(folder: Path, recipe: Recipe, name: str) -> np.ndarray:
    subject = recipe.subjects[name]
    return _original_outputs_of(folder, name, subject.data, subject.preprocess)


def _predict(model: keras.Model, images: np.ndarray, preprocess: Any) -> np.ndarray:
    return predict(model, preprocess(images.astype(np.float32)))


def _train_split(
    shared: Path, images: Images, recipe: Recipe, cell: Cell, validation: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the train split without the pool, or the pool without what chooses."""
    data = recipe.subjects[cell.model].data
    if data in TRAIN:
        return load_train_split(shared, data)
    rest = np.setdiff1d(np.arange(len(images.pool)), validation)
    return images.pool[rest], images.pool_targets[rest]


def _describe_machine() -> dict[str, Any]:
    device = "CPU"
    if keras.backend.backend() == "torch":
        import torch

        if torch.cuda.is_available():
            device = torch.cuda.get_device_name()
    return {
        "backend": keras.backend.backend(),
        "keras": keras.__version__,
        "device": device,
        "machine": platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
    }
