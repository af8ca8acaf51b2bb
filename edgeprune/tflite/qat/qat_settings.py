"""How a training that knows the integers is done."""

from __future__ import annotations

from dataclasses import dataclass

from edgeprune.errors import ConversionError


@dataclass(frozen=True)
class QuantizedTraining:
    """How long and how carefully to train.

    Attributes:
        epochs: passes over the samples, at most.
        minutes: of wall time, at most; the epoch under way is finished.
        batch_size: samples per step.
        learning_rate: of Adam at the start; falls to zero along a cosine.
        label_weight: weight of the true classes against the teacher, where there are targets. A
            pruned model may get better by them than its teacher is.
        seed: of the order of the samples.
    """

    epochs: int = 10
    minutes: float = 10.0
    batch_size: int = 32
    learning_rate: float = 1e-4
    label_weight: float = 0.5
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what cannot be trained with."""
        positive = ("epochs", "minutes", "batch_size", "learning_rate")
        for name in positive:
            if not getattr(self, name) > 0:
                raise ConversionError(
                    f"The {name} of the training must be above 0. Got {getattr(self, name)}."
                )
        if not 0 <= self.label_weight <= 1:
            raise ConversionError(
                f"The label_weight of the training must be from 0 to 1. Got {self.label_weight}."
            )
