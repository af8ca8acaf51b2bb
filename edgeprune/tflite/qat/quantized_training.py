"""Quantization-aware training: a short fine-tuning in which every value is rounded to 8 bits.

After Jacob et al. (2018), "Quantization and Training of Neural Networks for Efficient
Integer-Arithmetic-Only Inference", with the simulated rounding of tensorflow-model-optimization.
The float model is the teacher and labels, where there are some, have a say. BatchNorm keeps its
statistics: a few hundred samples would spoil them.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import softmax

from edgeprune.errors import ConversionError
from edgeprune.support.progress import stage
from edgeprune.tflite.qat.annotation import annotate, set_ranges
from edgeprune.tflite.qat.bridge import bring_back, to_tf_keras
from edgeprune.tflite.qat.qat_settings import QuantizedTraining
from edgeprune.tracing.graph import build_graph
from edgeprune.tracing.outputs import OutputKind, output_kinds

if TYPE_CHECKING:
    import keras

SMALLEST = 10
RANGE_SAMPLES = 256
HELD_OUT = 5
"""One in so many samples decides which epoch is kept."""


@dataclass(frozen=True, eq=False)
class Trained:
    """A model after training for integers.

    Attributes:
        model: of Keras 3, with the trained weights.
        losses: distance to what is learnt on held-out samples, simulated in integers: before
            training, then after each epoch.
        chosen: which of them the model is; 0 is the untrained one.
        left: layers that were trained without rounding, because tensorflow-model-optimization has
            no form for them: `name (type)`. The conversion rounds them all the same.
        seconds: that it took.
    """

    model: keras.Model = field(repr=False)
    losses: tuple[float, ...]
    chosen: int
    left: tuple[str, ...]
    seconds: float


def train_for_int8(
    model: keras.Model,
    samples: Mapping[str, np.ndarray],
    targets: np.ndarray | None,
    training: QuantizedTraining,
) -> Trained:
    """Fine-tune a model so that 8-bit integers hurt it less.

    Args:
        model: of Keras 3, in float32; it is not changed.
        samples: by input name in the model's order, each `(n, ...)`, preprocessed.
        targets: true classes `(n,)`; `None` learns from the float model alone.
        training: how long.

    Returns:
        The model of the best epoch by held-out samples, which may be the one before training.

    Raises:
        ConversionError: a layer has no counterpart in tf_keras, the package is missing, or there
            are too few samples.
    """
    arrays = [array.astype(np.float32) for array in samples.values()]
    count = len(arrays[0])
    if count < SMALLEST:
        raise ConversionError(
            f"Scheme 'int8-qat' trains on the calibration samples and needs at least {SMALLEST}. "
            f"Got {count}."
        )
    started = time.monotonic()
    twin = to_tf_keras(model, [array[:4] for array in arrays])
    student, left = annotate(twin.model)
    generator = np.random.default_rng(training.seed)
    order = generator.permutation(count)
    held_out, learned = order[::HELD_OUT], np.setdiff1d(order, order[::HELD_OUT])
    set_ranges(student, twin.model, [array[learned[:RANGE_SAMPLES]] for array in arrays])
    kinds = output_kinds(build_graph(model), labelled=targets is not None)
    answers = _as_chances(kinds, _predict(twin.model, arrays, training.batch_size))
    wanted = _targets(kinds, answers, targets, training.label_weight)
    steps = -(-len(learned) // training.batch_size)
    _compile(student, kinds, training, steps)

    def measure() -> float:
        inside = [array[held_out] for array in arrays]
        found = _as_chances(kinds, _predict(student, inside, training.batch_size))
        return _distance([answer[held_out] for answer in wanted], found)

    losses, chosen, best = [measure()], 0, student.get_weights()
    with stage("training for int8", training.epochs * steps) as advance:
        for epoch in range(1, training.epochs + 1):
            shuffled = generator.permutation(learned)
            for start in range(0, len(shuffled), training.batch_size):
                batch = shuffled[start : start + training.batch_size]
                student.train_on_batch(
                    [array[batch] for array in arrays], [answer[batch] for answer in wanted]
                )
                advance()
            losses.append(measure())
            if losses[-1] < losses[chosen]:
                chosen, best = epoch, student.get_weights()
            if time.monotonic() - started > training.minutes * 60:
                break
    student.set_weights(best)
    return Trained(
        model=bring_back(model, twin, student),
        losses=tuple(losses),
        chosen=chosen,
        left=left,
        seconds=time.monotonic() - started,
    )


def _predict(model: Any, arrays: Sequence[np.ndarray], batch_size: int) -> list[np.ndarray]:
    found = model.predict(list(arrays), batch_size=batch_size, verbose=0)
    return found if isinstance(found, list) else [found]


def _as_chances(kinds: Sequence[OutputKind], outputs: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Return outputs with the probabilities of classes in place of their logits."""
    return [
        softmax(output, axis=-1) if kind.kind == "classes" and kind.ending == "linear" else output
        for kind, output in zip(kinds, outputs, strict=True)
    ]


def _targets(
    kinds: Sequence[OutputKind],
    answers: Sequence[np.ndarray],
    targets: np.ndarray | None,
    weight: float,
) -> list[np.ndarray]:
    """Return what the student learns: the teacher's answers, mixed with the true classes."""
    if targets is None or not weight:
        return list(answers)
    wanted = []
    for kind, answer in zip(kinds, answers, strict=True):
        true = np.asarray(targets, np.float32)[:, None]
        if kind.task != "binary":
            true = np.asarray(targets[:, None] == np.arange(answer.shape[-1]), np.float32)
        mixed = kind.kind != "values" and answer.ndim == 2
        wanted.append((1 - weight) * answer + weight * true if mixed else answer)
    return wanted


def _compile(
    student: Any, kinds: Sequence[OutputKind], training: QuantizedTraining, steps: int
) -> None:
    import tf_keras

    schedule = tf_keras.optimizers.schedules.CosineDecay(
        training.learning_rate, training.epochs * steps
    )
    losses = [
        tf_keras.losses.MeanSquaredError()
        if kind.kind != "classes"
        else tf_keras.losses.KLDivergence()
        if kind.ending == "softmax"
        else tf_keras.losses.CategoricalCrossentropy(from_logits=True)
        for kind in kinds
    ]
    for layer in student.layers:
        inner = getattr(layer, "layer", layer)
        if isinstance(inner, tf_keras.layers.BatchNormalization):
            layer.trainable = False
    student.compile(tf_keras.optimizers.Adam(schedule), losses)


def _distance(answers: Sequence[np.ndarray], found: Sequence[np.ndarray]) -> float:
    """Return the mean squared distance of outputs, relative to what they should be."""
    return sum(
        float(np.square(one - other).mean() / max(float(np.square(one).mean()), 1e-12))
        for one, other in zip(answers, found, strict=True)
    )
