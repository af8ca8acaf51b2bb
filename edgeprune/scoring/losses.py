"""What a gated model loses, sample by sample: the loss behind gradients and random masks."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from keras import ops

from edgeprune.tracing.graph import Graph, run
from edgeprune.tracing.groups import Groups
from edgeprune.tracing.outputs import LEAST_PROBABILITY, OutputKind, Task, output_kinds

BATCH_SIZE = 64
MEMORY = 1024**3

Tensor = Any


@dataclass(frozen=True, eq=False)
class Objective:
    """The loss of a model on given samples.

    Classifiers: cross-entropy of the kept classes, the others masked; where targets are not known,
    the original's own answers serve. Other models: half the squared distance to the original's
    outputs, in units of their spread.

    Attributes:
        groups: of the original, which is in their graph.
        inputs: `(n, ...)` samples.
        targets: `(n,)` output that each belongs to; none where that is not known.
        classes: outputs that will be kept; `None` for all.
        seed: of the noise, see `stirred`.
        task: what the outputs mean, see `output_kinds`.
    """

    groups: Groups
    inputs: np.ndarray
    targets: np.ndarray
    classes: tuple[int, ...] | None = None
    seed: int = 0
    task: Task = "auto"

    @cached_property
    def outputs(self) -> list[np.ndarray]:
        """What the original answers."""
        size = batch_size(self.groups.graph)
        parts = [
            run(self.groups.graph, [ops.convert_to_tensor(self.inputs[start : start + size])])
            for start in range(0, len(self.inputs), size)
        ]
        return [
            np.concatenate([np.asarray(ops.convert_to_numpy(part), np.float32) for part in output])
            for output in zip(*parts, strict=True)
        ]

    @cached_property
    def classifies(self) -> bool:
        """Whether there is one output with several classes that exclude each other."""
        kinds = self._kinds
        flat = len(self.groups.graph.outputs[0].shape) == 2
        return len(kinds) == 1 and flat and kinds[0].kind == "classes"

    @cached_property
    def _kinds(self) -> tuple[OutputKind, ...]:
        known = self.classes is not None or self.targets.size > 0
        return output_kinds(self.groups.graph, self.task, labelled=known)

    @cached_property
    def _chosen(self) -> list[int]:
        count = self.outputs[0].shape[-1]
        return list(range(count)) if self.classes is None else list(self.classes)

    @cached_property
    def _answers(self) -> np.ndarray:
        """Position among the kept classes of each sample's class."""
        if self.targets.size:
            place = {number: position for position, number in enumerate(self._chosen)}
            return np.array([place[number] for number in self.targets.tolist()])
        return np.asarray(self.outputs[0][:, self._chosen].argmax(axis=-1))

    def losses(
        self, outputs: list[Tensor], start: int, stop: int, *, stirred: bool = False
    ) -> Tensor:
        """Return the loss of each of some samples, as a tensor.

        Args:
            outputs: of a gated model on these samples.
            start: number of the first sample.
            stop: one past the last.
            stirred: move the goal away from the original's outputs, at random by one standard
                deviation up or down, where it would have no gradient there. Squared gradients then
                estimate how much a change hurts.
        """
        if self.classifies:
            return self._cross_entropy(ops.cast(outputs[0], "float32"), start, stop)
        total = 0.0
        for number, (found, original) in enumerate(zip(outputs, self.outputs, strict=True)):
            scale = max(float(original.std()), float(np.finfo(np.float32).tiny))
            wanted = original[start:stop] / scale
            if stirred:
                signs = np.random.default_rng((self.seed, number, start)).integers(
                    0, 2, wanted.shape
                )
                wanted = wanted + (2 * signs - 1).astype(np.float32)
            error = ops.square(ops.cast(found, "float32") / scale - ops.convert_to_tensor(wanted))
            total = total + ops.mean(ops.reshape(error, (stop - start, -1)), axis=-1) / 2
        return total

    def _cross_entropy(self, output: Tensor, start: int, stop: int) -> Tensor:
        logits = output
        if self._kinds[0].ending == "softmax":
            logits = ops.log(ops.maximum(output, LEAST_PROBABILITY))
        logits = ops.take(logits, np.array(self._chosen), axis=-1)
        one_hot = np.eye(len(self._chosen), dtype=np.float32)[self._answers[start:stop]]
        return -ops.sum(ops.log_softmax(logits, axis=-1) * ops.convert_to_tensor(one_hot), axis=-1)


def batch_size(graph: Graph) -> int:
    """Return how many samples keep all tensors of a model within a gigabyte, 64 at most."""
    numbers = sum(ref.size for call in graph.calls for ref in call.outputs)
    return int(np.clip(MEMORY // max(4 * numbers, 1), 1, BATCH_SIZE))
