"""What must be met (`Budget`) and what was decided (`Plan`): small frozen values, saved as JSON."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, cast

from edgeprune.errors import BudgetError, PlanError
from edgeprune.files import replace_on_success

Quantity = Literal["macs", "params"]
QUANTITIES: tuple[Quantity, ...] = ("macs", "params")
_SUFFIXES = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9}
_AMOUNT = re.compile(r"([0-9.]+(?:[eE][+-]?[0-9]+)?)\s*(%|k|K|M|G)?")


@dataclass(frozen=True)
class Budget:
    """The most that the slim model may cost.

    Attributes:
        quantity: `macs` (multiply-accumulates of one inference) or `params`.
        amount: the limit, absolute, or a fraction of the original's cost where `relative`.
        relative: whether `amount` is a fraction.

    Raises:
        BudgetError: the amount is not positive, or a fraction above one.

    Example:
        >>> Budget.parse("macs=50%")
        Budget(quantity='macs', amount=0.5, relative=True)
        >>> Budget.parse("params=120k").limit(original=500_000)
        120000.0
    """

    quantity: Quantity
    amount: float
    relative: bool = True

    def __post_init__(self) -> None:
        """Check the amount."""
        if self.quantity not in QUANTITIES:
            raise BudgetError(
                f"Unknown budget quantity '{self.quantity}'. Known: {', '.join(QUANTITIES)}; "
                "for example macs=50% or params=120k."
            )
        if not self.amount > 0 or (self.relative and self.amount > 1):
            raise BudgetError(
                f"Budget {self} is out of range: a fraction must lie above 0 % and be at most "
                "100 %, an absolute amount must be positive."
            )

    @classmethod
    def parse(cls, text: str | Budget) -> Budget:
        """Read `macs=50%`, `params=120k` or `macs=6.2M`.

        Raises:
            BudgetError: the text is none of these.
        """
        if isinstance(text, Budget):
            return text
        quantity, _, amount = text.partition("=")
        match = _AMOUNT.fullmatch(amount.strip())
        try:
            number = float(match.group(1)) if match else None
        except ValueError:
            number = None
        if match is None or number is None:
            raise BudgetError(
                f"Cannot read the budget '{text}'. Expected QUANTITY=AMOUNT, such as macs=50%, "
                "macs=6.2M or params=120k."
            )
        unit = match.group(2) or ""
        if unit == "%":
            return cls(cast(Quantity, quantity.strip()), number / 100, relative=True)
        return cls(
            cast(Quantity, quantity.strip()), number * _SUFFIXES[unit.replace("K", "k")], False
        )

    def limit(self, original: float) -> float:
        """Return the limit in units, given what the original model costs."""
        return self.amount * original if self.relative else self.amount

    def __str__(self) -> str:
        """Return the text that `parse` reads."""
        if self.relative:
            return f"{self.quantity}={self.amount * 100:g}%"
        return f"{self.quantity}={self.amount:g}"


@dataclass(frozen=True)
class Plan:
    """Which channels stay: the only thing that surgery reads.

    Attributes:
        keep: group name -> kept channels, sorted. Groups that are not named stay whole.
        fingerprint: of the model the plan was made for (`Groups.fingerprint`).
        classes: kept classes in the order of the new outputs; `None` keeps all.

    Example:
        >>> plan = Plan({"conv": (0, 2)}, fingerprint="abc")
        >>> Plan.from_json(plan.to_json()) == plan
        True
    """

    keep: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    fingerprint: str = ""
    classes: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        """Freeze and check the indices."""
        kept = {name: tuple(int(i) for i in channels) for name, channels in self.keep.items()}
        for name, channels in kept.items():
            if not channels or list(channels) != sorted(set(channels)) or channels[0] < 0:
                raise PlanError(
                    f"Plan for group '{name}' must name at least one channel, sorted, each once. "
                    f"Got {list(channels)[:8]}."
                )
        object.__setattr__(self, "keep", MappingProxyType(kept))

    def __eq__(self, other: object) -> bool:
        """Compare by value."""
        return isinstance(other, Plan) and self.to_dict() == other.to_dict()

    def __hash__(self) -> int:
        """Hash by value."""
        return hash(self.to_json())

    def to_dict(self) -> dict[str, Any]:
        """Return plain lists and dicts."""
        return {
            "version": 1,
            "fingerprint": self.fingerprint,
            "classes": None if self.classes is None else list(self.classes),
            "keep": {name: list(channels) for name, channels in self.keep.items()},
        }

    def to_json(self) -> str:
        """Return the plan as JSON text."""
        return json.dumps(self.to_dict(), indent=1)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the plan as JSON; the file appears only when complete."""
        with replace_on_success(path) as temporary:
            temporary.write_text(self.to_json())

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """Read a plan.

        Raises:
            PlanError: the text is not a plan.
        """
        try:
            data = json.loads(text)
            classes = data["classes"]
            return cls(
                {str(name): tuple(channels) for name, channels in data["keep"].items()},
                str(data["fingerprint"]),
                None if classes is None else tuple(int(c) for c in classes),
            )
        except (json.JSONDecodeError, KeyError, TypeError, AttributeError, ValueError) as error:
            if isinstance(error, PlanError):
                raise
            raise PlanError(
                f"Not a plan: {error}. Expected the JSON that `Plan.save` or `edgeprune prune` "
                "writes."
            ) from error

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Plan:
        """Read a plan from a file.

        Raises:
            PlanError: the file is missing or not a plan.
        """
        try:
            return cls.from_json(Path(path).read_text())
        except (OSError, UnicodeDecodeError) as error:
            raise PlanError(f"Cannot read the plan '{path}': {error}.") from error
