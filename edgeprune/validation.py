"""Which of several models is better, on samples that took no part in making them."""

from __future__ import annotations

from dataclasses import dataclass

import keras
import numpy as np
from scipy.special import log_softmax

from edgeprune.datasets import Samples
from edgeprune.replica import ends_in_softmax
from edgeprune.verification import measure_accuracy, predict


@dataclass(frozen=True, order=True)
class Grade:
    """How good a model is: larger is better, accuracy first.

    Attributes:
        accuracy: share of samples answered rightly; NaN-free 0 where no classes are known.
        closeness: minus the mean divergence of its outputs from the original's: cross-entropy for
            classifiers, squared error relative to the variance otherwise.
    """

    accuracy: float
    closeness: float


class Judge:
    """Grades slim models by their answers and by how close they stay to the original."""

    def __init__(
        self, model: keras.Model, samples: Samples, classes: tuple[int, ...] | None
    ) -> None:
        """Ask the original once.

        Args:
            model: the original.
            samples: validation samples; without targets only closeness counts.
            classes: outputs that slim models keep; `None` for all.
        """
        self.samples = samples
        self.classes = classes
        self._softmax = ends_in_softmax(model)
        logits = self._predict(model)
        self._logits = logits if classes is None else logits[..., list(classes)]

    def _predict(self, model: keras.Model) -> np.ndarray:
        outputs = predict(model, self.samples.inputs)
        return np.log(np.maximum(outputs, 1e-30)) if self._softmax else outputs

    def grade(self, smaller: keras.Model) -> Grade:
        """Grade a slim model.

        Args:
            smaller: with the outputs of the original, or only those of the kept classes.
        """
        logits = self._predict(smaller)
        if not np.isfinite(logits).all():
            return Grade(0.0, -np.inf)
        targets = self.samples.targets
        if logits.ndim == 2 and logits.shape[-1] > 1:
            wanted = np.exp(log_softmax(self._logits, axis=-1))
            closeness = float((wanted * log_softmax(logits, axis=-1)).sum(-1).mean())
        else:
            variance = max(float(self._logits.var()), np.finfo(np.float32).tiny)
            closeness = -float(((logits - self._logits) ** 2).mean()) / variance
        known = targets.size and logits.ndim == 2 and logits.shape[-1] > 1
        accuracy = measure_accuracy(logits, targets, self.classes) if known else 0.0
        return Grade(accuracy, closeness)


def hold_out(samples: Samples, *, share: float = 0.25, seed: int = 0) -> tuple[Samples, Samples]:
    """Split samples at random into those to work with and a held-out share.

    Example:
        >>> kept, held = hold_out(Samples(np.zeros((8, 2), np.float32), np.zeros(8, int)))
        >>> len(kept.inputs), len(held.inputs)
        (6, 2)
    """
    order = np.random.default_rng(seed).permutation(len(samples.inputs))
    count = max(1, round(share * len(order)))
    parts = order[count:] if len(order) > 1 else order, order[:count]
    kept, held = (
        Samples(samples.inputs[part], samples.targets[part] if samples.targets.size else part[:0])
        for part in parts
    )
    return kept, held
