"""What only some criteria need of the calibration samples: worked out when one of them asks."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from edgeprune.groups import Groups


@dataclass(frozen=True, eq=False)
class Observations:
    """Calibration samples of one model, and what is seen when it runs on them.

    The plain statistics serve most criteria and stay cheap; everything here is computed at most
    once, on first use, and shared by all who ask.

    Attributes:
        groups: of the model, which is in their graph.
        inputs: `(n, ...)` preprocessed samples.
        targets: `(n,)` output that each belongs to; none where that is not known.
        classes: outputs that will be kept; samples of others are left out. `None` for all.
        seed: of everything that is drawn.
    """

    groups: Groups = field(repr=False)
    inputs: np.ndarray = field(repr=False)
    targets: np.ndarray = field(repr=False, default_factory=lambda: np.empty(0, np.int64))
    classes: tuple[int, ...] | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        """Leave out what belongs to other classes."""
        if self.classes is None or not self.targets.size:
            return
        kept = np.isin(self.targets, self.classes)
        object.__setattr__(self, "inputs", self.inputs[kept])
        object.__setattr__(self, "targets", self.targets[kept])
