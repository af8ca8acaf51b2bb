"""How good answers are: the measure that fits what the outputs mean, told in one place."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from edgeprune.tracing.outputs import OutputKind

Result = dict[str, float]
"""Measures by name."""


def measure(
    kind: OutputKind,
    outputs: np.ndarray,
    targets: np.ndarray,
    classes: tuple[int, ...] | None = None,
    *,
    cut: bool = True,
) -> Result:
    """Hold the answers to samples against what they should be.

    Args:
        kind: what the outputs mean.
        outputs: `(n, ...)`.
        targets: class indices `(n,)` in the numbering of the model's original outputs, or what the
            outputs should be, `(n, ...)`.
        classes: the classes that may be answered, in the order of the new outputs; `None` allows
            all.
        cut: whether the outputs are those of `classes`, in that order; else they are the
            original's, of which the others are masked.

    Returns:
        `accuracy`, the share of right answers (with several yes or no in a sample, of those); of
        numbers `mae`, the mean absolute error, and `r2`, the share of the variance of the targets
        that is explained: 1 is perfect, 0 what their mean would reach.

    Example:
        >>> from edgeprune.tracing.outputs import OutputKind
        >>> measure(OutputKind("regress", "linear", 1), np.array([[1], [2]]), np.array([[1], [3]]))
        {'mae': 0.5, 'r2': 0.5}
        >>> outputs, targets = np.array([[0.5, 0.3, 0.2], [0.1, 0.2, 0.7]]), np.array([1, 2])
        >>> measure(OutputKind("classify", "softmax", 3), outputs, targets, (1, 2), cut=False)
        {'accuracy': 1.0}
    """
    if kind.task == "regress":
        expected = targets.reshape(outputs.shape).astype(np.float64)
        off = expected - outputs
        spread = float(np.square(expected - expected.mean(axis=0)).sum())
        rest = float(np.square(off).sum())
        r2 = 1 - rest / spread if spread else float(rest == 0)
        return {"mae": float(np.abs(off).mean()), "r2": r2}
    if targets.ndim > 1:
        return {"accuracy": float((kind.decide(outputs) == (targets > 0.5)).mean())}
    if classes is not None and not cut:
        outputs = outputs[:, list(classes)]
    answers = kind.answer(outputs)
    right = (answers if classes is None else np.asarray(classes)[answers]) == targets
    return {"accuracy": float(right.mean())}


def take_for_targets(kind: OutputKind, outputs: np.ndarray) -> np.ndarray:
    """Return the answers of a model as targets, for samples that have none.

    Args:
        kind: what the outputs mean: numbers, or several answers of yes or no.
        outputs: `(n, ...)`.
    """
    return outputs if kind.task == "regress" else kind.decide(outputs).astype(np.float32)


def measure_agreement(kind: OutputKind, expected: np.ndarray, found: np.ndarray) -> float:
    """Return how well two models agree: share of equal answers, or R2 where they are numbers.

    Args:
        kind: what the outputs mean.
        expected: `(n, ...)` of the one.
        found: of the other.
    """
    if kind.task == "regress":
        return measure(kind, found, expected)["r2"]
    return float((kind.answer(found) == kind.answer(expected)).mean())
