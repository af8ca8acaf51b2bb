"""The stages of a build: decide, cut, prove, recover, convert, verify, measure, report."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeprune.benchmarking import SshTransport
from edgeprune.boards import find_target
from edgeprune.boards.recipes import Recipe, read_recipe
from edgeprune.building.board_predictions import predict_costs, warn_loose_budgets
from edgeprune.building.checks import check_output
from edgeprune.building.closed_loop import (
    Trial,
    describe_rounds,
    make_measurable,
    prune_to_measured,
)
from edgeprune.building.export_format import Format
from edgeprune.building.file_verification import verify_file
from edgeprune.building.latency_rounds import Round
from edgeprune.building.material import Amounts, test_original
from edgeprune.building.places import Place
from edgeprune.building.products import OPTIONAL_FILES, Products, latency
from edgeprune.building.provenance import describe_origin
from edgeprune.building.request import Request, prepare, prune_prepared
from edgeprune.building.training_stage import describe_tuning, tune_prepared
from edgeprune.cost.budgets import Budget, Budgets
from edgeprune.data import parse_preprocess
from edgeprune.distillation import FineTuning
from edgeprune.latency import deploy
from edgeprune.report import Change, Outcome
from edgeprune.support.files import move_together
from edgeprune.support.progress import SILENT, Progress
from edgeprune.support.stopwatch import Stopwatch
from edgeprune.tflite import Quantization, check_operators, describe_conversion
from edgeprune.tflite.runtime import find_runtime

if TYPE_CHECKING:
    import keras

    from edgeprune.pruning.methods import Recalibration
    from edgeprune.pruning.pruning import Pruned

DEFAULT_TARGET = "x86-64"
DEFAULT_AMOUNTS = Amounts()
DEFAULT_QUANTIZATION = Quantization()


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
    budget: Budget | Budgets | str | Sequence[str | Budget] | None = None,
    quantize: str | None = None,
    io: str = "float32",
    input: str | None = None,
    out: str | os.PathLike[str] = "edgeprune-output",
    preprocess: str | Callable[[np.ndarray], np.ndarray] = "raw",
    labels: Sequence[str] | None = None,
    weights: str | os.PathLike[str] | None = None,
    method: str | None = None,
    criterion: str | None = None,
    allocation: str | None = None,
    recovery: str | None = None,
    recalibration: Recalibration | None = None,
    step: int | None = None,
    time_limit: float | None = None,
    gathers: bool = False,
    fine_tuning: FineTuning | str | None = None,
    amounts: Amounts = DEFAULT_AMOUNTS,
    measure: bool = True,
    meet_measured: bool = False,
    quantization: Quantization = DEFAULT_QUANTIZATION,
    threads: int | None = None,
    host: str | None = None,
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
        budget: the most the model may cost, such as `"latency=20ms,size=500KB"`; by default the
            target's recipe (half the MACs). Latency and energy are those predicted for the target.
        quantize: number format, one of `edgeprune.tflite.SCHEMES`; by default the target's.
        io: what goes in and out of an int8 model.
        input: `uint8` puts the scaling of `preprocess` inside the model, which then takes the bytes
            of a camera; resizing stays outside. By default the input is as `io` says.
        out: folder for the files; made if missing, files of an earlier build are replaced.
        preprocess: how stored samples become the model's inputs, see `parse_preprocess`.
        labels: names of the model's outputs, if the data does not have exactly those.
        weights: weights of a model that is given as an architecture in JSON.
        method: criterion, allocation and recovery by one name; by default the recipe's. A method
            that is given replaces all that the recipe says of these.
        criterion: how channels are ranked; by default the method's.
        allocation: how the widths of layers are chosen; likewise.
        recovery: how accuracy is given back; likewise.
        recalibration: of BatchNorm: `auto`, `on` or `off`; likewise.
        step: widths of layers are multiples of it; 1 allows any.
        time_limit: seconds after which a method that tries several tries no more; likewise.
        gathers: whether to try channel gathers as well (`prune_with_gathers`), three times the
            work.
        fine_tuning: how to train after pruning, or how long, such as `"5min"`; `None` does not.
        amounts: how many samples serve for what.
        measure: whether to measure latency.
        meet_measured: whether to prune again until the latency that is measured meets the budget
            for it.
        quantization: how the integers of int8 are chosen, and what may stay in float.
        threads: of the measurement; by default the target's.
        host: board to measure on, as ssh takes it; by default this machine.
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
    board = find_target(target)
    recipe = read_recipe(board.name)
    if method is not None:
        recipe = Recipe(recipe.budget, method)
    form = Format(quantize or board.scheme, io, input)
    scaling = parse_preprocess(preprocess)
    form.check(board, scaling)
    quantization.check(form.scheme)
    check_output(out)
    budgets = Budgets.parse(recipe.budget if budget is None else budget)
    deployment = deploy(board.name, board.prediction, form.scheme, form.io)
    if meet_measured:
        deployment = make_measurable(budgets, deployment, board)
    request = Request(
        model,
        data,
        weights=weights,
        classes=classes,
        labels=labels,
        preprocess=scaling,
        budget=budgets,
        method=recipe.method,
        criterion=criterion or recipe.criterion,
        allocation=allocation or recipe.allocation,
        recovery=recovery or recipe.recovery,
        recalibration=recalibration,
        step=board.channel_step if step is None else step,
        time_limit=time_limit,
        amounts=amounts,
        seed=seed,
        deployment=deployment,
        fine_tuning=FineTuning.parse(fine_tuning) if isinstance(fine_tuning, str) else fine_tuning,
        gathers=gathers,
    )
    place = Place(board, threads, None if host is None else SshTransport(host, board.architecture))
    stopwatch = Stopwatch()
    original, material = prepare(request, stopwatch, progress)
    with stopwatch.time("check operators"), progress.stage("checking the operators"):
        check_operators(original, form.scheme, fallback=quantization.fallback)
    samples = form.store(material.test.inputs, scaling)
    rounds: tuple[Round[Pruned], ...] = ()
    missed: list[str] = []
    if meet_measured:
        trial = Trial(material, form, place, progress)
        pruned, rounds, missed = prune_to_measured(request, original, material, trial, progress)
    else:
        pruned = prune_prepared(request, original, material, progress)
    stopwatch.seconds.update(pruned.seconds)
    closed_form = pruned.model
    with stopwatch.time("fine-tuning"):
        pruned, tuned = tune_prepared(request, original, pruned, material, out, progress)
    with stopwatch.time("test original"), progress.stage("testing the original"):
        accuracy, warnings = test_original(original, material)
        warnings += missed + warn_loose_budgets(request.budget, pruned, request.deployment)
    with stopwatch.time("test slim"), progress.stage("testing the slim model"):
        from edgeprune.evaluation.equivalence import measure_accuracy, predict

        targets = material.test.targets
        models = {"slim": pruned.slim, "recovered": closed_form}
        if tuned is not None:
            models["fine_tuned"] = pruned.model
        for name, each in models.items():
            recovered = predict(each, material.test.inputs)  # of the last one in what follows
            accuracy[name] = measure_accuracy(recovered, targets, material.classes)
    folder, versions = Path(out), _versions()
    with move_together(folder) as workspace:
        products = Products(workspace, material, form, quantization, progress)
        settings = request.to_dict() | {"target": target} | form.to_dict()
        origin = {"settings": settings, "versions": versions, "seed": seed}
        with stopwatch.time("convert"):
            made = products.write(pruned, describe_origin(pruned, material, origin, command))
            products.write_originals(original, in_float=measure)
        with stopwatch.time("verify tflite"):
            outputs, verification = verify_file(
                products.model,
                made.model,
                samples,
                recovered if made.trained is None else predict(made.model, material.test.inputs),
                threads=os.cpu_count() or 1,
                progress=progress,
            )
            accuracy["tflite"] = measure_accuracy(outputs, targets, material.classes)
        with stopwatch.time("compile"):
            compilation = products.compile(board, folder)
        with stopwatch.time("bench"):
            measured = products.measure(place) if measure else None
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
                predictions=predict_costs(request.deployment, products.before, products.model),
                rounds=describe_rounds(rounds),
                equivalence={
                    "max_abs_error": pruned.equivalence.max_abs_error,
                    "scale": pruned.equivalence.scale,
                },
                agreement=verification["top1_agreement"],
                verification=verification,
                quantization=describe_conversion(made),
                edgetpu=compilation,
                recovery=pruned.chosen.name,
                candidates=_candidates(pruned),
                fine_tuning=describe_tuning(tuned),
                classes=material.names,
                widths=_widths(pruned),
                settings=settings,
                warnings=tuple(warnings),
                seconds=stopwatch.seconds,
                versions=versions,
                seed=seed,
                command=command,
            )
        )
    for name in OPTIONAL_FILES - set(outcome.files):
        (folder / name).unlink(missing_ok=True)  # of an earlier build
    return Built(made.model, outcome, folder)


def _candidates(pruned: Pruned) -> tuple[Mapping[str, Any], ...]:
    return tuple(
        {
            "method": candidate.method,
            "recovery": candidate.name,
            "validation_accuracy": candidate.grade.accuracy,
        }
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
