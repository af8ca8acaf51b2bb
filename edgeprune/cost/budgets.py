"""What must be met: `Budget`, one quantity with its limit, and `Budgets`, several at once."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, cast

from edgeprune.boards.targets import PARAMETER_MEMORIES
from edgeprune.errors import BudgetError

Quantity = Literal["macs", "params", "size", "memory", "latency", "energy", "fits"]
COUNTED: tuple[Quantity, ...] = ("macs", "params")
"""What is counted in a model, and not estimated for a file or a board."""

_COUNTS = {"": 1.0, "k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9}
_BYTES = {
    "": 1.0, "B": 1.0, "KB": 1e3, "kB": 1e3, "MB": 1e6, "KiB": 2.0**10, "MiB": 2.0**20,
}  # fmt: skip
UNITS: Mapping[Quantity, Mapping[str, float]] = {
    "macs": _COUNTS,
    "params": _COUNTS,
    "size": _BYTES,
    "memory": _BYTES,
    "latency": {"ms": 1.0, "s": 1e3, "us": 1e-3},
    "energy": {"mJ": 1.0, "J": 1e3, "uJ": 1e-3},
    "fits": {"B": 1.0},
}
"""Units that an amount may have, and how many of the quantity's own unit each is."""
QUANTITIES: tuple[Quantity, ...] = tuple(UNITS)
OWN_UNITS: Mapping[str, str] = {
    "size": "B", "memory": "B", "latency": "ms", "energy": "mJ", "fits": "B",
}  # fmt: skip

_EXAMPLES = (
    "macs=50%, macs=6.2M, params=120k, latency=20ms, energy=50mJ, size=500KB or fits=edgetpu"
)
_AMOUNT = re.compile(r"([0-9.]+(?:[eE][+-]?[0-9]+)?)\s*(%|[A-Za-z]*)")


@dataclass(frozen=True)
class Budget:
    """The most that the pruned model may cost.

    Attributes:
        quantity: `macs` (multiply-accumulates of one inference), `params`, `size` (bytes of the
            `.tflite`), `memory` (bytes of activations that are alive at once), `latency` (ms),
            `energy` (mJ per inference) or `fits` (bytes of weights in a memory such as the Edge
            TPU's).
        amount: the limit in the quantity's unit, or a fraction of the original's where `relative`.
        relative: whether `amount` is a fraction.

    Raises:
        BudgetError: the amount is not positive, or a fraction above one.

    Example:
        >>> Budget.parse("macs=50%")
        Budget(quantity='macs', amount=0.5, relative=True)
        >>> Budget.parse("params=120k").limit(original=500_000)
        120000.0
        >>> print(Budget.parse("latency=0.02s"))
        latency=20ms
    """

    quantity: Quantity
    amount: float
    relative: bool = True

    def __post_init__(self) -> None:
        """Check the amount."""
        if self.quantity not in QUANTITIES:
            raise BudgetError(
                f"Unknown budget quantity '{self.quantity}'. Known: {', '.join(QUANTITIES)}; "
                f"for example {_EXAMPLES}."
            )
        number = isinstance(self.amount, int | float) and math.isfinite(self.amount)
        if not number or not self.amount > 0 or (self.relative and self.amount > 1):
            text = str(self) if number else f"{self.quantity}={self.amount}"
            raise BudgetError(
                f"Budget {text} is out of range: a fraction must lie above 0 % and be at most "
                "100 %, an absolute amount must be positive and finite."
            )

    @classmethod
    def parse(cls, text: str | Budget) -> Budget:
        """Read one budget, such as `macs=50%`, `latency=20ms` or `fits=edgetpu`.

        Raises:
            BudgetError: the text is not one.
        """
        if isinstance(text, Budget):
            return text
        quantity, _, amount = (part.strip() for part in text.partition("="))
        if quantity == "fits":
            return cls("fits", _find_place(amount), relative=False)
        match = _AMOUNT.fullmatch(amount)
        try:
            number = float(match.group(1)) if match else None
        except ValueError:
            number = None
        if match is None or number is None:
            raise BudgetError(
                f"Cannot read the budget '{text}'. Expected QUANTITY=AMOUNT, such as {_EXAMPLES}."
            )
        unit = match.group(2)
        if unit == "%" or quantity not in QUANTITIES:
            return cls(cast(Quantity, quantity), number / 100, relative=True)
        units = UNITS[quantity]
        if unit not in units:
            raise BudgetError(
                f"The budget '{text}' has {f'the unit {unit!r}' if unit else 'no unit'}; expected "
                f"one of: {', '.join(name for name in units if name)}, or %."
            )
        return cls(quantity, number * units[unit], relative=False)

    def limit(self, original: float) -> float:
        """Return the limit in units, given what the original model costs."""
        return self.amount * original if self.relative else self.amount

    def __str__(self) -> str:
        """Return the text that `parse` reads."""
        if self.relative:
            return f"{self.quantity}={self.amount * 100:g}%"
        for name, amount in PARAMETER_MEMORIES.items():
            if self.quantity == "fits" and self.amount == amount:
                return f"fits={name}"
        return f"{self.quantity}={self.amount:g}{OWN_UNITS.get(self.quantity, '')}"


