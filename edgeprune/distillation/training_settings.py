"""How to fine-tune, as data: `Training` and `Augmentation`."""

from __future__ import annotations

import math
import re
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from edgeprune.errors import EdgepruneError

UNITS = {"s": 1.0, "sec": 1.0, "min": 60.0, "h": 3600.0}
EFFORTS = {"balanced": (90.0, 30.0), "thorough": (300.0, 100.0)}
"""Seconds and epochs at most; `fast` trains nothing."""
ENOUGH = 200
"""Training samples from which an effort trains, see `docs/fine-tuning.md`."""
REUSED_FROM = 3000
FORMS = (
    "fast, balanced, thorough, a time such as 90s, 5min or 1h, or a number of passes over the data "
    "such as 20epochs"
)


@dataclass(frozen=True)
class Augmentation:
    """Random changes to training images; the original answers the changed image.

    Attributes:
        horizontal_flip: mirror half of the images.
        shift: move by up to this share of height and width, the border reflected.
        cutout: side of a square that takes the mean colour of its image, as a share of the smaller
            side (DeVries and Taylor, 2017).
        mixup: largest share of another image that is blended in (after Zhang et al., 2018).
    """

    horizontal_flip: bool = False
    shift: float = 0.0
    cutout: float = 0.0
    mixup: float = 0.0

    def __post_init__(self) -> None:
        """Refuse shares that are none."""
        for name in ("shift", "cutout", "mixup"):
            share = getattr(self, name)
            if not 0 <= share < 1:
                raise EdgepruneError(
                    f"The {name} of an augmentation must be at least 0 and below 1. Got {share}."
                )

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as JSON types."""
        return asdict(self)

    @property
    def changes(self) -> bool:
        """Whether anything is changed at all."""
        return self != Augmentation()


@dataclass(frozen=True)
class Training:
    """Settings of `fine_tune`; the defaults won over the others that `docs/fine-tuning.md` lists.

    Attributes:
        seconds: wall time for everything, compilation and validation included; `None` for no limit.
        epochs: passes over the data, at most; `None` for no limit. Runs that end by epochs rather
            than by time are repeatable.
        augmentation: of the training images; `auto` flips and shifts where the original answers
            flipped and shifted images alike; `None` changes nothing.
        batch_size: samples per step.
        optimizer: `muon` takes orthogonal steps relative to the size of each kernel, with
            BatchNormalization folded away (`RelativeMuon`); `adamw` and `sgd`, with momentum 0.9
            (Nesterov), train on statistics of batches.
        learning_rate: at the end of the warm-up; from there it falls to zero along a cosine. By
            default 0.01 for `muon`, else 0.001.
        weight_decay: of kernels, decoupled from the gradient.
        distillation: share of the loss that the original's answers get, the rest goes to labels;
            at 1 and without labels the closest state to the original is kept, else the most
            accurate one.
        temperature: by which logits are divided before they are compared (Hinton et al., 2015).
        features: weight of attention transfer at the ends of blocks (Zagoruyko and Komodakis,
            2017); 0 compares answers only.
        reuse: epochs over which an augmented sample and the original's answer to it stay the same;
            more saves asking the original again. By default 2 from 3,000 samples on, else 1.
        warm_up: share of the time in which the learning rate rises.
        evaluations: how often validation samples are scored, evenly spread.
        patience: stop after this many evaluations without a gain. `None`, the default, never stops
            early: most is gained at the end, when the steps are small. The best state counts.
        least_samples: with fewer, nothing is trained, and the build says so.
        rounds: steps in which pruning and fine-tuning alternate, used by `prune_in_rounds`.
        seed: of everything that is drawn.
    """

    seconds: float | None = 300.0
    epochs: float | None = None
    augmentation: Augmentation | Literal["auto"] | None = "auto"
    batch_size: int = 32
    optimizer: Literal["muon", "adamw", "sgd"] = "muon"
    learning_rate: float | None = None
    weight_decay: float = 1e-2
    distillation: float = 1.0
    temperature: float = 4.0
    features: float = 0.0
    reuse: int | None = None
    warm_up: float = 0.05
    evaluations: int = 5
    patience: int | None = None
    least_samples: int = 1
    rounds: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse settings that cannot be meant."""
        if self.seconds is None and self.epochs is None:
            raise EdgepruneError("Fine-tuning needs an end: give seconds, epochs or both.")
        if self.optimizer not in ("muon", "adamw", "sgd"):
            raise EdgepruneError(
                f"The optimizer must be muon, adamw or sgd. Got '{self.optimizer}'."
            )
        for name in ("seconds", "epochs", "learning_rate", "temperature"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise EdgepruneError(f"Fine-tuning needs a finite {name} above 0. Got {value}.")
        for name in ("batch_size", "reuse", "evaluations", "rounds"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise EdgepruneError(f"Fine-tuning needs {name} of at least 1.")
        for name in ("distillation", "warm_up"):
            if not 0 <= getattr(self, name) <= 1:
                raise EdgepruneError(f"Fine-tuning needs {name} between 0 and 1.")

    @property
    def rate(self) -> float:
        """The learning rate, or the default of the optimizer."""
        if self.learning_rate is not None:
            return self.learning_rate
        return 0.01 if self.optimizer == "muon" else 0.001

    def shorten(self, share: float) -> Training:
        """Return the same for a share of the time and the epochs."""
        return replace(
            self,
            seconds=None if self.seconds is None else share * self.seconds,
            epochs=None if self.epochs is None else share * self.epochs,
        )

    def count_uses(self, samples: int) -> int:
        """Return over how many epochs an augmented sample stays the same.

        Args:
            samples: how many there are.
        """
        return self.reuse or (2 if samples >= REUSED_FROM else 1)

    @classmethod
    def choose(cls, given: Training | str | None) -> Training | None:
        """Return what an effort stands for, as after `--effort`; `None` trains nothing.

        Raises:
            EdgepruneError: the text is neither an effort nor an amount of training.

        Example:
            >>> Training.choose("fast") is None
            True
            >>> Training.choose("balanced").seconds
            90.0
        """
        if given is None or given == "fast":
            return None
        if isinstance(given, str) and given.strip().lower() in EFFORTS:
            seconds, epochs = EFFORTS[given.strip().lower()]
            return cls(seconds=seconds, epochs=epochs, least_samples=ENOUGH)
        return cls.parse(given)

    @classmethod
    def parse(cls, given: Training | str) -> Training:
        """Return settings as they are, or read how long to train.

        Raises:
            EdgepruneError: the text has none of the forms.

        Example:
            >>> Training.parse("5min").seconds
            300.0
            >>> Training.parse("20epochs").epochs
            20.0
        """
        if isinstance(given, Training):
            return given
        match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(s|sec|min|h|epochs?)?", given.strip().lower())
        if match is None or float(match[1]) <= 0:
            raise EdgepruneError(f"Cannot read '{given}' as an amount of training. Give {FORMS}.")
        amount, unit = float(match[1]), match[2] or "s"
        if unit.startswith("epoch"):
            return cls(seconds=None, epochs=amount)
        return cls(seconds=amount * UNITS[unit])

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as JSON types."""
        return asdict(self)
