"""Proof and measurement: slim against cut, and accuracy on held-out samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import keras
import numpy as np

from edgeprune.errors import EquivalenceError
from edgeprune.surgery.channel_removal import mask_channels
from edgeprune.surgery.plan import Plan
from edgeprune.surgery.precision import in_float32
from edgeprune.tracing.groups import Groups
from edgeprune.tracing.inference import answer, full_float32, make_answerable
from edgeprune.tracing.replica import replace_softmax

TOLERANCE = 1e-4
BATCH_SIZE = 128
COMPILED_FROM = 1024
Samples = np.ndarray | Sequence[np.ndarray] | Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Equivalence:
    """How far two models that must be equal are apart.

    Attributes:
        max_abs_error: largest absolute difference between their logits.
        scale: largest absolute logit of the reference.
        samples: number of inputs compared.
    """

    max_abs_error: float
    scale: float
    samples: int

    @property
    def relative(self) -> float:
        """The error as a fraction of the scale."""
        return self.max_abs_error / self.scale if self.scale > 0 else self.max_abs_error


@full_float32()
def check_equivalence(
    model: keras.Model,
    smaller: keras.Model,
    plan: Plan,
    groups: Groups,
    inputs: Samples,
    *,
    tolerance: float = TOLERANCE,
) -> Equivalence:
    """Prove on given inputs that the pruned model computes what the plan says, in every output.

    Models in mixed precision are compared in float32.

    Args:
        model: the original.
        smaller: `remove_channels(model, plan)`, before any recovery.
        plan: the plan.
        groups: the groups of the original.
        inputs: `(n, ...)` preprocessed samples, one array per input if there are several (a list,
            or a dict if the model takes one); noise of the same range is added to floats, because
            real images alone may leave channels silent.
        tolerance: largest accepted error as a fraction of the scale of the logits.

    Returns:
        The measured difference between slim and cut.

    Raises:
        EquivalenceError: they differ, or one gives NaN: a rule is wrong.
    """
    generator = np.random.default_rng(0)

    def add_noise(samples: np.ndarray) -> np.ndarray:
        if samples.dtype.kind != "f":
            return np.concatenate([samples, samples])
        noise = generator.uniform(samples.min(), samples.max(), samples.shape)
        return np.concatenate([samples, noise.astype(samples.dtype)])

    both = keras.tree.map_structure(add_noise, inputs)
    oracles, found = (
        _logits(mask_channels(model, plan, groups=groups), both),
        _logits(smaller, both),
    )
    result = max(
        (_compare(one, other, plan) for one, other in zip(oracles, found, strict=True)),
        key=lambda measured: np.nan_to_num(measured.relative, nan=np.inf),
    )
    if not result.relative <= tolerance:
        raise EquivalenceError(
            f"The pruned model is not equal to the original with the same channels silenced: error "
            f"{result.max_abs_error:.3g} at a scale of {result.scale:.3g}, at most "
            f"{tolerance:g} of the scale is allowed. A channel rule of one of its layers is wrong; "
            "nothing was written. Please report the model."
        )
    return result


def _logits(model: keras.Model, inputs: Samples) -> list[np.ndarray]:
    """Return every output of a model in float32, before a final softmax or sigmoid."""
    comparable = in_float32(replace_softmax(model))
    batches = []
    for start in range(0, len(keras.tree.flatten(inputs)[0]), BATCH_SIZE):
        batch = keras.tree.map_structure(
            lambda samples, start=start: samples[start : start + BATCH_SIZE], inputs
        )
        outputs = keras.tree.flatten(comparable(batch, training=False))
        batches.append([keras.ops.convert_to_numpy(output) for output in outputs])
    return [np.concatenate(parts).astype(np.float32) for parts in zip(*batches, strict=True)]


def _compare(oracle: np.ndarray, found: np.ndarray, plan: Plan) -> Equivalence:
    expected = oracle if plan.classes is None else oracle[..., list(plan.classes)]
    if expected.shape != found.shape:
        raise EquivalenceError(
            f"The pruned model returns shape {found.shape[1:]}, the plan asks for "
            f"{expected.shape[1:]}."
        )
    error, scale = float(np.abs(expected - found).max()), float(np.abs(expected).max())
    return Equivalence(error, scale, len(found))


@full_float32()
def predict(model: keras.Model, inputs: np.ndarray, *, batch_size: int = BATCH_SIZE) -> np.ndarray:
    """Return a single-output model's outputs on `(n, ...)` inputs, in batches, without training.

    For many samples the model is compiled, which halves the time that each of them takes.
    """
    if len(inputs) > COMPILED_FROM:
        return answer(make_answerable(model), inputs, batch_size)[0]
    batches = [
        keras.ops.convert_to_numpy(model(inputs[start : start + batch_size], training=False))
        for start in range(0, len(inputs), batch_size)
    ]
    return np.concatenate(batches).astype(np.float32)
