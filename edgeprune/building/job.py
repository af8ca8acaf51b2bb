"""The main job: load, test original, prune, train, export, verify, check budgets, measure."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeprune.benchmarking import BenchResult, Measurement
from edgeprune.boards import Target, find_target
from edgeprune.building.artifacts import OPTIONAL_FILES, Artifacts, Bench, Exporter, latency
from edgeprune.building.closed_loop import (
    Trial,
    cost_of_file,
    describe_rounds,
    make_measurable,
)
from edgeprune.building.production import (
    Making,
    choose_quantity,
    describe_training,
    make_model,
    open_workshop,
    warn_untrained,
)
from edgeprune.building.splits import DataSplits, read_splits, test_original
from edgeprune.building.verification import (
    check_budgets,
    predict_costs,
    verify_file,
    warn_loose_budgets,
)
from edgeprune.cost.budgets import COUNTED, Budgets
from edgeprune.data.data_settings import Data
from edgeprune.data.datasets import check_source
from edgeprune.distillation import Training
from edgeprune.errors import BudgetError
from edgeprune.evaluation.metrics import Result
from edgeprune.latency import Deployment, deploy
from edgeprune.loading.model_file import ModelFile, name_model
from edgeprune.pruning.pruning_settings import Pruning, choose_step
from edgeprune.report import Change, Outcome
from edgeprune.support.deprecation import BUILD, moved_keywords
from edgeprune.support.files import check_output, move_together
from edgeprune.support.progress import stage, timing
from edgeprune.tflite import Conversion, Convertible, check_operators, describe_conversion
from edgeprune.tflite.edgetpu import find_compiler, is_edgetpu
from edgeprune.tflite.export_settings import Export
from edgeprune.tflite.runtime import find_runtime

if TYPE_CHECKING:
    import keras

    from edgeprune.pruning.one_shot import BudgetLike, Pruned

DEFAULT_TARGET = "x86-64"
COMMAND: ContextVar[str] = ContextVar("command", default="edgeprune.build(...)")
"""What the report says to repeat a build with; the command line sets its own."""


@dataclass(frozen=True)
class Built:
    """What a build made.

    Attributes:
        model: the delivered Keras model.
        outcome: all figures.
        folder: where the files are.
    """

    model: keras.Model = field(repr=False)
    outcome: Outcome
    folder: Path


@dataclass(frozen=True, eq=False)
class Job:
    """What is asked for, checked as far as it can be without loading anything."""

    model: str | os.PathLike[str] | ModelFile | keras.Model
    data: Data
    classes: str | Sequence[str | int] | None
    target: Target
    budgets: Budgets
    out: Path
    pruning: Pruning
    training: Training | None
    export: Export
    measurement: Measurement
    deployment: Deployment

    def __post_init__(self) -> None:
        """Refuse what can be refused now.

        Raises:
            EdgepruneError: a place to read or write is not there, or a budget cannot be judged.
        """
        file = self.model if isinstance(self.model, ModelFile) else ModelFile(self.model)
        check_output(self.out, inputs=(file.path, file.weights, self.data.source))
        check_source(self.data.source)
        for budget in self.budgets:
            if budget.quantity in ("latency", "energy"):
                self.deployment.require(budget.quantity)

    def to_dict(self) -> dict[str, Any]:
        """Return the settings for the report as JSON types; a model in memory by its name."""
        return {
            "model": name_model(self.model),
            "target": self.target.name,
            "budget": str(self.budgets),
            **self.data.to_dict(),
            **self.pruning.to_dict(),
            "training": None if self.training is None else self.training.to_dict(),
            **self.export.to_dict(),
        }

    def to_public_dict(self) -> dict[str, Any]:
        """Return the settings without what only this machine knows: folders of files."""
        settings = self.to_dict()
        named = {key: Path(str(settings[key])).name for key in ("model", "data")}
        return settings | named | {"versions": _list_versions()}


@moved_keywords(BUILD)
def build(
    model: str | os.PathLike[str] | ModelFile | keras.Model,
    data: Any,
    *,
    classes: str | Sequence[str | int] | None = None,
    target: str = DEFAULT_TARGET,
    budget: BudgetLike = "macs=50%",
    out: str | os.PathLike[str] = "edgeprune-output",
    pruning: Pruning | str | None = None,
    training: Training | str | None = "balanced",
    export: Export | str | None = None,
    measurement: Measurement | None = None,
) -> Built:
    """Build a specialist for a board: prune, prove, recover, quantize, verify, measure.

    Args:
        model: a file that `load_model` opens, or a model.
        data: a `Data`, or its source: an image folder, `.npz`, the name of a data set, arrays or a
            `tf.data.Dataset`.
        classes: names or indices of the classes to keep, in the order of the new outputs; `None`
            keeps all.
        target: name of a target; it gives the number format, the channel step and the threads.
        budget: the most the delivered model may cost, such as `"latency=20ms,size=500KB"`. Latency
            and energy are those predicted for the target, or latency measured, see `Measurement`.
        out: folder for the files; made if missing, files of an earlier build are replaced.
        pruning: how channels are chosen; a text is the name of a method.
        training: towards the original's outputs, on the train split: `"balanced"` (at most 90 s),
            `"thorough"` (at most 5 minutes), a length such as `"5min"`, `"fast"` or `None` for
            none.
        export: the form of the `.tflite`; a text is a number format, by default the target's.
        measurement: where and whether latency is measured.

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
    job = _plan(
        model, data, classes, target, budget, out,
        pruning=pruning, training=training, export=export, measurement=measurement,
    )  # fmt: skip
    with timing() as seconds:
        original = _load(job)
        job.pruning.find_method()  # a wrong name is told before the work starts
        splits = read_splits(original, job.data, job.classes, job.pruning.seed)
        splits, results, warnings = _test_original(original, splits)
        exporter, trial = _open_trial(job, original, splits)
        making = make_model(
            open_workshop(original, splits, exporter, trial, job.budgets, job.pruning, job.out),
            job.training,
        )
        pruned, made, deployment = making.pruned, making.exported, making.deployment
        with move_together(job.out) as workspace:
            artifacts = Artifacts(workspace)
            artifacts.write(pruned, made, splits.names)
            outputs, verification = _verify(job, artifacts, made, splits)
            results |= _test(pruned, splits) | {"tflite": splits.measure(outputs)}
            _write_originals(job, exporter, trial, artifacts)
            compilation = artifacts.compile(job.target, job.out)
            measured = _measure(job, artifacts)
            checks = check_budgets(job.budgets, making, _find_latency(job, making, measured))
            costs = _list_costs(job.budgets, pruned, trial, deployment)
            latency_ms, where = latency(measured)
            outcome = artifacts.finish(
                Outcome(
                    accuracy={
                        name: found["accuracy"]
                        for name, found in results.items()
                        if "accuracy" in found
                    },
                    errors={name: found for name, found in results.items() if "mae" in found},
                    task={"task": splits.kind.task, "reason": splits.kind.reason},
                    test_samples=splits.count_tests(),
                    macs=Change(pruned.before.require_macs(), pruned.after.require_macs()),
                    params=Change(pruned.before.params, pruned.after.params),
                    size_bytes=Change(len(trial.original.content), len(made.content)),
                    budgets=tuple(check.to_dict() for check in checks),
                    latency_ms=latency_ms,
                    latency_measured=where,
                    predictions=predict_costs(deployment, artifacts.before, artifacts.model),
                    trials=making.trials,
                    rounds=describe_rounds(making.rounds) if len(making.rounds) > 1 else (),
                    equivalence={
                        "max_abs_error": pruned.equivalence.max_abs_error,
                        "scale": pruned.equivalence.scale,
                    },
                    agreement=verification[
                        "r2" if splits.kind.task == "regress" else "top1_agreement"
                    ],
                    verification=verification,
                    quantization=describe_conversion(made),
                    edgetpu=compilation,
                    recovery=pruned.chosen.name,
                    candidates=_describe_candidates(pruned, splits.dataset.labelled),
                    training=describe_training(pruned.training, splits.dataset.labelled),
                    classes=splits.names,
                    widths=_list_widths(pruned),
                    settings=job.to_dict(),
                    warnings=(
                        *warnings,
                        *warn_untrained(job.training, splits, job.pruning.seed),
                        *([making.note] if making.note else []),
                        *warn_loose_budgets(checks, job.budgets, costs),
                        *_find_caveats(pruned),
                        *([made.warning] if made.warning else []),
                    ),
                    seconds=seconds,
                    versions=_list_versions(),
                    seed=job.pruning.seed,
                    command=COMMAND.get(),
                )
            )
    for name in OPTIONAL_FILES - set(outcome.files):
        (job.out / name).unlink(missing_ok=True)  # of an earlier build
    return Built(made.model, outcome, job.out)


