"""The stages of a build, in order: decide, cut, prove, recover, convert, verify, measure, report."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeprune.benchmarking import find_target
from edgeprune.building.material import (
    Amounts,
    check_source,
    read_material,
    test_original,
)
from edgeprune.building.products import Products, describe_settings, latency
from edgeprune.conversion import IO_TYPES, SCHEMES
from edgeprune.datasets import parse_preprocess
from edgeprune.errors import ConversionError
from edgeprune.files import move_together
from edgeprune.plan import Budget
from edgeprune.progress import SILENT, Progress
from edgeprune.recipes import read_recipe
from edgeprune.report import Change, Outcome
from edgeprune.runtime import find_runtime
from edgeprune.stopwatch import Stopwatch

if TYPE_CHECKING:
    import keras

    from edgeprune.pruning import Pruned, Recalibration

DEFAULT_TARGET = "x86-64"
DEFAULT_AMOUNTS = Amounts()


@dataclass(frozen=True)
class Built:
    """What a build made.

    Attributes:
        model: the recovered Keras model.
        outcome: all figures.
        folder: where the files are.
    """

    model: keras.Model = field(repr=False)
    outcome: Outcome
    folder: Path


def build(
    model: str | os.PathLike[str] | keras.Model,
    data: Any,
    *,
    classes: str | Sequence[str | int] | None = None,
    target: str = DEFAULT_TARGET,
    budget: Budget | str | None = None,
    quantize: str | None = None,
    io: str = "float32",
    out: str | os.PathLike[str] = "edgeprune-output",
    preprocess: str | Callable[[np.ndarray], np.ndarray] = "raw",
    labels: Sequence[str] | None = None,
    weights: str | os.PathLike[str] | None = None,
    criterion: str | None = None,
    recovery: str | None = None,
    recalibration: Recalibration = "auto",
    step: int | None = None,
    amounts: Amounts = DEFAULT_AMOUNTS,
    measure: bool = True,
    threads: int | None = None,
    seed: int = 0,
    command: str = "edgeprune.build(...)",
    progress: Progress = SILENT,
) -> Built:
    """Build a specialist for a board: prune, prove, recover, quantize, verify, measure.

    Args:
        model: a file that `load_model` opens, or a model.
        data: whatever `load_dataset` takes: an image folder, `.npz`, the name of a data set,
            arrays or a `tf.data.Dataset`.
        classes: names or indices of the classes to keep, in the order of the new outputs; `None`
            keeps all.
        target: name of a target; it gives the number format, the channel step and the threads.
        budget: the most the model may cost; by default the target's recipe (half the MACs).
        quantize: number format, one of `edgeprune.conversion.SCHEMES`; by default the target's.
        io: what goes in and out of an int8 model.
        out: folder for the files; made if missing, files of an earlier build are replaced.
        preprocess: how stored samples become the model's inputs, see `parse_preprocess`.
        labels: names of the model's outputs, if the data does not have exactly those.
        weights: weights of a model that is given as an architecture in JSON.
        criterion: how channels are ranked.
        recovery: how accuracy is given back; by default the recipe's.
        recalibration: of BatchNorm: `auto`, `on` or `off`.
        step: widths of layers are multiples of it; 1 allows any.
        amounts: how many samples serve for what.
        measure: whether to measure latency on this machine.
        threads: of the measurement; by default the target's.
        seed: of everything that is drawn.
        command: for the report.
        progress: told about stages.

    Returns:
        The model, the figures and the folder.

    Raises:
        EdgepruneError: one of its kinds, with one line that says what to do; nothing is written.

    Example:
        >>> built = build("resnet8.h5", "cifar10.npz", classes="cat,dog,horse",
        ...               target="rpi4", out="out/")                            # doctest: +SKIP
        >>> built.outcome.accuracy["tflite"]                                    # doctest: +SKIP
        0.8
    """
    stopwatch = Stopwatch()
    board = find_target(target)
    recipe = read_recipe(target)
    scheme = _check_format(quantize or board.scheme, io)
    allowed = recipe.budget if budget is None else Budget.parse(budget)
    scaling = parse_preprocess(preprocess)
    check_source(data)
    with stopwatch.time("load model"), progress.stage("loading the model"):
        from edgeprune.loading import load_model
        from edgeprune.pruning import DEFAULT_CRITERION, prune
        from edgeprune.verification import measure_accuracy, predict

        original = load_model(model, weights=weights)
    with stopwatch.time("read data"), progress.stage("reading the data"):
        material = read_material(
            original, data, classes=classes, labels=labels, preprocess=scaling,
            amounts=amounts, seed=seed,
        )  # fmt: skip
    with stopwatch.time("test original"), progress.stage("testing the original"):
        accuracy, warnings = test_original(original, material)
    settings = describe_settings(
        model,
        target=target,
        budget=str(allowed),
        quantize=scheme,
        io=io,
        preprocess=scaling.name,
        criterion=criterion or DEFAULT_CRITERION,
        recovery=recovery or recipe.recovery,
        recalibration=recalibration,
        step=board.channel_step if step is None else step,
    )
    pruned = prune(
        original,
        material.calibration,
        budget=allowed,
        classes=material.classes,
        validation=material.validation,
        criterion=settings["criterion"],
        recovery=settings["recovery"],
        recalibration=recalibration,
        step=settings["step"],
        seed=seed,
        progress=progress,
    )
    stopwatch.seconds.update(pruned.seconds)
    with stopwatch.time("test slim"), progress.stage("testing the slim model"):
        targets = material.test.targets
        recovered = predict(pruned.model, material.test.inputs)
        cut = predict(pruned.slim, material.test.inputs)
        accuracy["slim"] = measure_accuracy(cut, targets, material.classes)
        accuracy["recovered"] = measure_accuracy(recovered, targets, material.classes)
    folder = Path(out)
    with move_together(folder) as workspace:
        products = Products(workspace, material, scheme, io, progress)
        with stopwatch.time("convert"):
            products.write(original, pruned)
        with stopwatch.time("test tflite"):
            accuracy["tflite"], agreement = products.test(recovered, os.cpu_count() or 1)
        with stopwatch.time("bench"):
            measured = products.measure(board, threads) if measure else None
        latency_ms, where = latency(measured)
        outcome = products.finish(
            Outcome(
                accuracy=accuracy,
                test_samples=material.count_tests(),
                macs=Change(pruned.before.macs, pruned.after.macs),
                params=Change(pruned.before.params, pruned.after.params),
                size_bytes=products.size(),
                latency_ms=latency_ms,
                latency_measured=where,
                equivalence={
                    "max_abs_error": pruned.equivalence.max_abs_error,
                    "scale": pruned.equivalence.scale,
                },
                agreement=agreement,
                recovery=pruned.chosen.name,
                candidates=_candidates(pruned),
                classes=material.names,
                widths=_widths(pruned),
                settings=settings,
                warnings=tuple(warnings),
                seconds=stopwatch.seconds,
                versions=_versions(),
                seed=seed,
                command=command,
            )
        )
    return Built(pruned.model, outcome, folder)


def _check_format(scheme: str, io: str) -> str:
    if scheme not in SCHEMES or io not in IO_TYPES:
        raise ConversionError(
            f"Unknown number format '{scheme}' or io '{io}'. Choose the format from "
            f"{', '.join(SCHEMES)} and, for int8, the io from {', '.join(IO_TYPES)}."
        )
    return scheme


def _candidates(pruned: Pruned) -> tuple[Mapping[str, Any], ...]:
    return tuple(
        {"recovery": candidate.name, "validation_accuracy": candidate.grade.accuracy}
        for candidate in pruned.candidates
    )


def _widths(pruned: Pruned) -> Mapping[str, tuple[int, int]]:
    kept = pruned.plan.keep
    return {
        group.name: (group.width, len(kept.get(group.name, range(group.width))))
        for group in pruned.groups.removable
    }


def _versions() -> Mapping[str, str]:
    found = {"python": platform.python_version(), "runtime": str(find_runtime())}
    for name in ("edgeprune", "tensorflow", "keras", "numpy"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
