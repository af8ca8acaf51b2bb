"""How to prune, as data: `Pruning`."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

from edgeprune.cost.budgets import Budgets
from edgeprune.errors import EdgepruneError
from edgeprune.pruning.methods import METHODS, RECALIBRATIONS, Method, Recalibration

DEFAULT_STEP = 8
FINE_STEP = 4


def choose_step(budgets: Budgets, step: int = DEFAULT_STEP) -> int:
    """Return the step of widths for budgets: a finer one where no milliseconds count.

    Steps of 8 cost half a point more after training than finer ones, which run slower.

    Args:
        budgets: that are to be met.
        step: where time counts; the target's.
    """
    timed = any(budget.quantity in ("latency", "energy") for budget in budgets)
    return step if timed else min(FINE_STEP, step)


@dataclass(frozen=True)
class Pruning:
    """How channels are chosen and accuracy is given back.

    Criterion, allocation and recovery are independent: a name that is given beside a method
    replaces the method's own.

    Attributes:
        method: name in `METHODS`: a criterion, an allocation and a recovery.
        criterion: name in `CRITERIA`: how channels are ranked; by default the method's.
        allocation: name in `ALLOCATIONS`: how the widths of layers are chosen; likewise.
        recovery: name in `RECOVERIES`, or `auto` to try the strongest and keep the best on
            validation; likewise.
        recalibration: of BatchNorm after the recovery: `auto` (where validation gains), `on` or
            `off`; likewise.
        step: widths are multiples of it, finer in narrow layers (see `allowed_widths`); by default
            4 where only MACs, parameters and bytes are budgeted, else the target's, or 8.
        search_seconds: after which a search for a blend of criteria tries nothing new.
        seed: of everything that is drawn.

    Raises:
        EdgepruneError: a step below 1, or seconds below 0.

    Example:
        >>> Pruning("chapr", recovery="refit").find_method().criterion
        'pivoted_qr'
    """

    method: str = "auto"
    criterion: str | None = None
    allocation: str | None = None
    recovery: str | None = None
    recalibration: Recalibration | None = None
    step: int | None = None
    search_seconds: float = 60.0
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse numbers that cannot be meant."""
        if self.step is not None and self.step < 1:
            raise EdgepruneError(f"The step of widths must be at least 1. Got {self.step}.")
        if not self.search_seconds >= 0:
            raise EdgepruneError(
                f"The time limit must be at least 0 seconds. Got {self.search_seconds}."
            )

    @classmethod
    def parse(cls, given: Pruning | str | None) -> Pruning:
        """Return settings as they are, or those of a method by its name."""
        return given if isinstance(given, Pruning) else cls() if given is None else cls(given)

    def find_method(self) -> Method:
        """Return the method with the parts that were replaced.

        Raises:
            EdgepruneError: a name does not exist; says which there are.
        """
        from edgeprune.allocation import ALLOCATIONS
        from edgeprune.recovery import RECOVERIES
        from edgeprune.scoring.criteria import CRITERIA

        known: dict[str, list[str]] = {
            "method": list(METHODS),
            "criterion": list(CRITERIA),
            "allocation": list(ALLOCATIONS),
            "recovery": ["auto", *RECOVERIES],
            "recalibration": list(RECALIBRATIONS),
        }
        for part, names in known.items():
            given = getattr(self, part)
            if given is not None and given not in names:
                raise EdgepruneError(f"Unknown {part} '{given}'. Choose from: {', '.join(names)}.")
        parts = {part: getattr(self, part) for part in list(known)[1:]}
        return replace(
            METHODS[self.method], **{part: name for part, name in parts.items() if name is not None}
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as JSON types, with what the method fixes."""
        method = self.find_method()
        parts = ("criterion", "allocation", "recovery", "recalibration")
        return asdict(self) | {part: getattr(method, part) for part in parts}