def _plan(
    model: str | os.PathLike[str] | ModelFile | keras.Model,
    data: Any,
    classes: str | Sequence[str | int] | None,
    target: str,
    budget: BudgetLike,
    out: str | os.PathLike[str],
    *,
    pruning: Pruning | str | None,
    training: Training | str | None,
    export: Export | str | None,
    measurement: Measurement | None,
) -> Job:
    """Settle everything that can be settled before anything is loaded."""
    board, data, measurement = find_target(target), Data.parse(data), measurement or Measurement()
    pruning, budgets = Pruning.parse(pruning), Budgets.parse(budget)
    export = Export.parse(export).resolve(board, data.scaling)
    scheme = export.scheme or "int8"
    deployment = deploy(board.name, board.prediction, scheme, export.io, export.input)
    if measurement.until_met:
        if is_edgetpu(board.delegate) and find_compiler() is None:
            raise BudgetError(
                f"--measure on {board.name} needs edgetpu_compiler on the PATH (x86-64 Linux): "
                "what is measured there has to be compiled. Budget without it, or measure on the "
                "board's CPU: --target rpi4."
            )
        deployment = make_measurable(budgets, deployment, board)
    return Job(
        model, data, classes, board, budgets, Path(out),
        pruning
        if pruning.step is not None
        else replace(pruning, step=_choose_step(budgets, board, deployment)),
        Training.choose(training),
        export, measurement, deployment,
    )  # fmt: skip


