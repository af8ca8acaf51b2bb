"""Which of several models is better, on samples that took no part in making them."""

from __future__ import annotations

from dataclasses import dataclass

import keras
import numpy as np
from scipy.special import log_softmax

from edgeprune.data import Samples
from edgeprune.evaluation.metrics import measure
from edgeprune.tracing.graph import build_graph, run
from edgeprune.tracing.inference import full_float32
from edgeprune.tracing.outputs import OutputKind, Task, output_kinds

BATCH_SIZE = 256


@dataclass(frozen=True, order=True)
class Score:
    """How good a model is: larger is better, accuracy first.

    Attributes:
        accuracy: share of samples answered rightly; 0 for all where that cannot be told.
        closeness: minus the mean divergence of its outputs from the original's: cross-entropy for
            classifiers, squared error relative to the variance otherwise.
    """

    accuracy: float
    closeness: float

    def describe(self, labelled: bool) -> dict[str, float]:
        """Return the figure that a report shows, by its name."""
        if labelled:
            return {"validation_accuracy": self.accuracy}
        return {"validation_closeness": self.closeness}


class Evaluator:
    """Scores pruned models by their answers and by how close they stay to the original.

    Example:
        >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3)])
        >>> samples = Samples(np.ones((4, 2), np.float32), np.zeros(0, np.int64))
        >>> evaluator = Evaluator(model, samples)
        >>> evaluator.evaluate(model) >= evaluator.evaluate(keras.models.clone_model(model))
        True
    """

    def __init__(
        self,
        model: keras.Model,
        samples: Samples,
        classes: tuple[int, ...] | None = None,
        *,
        outputs: list[np.ndarray] | None = None,
        task: Task = "auto",
    ) -> None:
        """Ask the original once.

        Args:
            model: the original.
            samples: validation samples; without targets only closeness counts.
            classes: outputs that pruned models keep; `None` for all.
            outputs: what the original says about the samples, as `score_outputs` takes it, where
                that is known already.
            task: what the outputs mean, see `output_kinds`.
        """
        self.samples = samples
        self.classes = classes
        known = classes is not None or samples.targets.size > 0
        self.kinds = output_kinds(build_graph(model), task, labelled=known)
        outputs = self._predict(model) if outputs is None else outputs
        self._outputs = outputs if classes is None else [outputs[0][..., list(classes)]]

    @full_float32()
    def _predict(self, model: keras.Model) -> list[np.ndarray]:
        """Return every output, logits in place of probabilities."""
        graph, inputs = build_graph(model), self.samples.inputs
        batches = [
            run(graph, [keras.ops.convert_to_tensor(inputs[start : start + BATCH_SIZE])])
            for start in range(0, len(inputs), BATCH_SIZE)
        ]
        outputs = [
            np.concatenate([keras.ops.convert_to_numpy(part) for part in parts]).astype(np.float32)
            for parts in zip(*batches, strict=True)
        ]
        return [kind.to_logits(x) for kind, x in zip(self.kinds, outputs, strict=True)]

    @property
    def answers(self) -> bool:
        """Whether it can be told how many samples are answered rightly: there are classes."""
        counted = len(self.kinds) == 1 and self.kinds[0].task != "regress"
        return counted and self._outputs[0].ndim == 2 and self.samples.targets.size > 0

    @property
    def original(self) -> Score:
        """The score of the original on the outputs that are kept."""
        return self.score_outputs(self._outputs)

    def evaluate(self, smaller: keras.Model) -> Score:
        """Score a pruned model; one whose outputs are not finite is worse than any other.

        Args:
            smaller: with the outputs of the original, or only those of the kept classes.
        """
        return self.score_outputs(self._predict(smaller))

    def score_outputs(self, found: list[np.ndarray]) -> Score:
        """Score what a model says about the validation samples.

        Args:
            found: every output, `(n, ...)`, logits in place of probabilities.
        """
        if not all(np.isfinite(output).all() for output in found):
            return Score(0.0, -np.inf)
        pairs = zip(self.kinds, self._outputs, found, strict=True)
        closeness = float(np.mean([_compare(*each) for each in pairs]))
        if not self.answers:
            return Score(0.0, closeness)
        result = measure(self.kinds[0], found[0], self.samples.targets, self.classes)
        return Score(result["accuracy"], closeness)


def _compare(kind: OutputKind, wanted: np.ndarray, found: np.ndarray) -> float:
    if kind.kind == "classes":
        probability = np.exp(log_softmax(wanted, axis=-1))
        return float((probability * log_softmax(found, axis=-1)).sum(-1).mean())
    variance = max(float(wanted.var()), float(np.finfo(np.float32).tiny))
    return -float(np.square(found - wanted, dtype=np.float64).mean()) / variance


def hold_out(samples: Samples, *, share: float = 0.25, seed: int = 0) -> tuple[Samples, Samples]:
    """Split samples at random into those to work with and a held-out share, each class alike.

    Args:
        samples: at least one; a single one is in both parts.
        share: of the samples to hold out, at least one; where there are class indices, of every
            class as nearly as whole samples allow.
        seed: of the choice.

    Example:
        >>> kept, held = hold_out(Samples(np.zeros((8, 2), np.float32), np.zeros(8, int)))
        >>> len(kept.inputs), len(held.inputs)
        (6, 2)
    """
    generator = np.random.default_rng(seed)
    order = generator.permutation(len(samples.inputs))
    count = min(max(1, round(share * len(order))), max(1, len(order) - 1))
    targets = samples.targets
    if len(targets) == len(order) > 1 and targets.ndim == 1 and targets.dtype.kind in "iu":
        order = _deal(order, targets[order], count, generator)
    kept, held = order[count:] if len(order) > 1 else order, order[:count]
    return select(samples, kept), select(samples, held)


def _deal(
    order: np.ndarray, targets: np.ndarray, count: int, generator: np.random.Generator
) -> np.ndarray:
    """Return an order whose first samples have the classes in the proportions of all."""
    _, numbers, sizes = np.unique(targets, return_inverse=True, return_counts=True)
    wanted = count * sizes / len(order)
    quota = np.floor(wanted).astype(int)
    # What is left over goes where most is missing; only samples of a class are not taken first.
    first = np.lexsort((generator.random(len(sizes)), quota - wanted, sizes == 1))
    quota[first[: count - quota.sum()]] += 1
    by_class = np.argsort(numbers, kind="stable")
    place = np.empty(len(order), int)
    place[by_class] = np.arange(len(order)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return np.asarray(order[np.argsort(place >= quota[numbers], kind="stable")])


def select(samples: Samples, chosen: np.ndarray) -> Samples:
    """Return some of the samples, with their targets if there are any."""
    targets = samples.targets[chosen] if samples.targets.size else samples.targets
    return Samples(samples.inputs[chosen], targets)
