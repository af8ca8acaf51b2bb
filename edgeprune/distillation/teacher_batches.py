"""Batches of augmented samples with the original's answers to them, which are asked for once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from edgeprune.distillation.augmentation import Draw
from edgeprune.distillation.student import Teacher
from edgeprune.distillation.training_samples import Source
from edgeprune.distillation.training_settings import Augmentation, Training

KEPT_BYTES = 2**30

TeacherBatch = tuple[np.ndarray, list[np.ndarray]]


class TeacherBatches:
    """What a pruned model is shown, epoch by epoch; the same for the same seed."""

    def __init__(
        self,
        source: Source,
        teacher: Teacher,
        augmentation: Augmentation,
        settings: Training,
        *,
        classes: Sequence[int] | None,
        labels: np.ndarray | None,
    ) -> None:
        """Remember what to show.

        Args:
            source: of the samples.
            teacher: answers them.
            augmentation: of the samples.
            settings: how to train.
            classes: columns of the teacher's first output; `None` for all.
            labels: `(n, classes)` one-hot, appended to the first answer; `None` without.
        """
        self._source = source
        self._teacher = teacher
        self._augmentation = augmentation
        self._settings = settings
        self._classes = None if classes is None else list(classes)
        self._labels = labels
        self.batch_size = min(settings.batch_size, len(source))
        self.steps = len(source) // self.batch_size
        self._round = -1
        self._draw: Draw | None = None
        self._kept: list[np.ndarray] | None = None
        self._known = np.zeros(len(source), bool)

    def read_epoch(self, epoch: int, start: int = 0) -> Iterator[TeacherBatch]:
        """Give the batches of an epoch in random order; the next is prepared while one is in use.

        Args:
            epoch: counted from 0.
            start: how many batches to leave out at the beginning.
        """
        return read_ahead(self._prepare(epoch, start))

    def _prepare(self, epoch: int, start: int) -> Iterator[TeacherBatch]:
        draw = self._draw_round(epoch // self._settings.count_uses(len(self._source)))
        generator = np.random.default_rng((self._settings.seed, 1, epoch))
        order = generator.permutation(len(self._source))
        for step in range(start, self.steps):
            indices = order[step * self.batch_size : (step + 1) * self.batch_size]
            inputs = draw.read(indices)
            answers = self._answer(indices, inputs)
            if self._labels is not None:
                answers = [np.hstack([answers[0], draw.mix(self._labels, indices)]), *answers[1:]]
            yield inputs, answers

    def _draw_round(self, number: int) -> Draw:
        """Draw augmentations, anew for each round of epochs; earlier answers no longer hold."""
        if self._draw is None or (number != self._round and self._augmentation.changes):
            self._draw = Draw(self._source, self._augmentation, (self._settings.seed, 2, number))
            self._known[:] = False
        self._round = number
        return self._draw

    def _answer(self, indices: np.ndarray, inputs: np.ndarray) -> list[np.ndarray]:
        """Return the original's answers, from memory where it has been asked before."""
        if self._kept is not None and self._known[indices].all():
            return [kept[indices] for kept in self._kept]
        answers = self._teacher.answer(inputs)
        if self._classes is not None:
            answers[0] = answers[0][..., self._classes]
        if self._kept is None:
            size = sum(answer[0].nbytes for answer in answers) * len(self._known)
            if size > KEPT_BYTES:
                return answers
            self._kept = [np.empty((len(self._known), *a.shape[1:]), a.dtype) for a in answers]
        for kept, answer in zip(self._kept, answers, strict=True):
            kept[indices] = answer
        self._known[indices] = True
        return answers


def read_ahead(batches: Iterator[TeacherBatch]) -> Iterator[TeacherBatch]:
    """Give the same batches, each made in another thread while the one before is in use.

    Files are decoded and the original answers beside the training step, which leaves cores idle.
    """
    with ThreadPoolExecutor(1, "teacher_batches") as executor:
        coming = executor.submit(next, batches, None)
        while (batch := coming.result()) is not None:
            coming = executor.submit(next, batches, None)
            yield batch
