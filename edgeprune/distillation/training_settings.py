"""How to fine-tune, as data: `Training` and `Augmentation`."""

from __future__ import annotations

import math
import re
from dataclasses import asdict, dataclass
from typing import Any, Literal

from edgeprune.errors import EdgepruneError

UNITS = {"s": 1.0, "sec": 1.0, "min": 60.0, "h": 3600.0}
FORMS = "a time such as 90s, 5min or 1h, or a number of passes over the data such as 20epochs"


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
    """Settings of `fine_tune`; the defaults are common ones, compared with few others.

    Attributes:
        seconds: wall time for everything, compilation and validation included; `None` for no limit.
        epochs: passes over the data, at most; `None` for no limit. Runs that end by epochs rather
            than by time are repeatable.
        augmentation: of the training images; `auto` flips and shifts where the original answers
            flipped and shifted images alike; `None` changes nothing.
        batch_size: samples per step.
        optimizer: `adamw`, which suits inputs and weights of any scale, or `sgd` with momentum 0.9
            (Nesterov).
        learning_rate: at the end of the warm-up; from there it falls to zero along a cosine.
        weight_decay: of kernels, decoupled from the gradient.
        distillation: share of the loss that the original's answers get, the rest goes to labels;
            without labels it is 1.
        temperature: by which logits are divided before they are compared (Hinton et al., 2015).
        features: weight of attention transfer at the ends of blocks (Zagoruyko and Komodakis,
            2017); 0 compares answers only.
        reuse: epochs over which an augmented sample and the original's answer to it stay the same;
            more saves asking the original again.
        warm_up: share of the time in which the learning rate rises.
        evaluations: how often validation samples are scored, evenly spread.
        patience: stop after this many evaluations without a gain. `None`, the default, never stops
            early: most is gained at the end, when the steps are small. The best state counts.
        rounds: steps in which pruning and fine-tuning alternate, used by `prune_in_rounds`.
        seed: of everything that is drawn.
    """

    seconds: float | None = 300.0
    epochs: float | None = None
    augmentation: Augmentation | Literal["auto"] | None = "auto"
    batch_size: int = 64
    optimizer: Literal["adamw", "sgd"] = "adamw"
    learning_rate: float = 1e-3
    weight_decay: float = 1e-2
    distillation: float = 0.9
    temperature: float = 8.0
    features: float = 0.0
    reuse: int = 2
    warm_up: float = 0.05
    evaluations: int = 10
    patience: int | None = None
    rounds: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse settings that cannot be meant."""
        if self.seconds is None and self.epochs is None:
            raise EdgepruneError("Fine-tuning needs an end: give seconds, epochs or both.")
        if self.optimizer not in ("sgd", "adamw"):
            raise EdgepruneError(f"The optimizer must be sgd or adamw. Got '{self.optimizer}'.")
        for name in ("seconds", "epochs", "learning_rate", "temperature"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise EdgepruneError(f"Fine-tuning needs a finite {name} above 0. Got {value}.")
        for name in ("batch_size", "reuse", "evaluations", "rounds"):
            if getattr(self, name) < 1:
                raise EdgepruneError(f"Fine-tuning needs {name} of at least 1.")
        for name in ("distillation", "warm_up"):
            if not 0 <= getattr(self, name) <= 1:
                raise EdgepruneError(f"Fine-tuning needs {name} between 0 and 1.")

    @classmethod
    def parse(cls, given: Training | str) -> Training:
        """Return settings as they are, or read how long to train, as after `--fine-tune`.

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
            raise EdgepruneError(
                f"Cannot read '{given}' as an amount of fine-tuning. Give {FORMS}."
            )
        amount, unit = float(match[1]), match[2] or "s"
        if unit.startswith("epoch"):
            return cls(seconds=None, epochs=amount)
        return cls(seconds=amount * UNITS[unit])

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as JSON types."""
        return asdict(self)
