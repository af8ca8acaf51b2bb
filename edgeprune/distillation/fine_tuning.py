"""`fine_tune`: a pruned model learns from the original, and keeps what validation prefers."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import keras
import numpy as np

from edgeprune.data import Samples
from edgeprune.distillation.augmentation import find_augmentation
from edgeprune.distillation.objectives import (
    LossFunction,
    Objective,
    find_block_ends,
)
from edgeprune.distillation.schedule import CLOCK, Clock, Schedule
from edgeprune.distillation.student import Student, Teacher
from edgeprune.distillation.teacher_batches import TeacherBatches
from edgeprune.distillation.training_loop import Evaluation, TrainingLoop
from edgeprune.distillation.training_samples import ArraySource, Source
from edgeprune.distillation.training_settings import Augmentation, Training
from edgeprune.errors import DataError, ModelError
from edgeprune.evaluation.evaluator import Evaluator, Score, hold_out
from edgeprune.evaluation.preconditions import ArrayData, check_model, make_samples
from edgeprune.support.fingerprints import fingerprint
from edgeprune.support.progress import stage
from edgeprune.tracing.graph import build_graph, describe_graph
from edgeprune.tracing.inference import full_float32
from edgeprune.tracing.outputs import Kind, OutputKind, Task, output_kinds

PROBES = 256
TINY = float(np.finfo(np.float32).tiny)


@dataclass(frozen=True)
class FineTuned:
    """A fine-tuned model and how it came about.

    Attributes:
        model: the best on validation, a plain Keras model: the given one if nothing was gained.
        before: score on validation of the given model.
        after: of the result: closer to the original and as accurate, or the same; with labels in
            the loss more accurate, or the same.
        epochs: passes over the data.
        steps: of gradient descent.
        seconds: wall time, all included, also that of interrupted runs.
        samples_per_second: training samples over that time.
        augmentation: that was used.
        stopped: why training ended: `time`, `epochs` or `patience`.
        history: every evaluation.
    """

    model: keras.Model = field(repr=False)
    before: Score
    after: Score
    epochs: float
    steps: int
    seconds: float
    samples_per_second: float
    augmentation: Augmentation
    stopped: str
    history: tuple[Evaluation, ...]

    @property
    def gained(self) -> bool:
        """Whether the model is another one than the one given."""
        return self.after != self.before


def fine_tune(
    model: keras.Model,
    original: keras.Model,
    data: ArrayData | Source,
    *,
    settings: Training | str = "5min",
    classes: Sequence[int] | None = None,
    validation: ArrayData | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    clock: Clock = CLOCK,
    task: Task = "auto",
) -> FineTuned:
    """Return a pruned model trained to answer as the original does; labels help, but need not be.

    Knowledge distillation after Hinton et al. (2015): the pruned model is trained towards the
    original's softened logits, on every backend of Keras. The learning rate follows wall time, so
    that a run always ends with small steps, and the best state on validation is kept. All layers
    learn, also those that the model's author froze; BatchNorm layers average over the last ten
    steps while they do.

    Args:
        model: the pruned model; it is not changed.
        original: what it was made from; it is not changed.
        data: preprocessed training samples `(n, ...)`, alone or with class indices `(n,)` in the
            numbering of the original, or a `Source` that reads them as needed. The more, the
            better: the calibration samples alone are soon learnt by heart.
        settings: how to train, or how long: `"5min"`, `"90s"`, `"20epochs"`.
        classes: outputs of the original that the pruned model has kept, in its order.
        validation: samples that choose the best state; a quarter of `data` by default.
        checkpoint: an `.npz` file that is written at every evaluation, and from which a run with
            the same models, data and settings goes on; one of other ones is replaced, with a
            warning. Gone once the run has ended.
        clock: gives seconds.
        task: what the outputs mean, as for `prune`. Classes are compared as distributions, numbers
            by their squared error.

    Returns:
        The model that comes closest to the original on validation without answering fewer samples
        rightly than the one given, or that one; with labels in the loss the most accurate one.

    Raises:
        DataError: the samples do not fit the model, or there is nothing to validate on.
        EdgepruneError: the settings cannot be read.
        ModelError: the two models do not belong together.

    Example:
        >>> layers = [keras.Input((4,)), keras.layers.Dense(8, "relu"), keras.layers.Dense(3)]
        >>> model = keras.Sequential(layers)
        >>> smaller = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
        >>> inputs = np.random.default_rng(0).normal(size=(64, 4))
        >>> tuned = fine_tune(smaller, model, inputs, settings="3epochs")
        >>> tuned.after >= tuned.before
        True
    """
    settings = Training.parse(settings)
    _check_models(model, original, classes)
    chosen = None if classes is None else tuple(int(number) for number in classes)
    source, held_out = _divide(original, data, validation, chosen, settings.seed, task)
    schedule = Schedule(settings.seconds, clock=clock)
    with stage("training", 100) as advance:
        block_ends = find_block_ends(original, model) if settings.features else []
        batch_size = min(settings.batch_size, len(source))
        teacher = Teacher(original, block_ends, batch_size)
        known = chosen is not None or len(source.targets) == len(source)
        outputs = output_kinds(build_graph(original), task, labelled=known)
        kinds = [output.kind for output in outputs]
        with full_float32():
            answers = teacher.answer(held_out.inputs)[: len(kinds)]
        evaluator = Evaluator(
            original, held_out, chosen,
            outputs=_say(answers, outputs),
            task=outputs[0].task if len(outputs) == 1 else task,
        )  # fmt: skip
        augmentation = settings.augmentation
        if augmentation == "auto":
            augmentation = _find_augmentation(teacher, held_out.inputs[:PROBES])
        augmentation = augmentation or Augmentation()
        labels = _one_hot(source.targets, len(source), model, kinds, chosen)
        if settings.distillation == 1:
            labels = None
        losses = _make_losses(teacher, held_out.inputs[:PROBES], kinds, labels, settings)
        student = Student(model, block_ends, losses, settings, held_out.inputs[:PROBES])
        teacher_batches = TeacherBatches(
            source, teacher, augmentation, settings, classes=chosen, labels=labels
        )
        if settings.epochs is not None:
            schedule.steps = max(1, round(settings.epochs * teacher_batches.steps))
        training = TrainingLoop(
            student, teacher_batches, schedule, settings, _make_scorer(evaluator, outputs, held_out)
        )
        if checkpoint is not None:
            whole = _fingerprint(original, source, held_out, outputs, chosen, settings)
            training.keep(Path(checkpoint), whole)
        training.run(advance)
    return FineTuned(
        model=student.finish(training.learned),
        before=training.before,
        after=training.best,
        epochs=round(training.step / teacher_batches.steps, 2),
        steps=training.step,
        seconds=round(schedule.elapsed, 2),
        samples_per_second=round(training.step * teacher_batches.batch_size / schedule.elapsed, 1)
        if schedule.elapsed
        else 0.0,
        augmentation=augmentation,
        stopped=training.stopped,
        history=tuple(training.history),
    )


def _check_models(model: keras.Model, original: keras.Model, classes: Sequence[int] | None) -> None:
    for each in (original, model):
        check_model(each)
    found = [tuple(tensor.shape[1:]) for tensor in (*model.inputs, *model.outputs)]
    wanted = [tuple(tensor.shape[1:]) for tensor in (*original.inputs, *original.outputs)]
    if classes is not None:
        wanted[1] = (*wanted[1][:-1], len(classes))
    if found != wanted:
        raise ModelError(
            f"Model '{model.name}' has inputs and outputs of shapes {found}, the original "
            f"'{original.name}' {wanted}{'' if classes is None else ' with these classes'}. "
            "Expected a pruned model and what it was made from, and the classes it has kept."
        )


def _divide(
    original: keras.Model,
    data: ArrayData | Source,
    validation: ArrayData | None,
    classes: tuple[int, ...] | None,
    seed: int,
    task: Task,
) -> tuple[Source, Samples]:
    """Return training and validation samples of the kept classes."""
    held_out = None
    if validation is not None:
        held_out = make_samples(original, validation, classes, task=task, name="validation data")
    if not isinstance(data, Samples | np.ndarray | tuple):
        if held_out is None:
            raise DataError("A source of training samples needs validation samples beside it.")
        if not len(data):
            raise DataError("There are no training samples in the source.")
        return data, held_out
    samples = make_samples(original, data, classes, task=task, name="training data")
    if held_out is None:
        samples, held_out = hold_out(samples, seed=seed)
    return ArraySource(samples), held_out


def _find_augmentation(teacher: Teacher, inputs: np.ndarray) -> Augmentation:
    answers = teacher.answer(inputs[:1])
    if answers[0].ndim != 2 or answers[0].shape[-1] < 2:
        return Augmentation()
    return find_augmentation(lambda images: teacher.answer(images)[0].argmax(-1), inputs)


def _one_hot(
    targets: np.ndarray,
    count: int,
    model: keras.Model,
    kinds: list[Kind],
    classes: tuple[int, ...] | None,
) -> np.ndarray | None:
    """Return labels `(n, outputs)`, or `None` where there are none or they say nothing."""
    if kinds != ["classes"] or len(targets) != count or len(model.outputs[0].shape) != 2:
        return None
    num_outputs = int(model.outputs[0].shape[-1])
    numbers = np.arange(num_outputs) if classes is None else np.asarray(classes)
    labels = (targets[:, None] == numbers).astype(np.float32)
    if not labels.any(axis=1).all():
        stray = int(targets[int(np.argmin(labels.any(axis=1)))])
        raise DataError(
            f"The training data has class index {stray}, which is none of the model's outputs "
            f"{numbers.tolist()[:10]}. Leave its samples out, or give them without labels."
        )
    return labels


def _make_losses(
    teacher: Teacher,
    inputs: np.ndarray,
    kinds: list[Kind],
    labels: np.ndarray | None,
    settings: Training,
) -> list[LossFunction]:
    answers = teacher.answer(inputs)
    maps = len(answers) - len(kinds)
    objectives = [Objective(kind, labels is not None) for kind in kinds]
    objectives += [Objective("values")] * maps
    scales = [float(answer.var()) for answer in answers[: len(kinds)]] + [1.0] * maps
    return [
        objective.make_loss(
            share=settings.distillation,
            temperature=settings.temperature,
            scale=max(scale, TINY),
        )
        for objective, scale in zip(objectives, scales, strict=True)
    ]


def _make_scorer(
    evaluator: Evaluator, outputs: Sequence[OutputKind], samples: Samples
) -> Callable[[Student], Score]:
    """Return what scores a student in the terms of an evaluator."""

    @full_float32()
    def score(student: Student) -> Score:
        answers = student.answer(samples.inputs, min(PROBES, len(samples.inputs)))
        return evaluator.score_outputs(_say(answers, outputs))

    return score


def _say(answers: list[np.ndarray], outputs: Sequence[OutputKind]) -> list[np.ndarray]:
    """Return outputs as an evaluator expects them: probabilities in place of logits of sigmoids."""
    return [
        1 / (1 + np.exp(-answer)) if output.ending == "sigmoid" else answer
        for answer, output in zip(answers, outputs, strict=True)
    ]


def _fingerprint(
    original: keras.Model,
    source: Source,
    held_out: Samples,
    outputs: Sequence[OutputKind],
    classes: tuple[int, ...] | None,
    settings: Training,
) -> str:
    """Return what a checkpoint must agree with, apart from the weights that training starts with.

    Of the training samples, preprocessed, some are looked at: all of them may be more than memory
    holds.
    """
    some = np.unique(np.linspace(0, len(source) - 1, PROBES).astype(int))
    return fingerprint(
        describe_graph(build_graph(original)), len(source), source.targets, source.read(some),
        held_out, outputs, classes, settings,
    )  # fmt: skip