def _choose_step(budgets: Budgets, board: Target, deployment: Deployment) -> int:
    """Return the step of widths: the target's where milliseconds are budgeted or made few."""
    if budgets.drop is not None and choose_quantity(budgets, deployment) == "latency":
        return board.channel_step
    return choose_step(budgets, board.channel_step)


@stage("starting TensorFlow, loading model")
def _load(job: Job) -> keras.Model:
    from edgeprune.loading import load_model

    return load_model(job.model)


@stage("testing the original")
def _test_original(
    original: keras.Model, splits: DataSplits
) -> tuple[DataSplits, dict[str, Result], list[str]]:
    return test_original(original, splits)


def _open_trial(job: Job, original: keras.Model, splits: DataSplits) -> tuple[Exporter, Trial]:
    """Convert the original, which shows early what the number format cannot express."""
    convertible = Convertible(original)
    exporter = Exporter(convertible, splits, job.export, {"settings": job.to_public_dict()})
    with stage("checking the operators"):
        check_operators(convertible, exporter.scheme, fallback=job.export.quantization.fallback)
    job.export.store(splits.test.inputs[:1], splits.preprocess)
    bench = Bench(job.target, job.measurement) if job.measurement.until_met else None
    return exporter, Trial(exporter, job.deployment, exporter.export_original(), bench)


@stage("verifying the .tflite")
def _verify(
    job: Job, artifacts: Artifacts, made: Conversion, splits: DataSplits
) -> tuple[Any, dict[str, Any]]:
    from edgeprune.evaluation.equivalence import predict

    expected = predict(made.model, splits.test.inputs)
    return verify_file(artifacts.model, made.model, splits, expected, job.export)


@stage("testing the pruned model")
def _test(pruned: Pruned, splits: DataSplits) -> dict[str, Result]:
    from edgeprune.evaluation.equivalence import predict

    models = {"pruned": pruned.unrecovered, "recovered": pruned.recovered}
    if pruned.training is not None:
        models["trained"] = pruned.model
    return {
        name: splits.measure(predict(model, splits.test.inputs)) for name, model in models.items()
    }


def _write_originals(job: Job, exporter: Exporter, trial: Trial, artifacts: Artifacts) -> None:
    in_float = None
    if job.measurement.latency and trial.original.scheme != "float32":
        in_float = exporter.export_original("float32").content
    artifacts.write_originals(trial.original.content, in_float)


@stage("measuring")
def _measure(job: Job, artifacts: Artifacts) -> BenchResult | None:
    if not job.measurement.latency:
        return None
    return artifacts.measure(Bench(job.target, job.measurement), job.measurement.seconds)


def _find_latency(
    job: Job, making: Making, measured: BenchResult | None
) -> tuple[float, str] | None:
    """Return the measured latency that the budget is about, and where it was measured.

    The file has the operators of the one that the loop measured: the faster of both figures counts,
    since others on the machine only ever slow it down. A share is one of the original's latency
    beside it, at the machine's speed of the start.
    """
    if not job.measurement.until_met:
        return None
    found = making.turn.found["latency"]
    if measured is None:
        return found, "measured"
    after, before = measured["after"].p50_ms, measured["before"].p50_ms
    wanted = next(budget for budget in job.budgets if budget.quantity == "latency")
    if wanted.relative:
        after *= making.limits["latency"] / wanted.amount / before
    return min(found, after), measured["after"].where


def _list_costs(
    budgets: Budgets, pruned: Pruned, trial: Trial, deployment: Deployment
) -> dict[str, float]:
    """Return what the original costs of every quantity that is budgeted."""
    return {
        budget.quantity: float(getattr(pruned.before, budget.quantity))
        if budget.quantity in COUNTED
        else cost_of_file(budget.quantity, trial.original.content, deployment)
        for budget in budgets
    }


def _find_caveats(pruned: Pruned) -> list[str]:
    """Say so where the work of a layer cannot be counted."""
    from edgeprune.cost.cost_model import CostModel

    caveat = CostModel(pruned.groups).caveat
    return [caveat] if caveat else []


def _describe_candidates(pruned: Pruned, labelled: bool) -> tuple[Mapping[str, Any], ...]:
    return tuple(
        {
            "criterion": candidate.criterion,
            "recovery": candidate.name,
            **candidate.score.describe(labelled),
        }
        for candidate in pruned.candidates
    )


def _list_widths(pruned: Pruned) -> Mapping[str, tuple[int, int]]:
    kept = pruned.plan.keep
    return {
        group.name: (group.width, len(kept.get(group.name, range(group.width))))
        for group in pruned.groups.removable
    }


def _list_versions() -> Mapping[str, str]:
    found = {"python": platform.python_version(), "runtime": str(find_runtime())}
    for name in ("edgeprune", "tensorflow", "keras", "numpy"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
