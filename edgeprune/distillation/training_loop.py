"""The loop: batches until the schedule ends, validation now and then, the best state kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgeprune.distillation.checkpoints import Checkpoint
from edgeprune.distillation.schedule import Schedule, learning_rate
from edgeprune.distillation.student import Student
from edgeprune.distillation.teacher_batches import TeacherBatches
from edgeprune.distillation.training_settings import Training
from edgeprune.evaluation.evaluator import Score
from edgeprune.support.progress import Advance, remark

# The last step and evaluation must end within the time limit, on a machine that others use as well.
RESERVE = 1.25


@dataclass(frozen=True)
class Evaluation:
    """How good the model was at one moment.

    Attributes:
        step: of gradient descent.
        seconds: since the start.
        loss: mean over the steps since the evaluation before.
        accuracy: on validation samples.
        closeness: to the original on them, see `Score`.
    """

    step: int
    seconds: float
    loss: float
    accuracy: float
    closeness: float


class TrainingLoop:
    """Trains a student; afterwards its attributes say how it went.

    Attributes:
        before: score of the student at the start.
        best: the best score so far.
        best_weights: the weights that got it.
        step: how many steps have been taken.
        history: all evaluations.
        stopped: why the training ended.
    """

    def __init__(
        self,
        student: Student,
        teacher_batches: TeacherBatches,
        schedule: Schedule,
        settings: Training,
        score: Callable[[Student], Score],
    ) -> None:
        """Score the student as it comes.

        Args:
            student: will be trained.
            teacher_batches: what it is shown.
            schedule: when to end.
            settings: how to train.
            score: on validation samples.
        """
        self._student = student
        self._batches = teacher_batches
        self._schedule = schedule
        self._settings = settings
        self._grade = score
        self._peak = settings.rate
        self._losses: list[float] = []
        self._fruitless = 0
        self._evaluation_seconds = 0.0
        self._place: tuple[Path, str] | None = None
        self.step = 0
        self.history: list[Evaluation] = []
        self.stopped = ""
        self.best_weights = self._start = student.weights
        self.before = self.best = self._evaluate()

    @property
    def learned(self) -> list[np.ndarray] | None:
        """The best weights; `None` where nothing was gained."""
        return None if self.best == self.before else self.best_weights

    def keep(self, path: Path, fingerprint: str) -> None:
        """Write checkpoints, and go on from the one that is there.

        Args:
            path: of the checkpoint.
            fingerprint: of the run it belongs to.
        """
        self._place = path, fingerprint
        found = Checkpoint.load(path, fingerprint, self._start)
        if found is None:
            return
        self._student.weights = list(found.weights)
        self._student.optimizer = list(found.optimizer)
        self.best_weights = list(found.best)
        state = found.state
        self.step, self._peak = state["step"], state["peak"]
        self._fruitless = state["fruitless"]
        self.before, self.best = Score(*state["before"]), Score(*state["best"])
        self.history = [Evaluation(**entry) for entry in state["history"]]
        self._schedule.resume(state["seconds"])

    def run(self, advance: Advance) -> None:
        """Train until time or epochs are over, or nothing is gained any more.

        Args:
            advance: called about a hundred times, evenly spread.
        """
        told = 0
        first = self.step == 0
        if first:
            self._schedule.begin()
        due = self._due()
        try:
            while not self.stopped:
                epoch, start = divmod(self.step, self._batches.steps)
                for inputs, wanted in self._batches.read_epoch(epoch, start):
                    done = self._schedule.progress(self.step)
                    for _ in range(told, int(100 * done)):
                        advance()
                    told = max(told, int(100 * done))
                    if done >= 1:
                        self.stopped = self._schedule.reason(self.step)
                        break
                    if done >= due:
                        self._look()
                        due = self._due()
                        if self.stopped:
                            break
                    self._learn(inputs, wanted, done)
                    if first:
                        first = False
                        self._schedule.begin()
            if self.step and (not self.history or self.history[-1].step != self.step):
                self._look()
        except (KeyboardInterrupt, SystemExit):
            self._save()
            raise
        if self._place is not None:
            self._place[0].unlink(missing_ok=True)

    def _due(self) -> float:
        """Return how far the training will have come at the next evaluation."""
        done = self._schedule.progress(self.step)
        return (int(done * self._settings.evaluations) + 1) / self._settings.evaluations

    def _learn(self, inputs: np.ndarray, wanted: list[np.ndarray], done: float) -> None:
        start = self._schedule.elapsed
        rate = learning_rate(done, self._peak, self._settings.warm_up)
        loss = self._student.step(inputs, wanted, rate)
        self.step += 1
        step_seconds = self._schedule.elapsed - start
        self._schedule.reserve = RESERVE * (step_seconds + self._evaluation_seconds)
        self._losses.append(loss)
        if not np.isfinite(loss):
            self._go_back()

    def _go_back(self) -> None:
        """Start again from the best state with smaller steps: the last ones led to infinity."""
        self._losses.clear()
        self._student.weights = self.best_weights
        self._student.optimizer = [np.zeros_like(value) for value in self._student.optimizer]
        self._peak /= 2

    def _look(self) -> None:
        """Score the student, keep it if it is the best, and write a checkpoint."""
        score = self._evaluate()
        loss = float(np.mean(self._losses)) if self._losses else float("nan")
        self._losses.clear()
        seconds = round(self._schedule.elapsed, 3)
        self.history.append(Evaluation(self.step, seconds, loss, score.accuracy, score.closeness))
        self._remark()
        self._fruitless += 1
        if self._is_better(score):
            self.best, self.best_weights, self._fruitless = score, self._student.weights, 0
        self._save()
        patience = self._settings.patience
        if patience is not None and self._fruitless >= patience:
            self.stopped = "patience"

    def _remark(self) -> None:
        """Show the curve on validation samples: accuracies, or how far from the original."""
        scores: list[Score | Evaluation] = [self.before, *self.history]
        if any(score.accuracy for score in scores):
            curve, unit = [f"{100 * score.accuracy:.1f}" for score in scores], " %"
        else:
            curve, unit = [f"{-score.closeness:.3g}" for score in scores], " from the original"
        remark(f"validation {' '.join(curve)}{unit}")

    def _is_better(self, score: Score) -> bool:
        """Judge by what is trained for: closeness to the original is steadier than accuracy.

        What answers fewer samples rightly than the start is none, however close it is: an original
        can be worse than what the closed form made of it.
        """
        if self._settings.distillation < 1:
            return score > self.best
        closer = score.closeness > self.best.closeness
        return closer and score.accuracy >= self.before.accuracy

    def _evaluate(self) -> Score:
        start = self._schedule.elapsed
        score = self._grade(self._student)
        self._evaluation_seconds = self._schedule.elapsed - start
        return score

    def _save(self) -> None:
        if self._place is None:
            return
        state: dict[str, Any] = {
            "step": self.step,
            "peak": self._peak,
            "fruitless": self._fruitless,
            "seconds": self._schedule.elapsed,
            "before": [self.before.accuracy, self.before.closeness],
            "best": [self.best.accuracy, self.best.closeness],
            "history": [asdict(entry) for entry in self.history],
        }
        student = self._student
        checkpoint = Checkpoint(
            student.weights, self.best_weights, student.optimizer, self._start, state
        )
        checkpoint.save(*self._place)