def _find_place(name: str) -> float:
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)B", name)
    if name not in PARAMETER_MEMORIES and match is None:
        raise BudgetError(
            f"Cannot fit into '{name}'. Expected fits={' or fits='.join(PARAMETER_MEMORIES)}."
        )
    return PARAMETER_MEMORIES[name] if match is None else float(match.group(1))


@dataclass(frozen=True)
class Budgets:
    """Several budgets that must all be met; iterating gives those of cost.

    Attributes:
        budgets: one per quantity; none only where there is a drop.
        drop: accuracy that may be lost, as a share of the samples; with it the smallest model is
            meant that loses no more.

    Raises:
        BudgetError: there is none, two for one quantity, or a drop that is no share.

    Example:
        >>> print(Budgets.parse("latency=20ms,size=500KB"))
        latency=20ms,size=500000B
        >>> Budgets.parse("drop=1%").drop
        0.01
    """

    budgets: tuple[Budget, ...]
    drop: float | None = None

    def __post_init__(self) -> None:
        """Check that there is one budget per quantity."""
        quantities = [budget.quantity for budget in self.budgets]
        if not quantities and self.drop is None:
            raise BudgetError(f"There is no budget. Give one such as {_EXAMPLES}.")
        twice = {name for name in quantities if quantities.count(name) > 1}
        if twice:
            raise BudgetError(f"There are two budgets for {min(twice)}. Give one per quantity.")
        if self.drop is not None and not 0 <= self.drop < 1:
            raise BudgetError(
                f"A drop of {100 * self.drop:g} % is out of range: give the points of accuracy "
                "that may be lost, such as drop=1%."
            )

    @classmethod
    def parse(cls, given: str | Budget | Budgets | Sequence[str | Budget]) -> Budgets:
        """Read budgets: one, several in one text with commas between them, or a sequence.

        Raises:
            BudgetError: one of them cannot be read.
        """
        if isinstance(given, Budgets):
            return given
        parts = [given] if isinstance(given, str | Budget) else list(given)
        texts = [
            piece
            for part in parts
            for piece in (part.split(",") if isinstance(part, str) else [part])
        ]
        drops = [text for text in texts if isinstance(text, str) and _is_drop(text)]
        if len(drops) > 1:
            raise BudgetError("There are two budgets for drop. Give one.")
        costs = tuple(Budget.parse(text) for text in texts if text not in drops)
        return cls(costs, _read_drop(drops[0]) if drops else None)

    @property
    def costs(self) -> Budgets | None:
        """The same without the drop; `None` where nothing is left."""
        return Budgets(self.budgets) if self.budgets else None

    def with_share(self, quantity: Quantity, share: float) -> Budgets:
        """Return the budgets of cost with one more, for a share of what the original costs."""
        return Budgets((*self.budgets, Budget(quantity, share)))

    def scale(self, quantity: Quantity, factor: float) -> Budgets:
        """Return the budgets with the amount of one quantity multiplied."""
        return Budgets(
            tuple(
                Budget(b.quantity, b.amount * factor, b.relative) if b.quantity == quantity else b
                for b in self.budgets
            ),
            self.drop,
        )

    def require_counted(self, what: str) -> None:
        """Refuse budgets of what is not counted in the model itself.

        Raises:
            BudgetError: there is one of another quantity than MACs and parameters.

        Example:
            >>> Budgets.parse("macs=50%,params=1M").require_counted("Rounds")
        """
        other = [budget.quantity for budget in self.budgets if budget.quantity not in COUNTED]
        if other:
            raise BudgetError(
                f"{what} work with budgets of macs and params. Got one of {other[0]}: budget those "
                f"instead, or prune without {what.lower()}."
            )

    def __iter__(self) -> Iterator[Budget]:
        """Iterate over the budgets."""
        return iter(self.budgets)

    def __str__(self) -> str:
        """Return the text that `parse` reads."""
        drop = [] if self.drop is None else [f"drop={100 * self.drop:g}%"]
        return ",".join([*map(str, self.budgets), *drop])


def _is_drop(text: str) -> bool:
    return text.partition("=")[0].strip() == "drop"


def _read_drop(text: str) -> float:
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)\s*%", text.partition("=")[2].strip())
    if match is None:
        raise BudgetError(
            f"Cannot read the budget '{text}'. Expected the points of accuracy that may be lost, "
            "such as drop=1%."
        )
    return float(match.group(1)) / 100
