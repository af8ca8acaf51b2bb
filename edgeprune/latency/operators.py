"""The work of a network as a table: one row per TensorFlow Lite operator.

Columns may carry leading axes, so that a thousand candidate widths are one table.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

Kind = Literal[
    "pointwise", "convolution", "depthwise", "fully_connected", "elementwise", "movement"
]
MATRIX_KINDS: tuple[Kind, ...] = ("pointwise", "convolution", "fully_connected")


@dataclass(frozen=True)
class Operator:
    """One operator at batch one.

    Attributes:
        kind: how its time is modelled; `elementwise` reads and writes activations only (sums,
            pooling, activations), `movement` costs no more than its call.
        positions: of the output map; 1 for a fully connected layer.
        channels: of the output.
        depth: products per output value, kernel size included; 0 without weights.
        taps: positions of the kernel window; 1 without one.
        read: elements of the activations that it reads.
        written: elements that it writes.
        name: of the operator in TensorFlow Lite; decides on the rate of an elementwise one.

    Example:
        >>> Operator("pointwise", positions=49, channels=64, depth=32, read=1568, written=3136).macs
        100352
    """

    kind: Kind
    positions: float = 1
    channels: float = 0
    depth: float = 0
    taps: float = 1
    read: float = 0
    written: float = 0
    name: str = ""

    @property
    def macs(self) -> float:
        """Multiply-accumulates."""
        return self.positions * self.channels * self.depth

    @property
    def weights(self) -> float:
        """Numbers in its kernel."""
        return self.channels * self.depth


@dataclass(frozen=True)
class Workload:
    """Operators as columns.

    Attributes:
        kinds: `(operators,)`.
        names: `(operators,)`, of the operators in TensorFlow Lite.
        positions: `(operators,)`; likewise `taps`.
        channels: `(..., operators)`; likewise `depth`, `read` and `written`.
        starts: where each network begins, if the columns hold several, one after the other.
    """

    kinds: tuple[Kind, ...]
    names: tuple[str, ...]
    positions: np.ndarray
    taps: np.ndarray
    channels: np.ndarray
    depth: np.ndarray
    read: np.ndarray
    written: np.ndarray
    starts: tuple[int, ...] | None = field(default=None, kw_only=True)

    @classmethod
    def of(cls, operators: Iterable[Operator]) -> Workload:
        """Arrange operators as columns.

        Example:
            >>> Workload.of([Operator("depthwise", 9, 4, 9, 9, 36, 36)]).macs
            array([324.])
        """
        rows = tuple(operators)

        def column(name: str) -> np.ndarray:
            return np.array([getattr(row, name) for row in rows], dtype=float)

        return cls(
            tuple(row.kind for row in rows),
            tuple(row.name for row in rows),
            *map(column, ("positions", "taps", "channels", "depth", "read", "written")),
        )

    @classmethod
    def of_networks(cls, networks: Sequence[Sequence[Operator]]) -> Workload:
        """Arrange the operators of several networks as columns, each network with at least one."""
        starts = itertools.accumulate(map(len, networks[:-1]), initial=0)
        return replace(cls.of(itertools.chain(*networks)), starts=tuple(starts))

    def total(self, values: np.ndarray) -> np.ndarray:
        """Return the sums over the operators, `(...)`; of each of several networks, if it is so.

        Example:
            >>> one, other = Operator("movement", written=3), Operator("movement", written=4)
            >>> work = Workload.of_networks([[one, other], [one]])
            >>> work.total(work.written)
            array([7., 3.])
        """
        if self.starts is None:
            return values.sum(-1)
        return np.add.reduceat(values, self.starts, axis=-1)

    def spread(self, totals: np.ndarray) -> np.ndarray:
        """Give every operator the total of its network, `(..., operators)`."""
        if self.starts is None:
            return totals[..., None]
        return np.repeat(totals, np.diff([*self.starts, len(self.kinds)]), axis=-1)

    @property
    def macs(self) -> np.ndarray:
        """Multiply-accumulates, `(..., operators)`."""
        return self.positions * self.channels * self.depth

    @property
    def weights(self) -> np.ndarray:
        """Numbers in the kernels, `(..., operators)`."""
        return self.channels * self.depth

    def of_kind(self, *kinds: Kind) -> np.ndarray:
        """Mark the operators of some kinds, `(operators,)`."""
        return np.array([kind in kinds for kind in self.kinds], dtype=bool)

    def named(self, *names: str) -> np.ndarray:
        """Mark the operators of some names, `(operators,)`."""
        return np.array([name in names for name in self.names], dtype=bool)
