"""What edgeprune knows of a board: every figure with its source."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

PARAMETER_MEMORIES: Mapping[str, float] = {"edgetpu": 7.7 * 2**20}
"""Memories that weights may have to fit into, in bytes. Edge TPU: of its 8 MB of SRAM, what the
compiler leaves for parameters (coral.ai)."""


def is_genuine(delegate: str) -> bool:
    """Tell whether a library, as the harness describes it, says of itself that it is libedgetpu.

    Example:
        >>> is_genuine("libedgetpu.so.1 (runtime version 14)"), is_genuine("libmine.so (mine)")
        (True, False)
    """
    return "(runtime version " in delegate


@dataclass(frozen=True)
class Figure:
    """One fact about a board.

    Attributes:
        name: what it is, for example `memory_copy`.
        value: a number, a `(lowest, highest)` pair, or a text.
        unit: of the value; empty for a text.
        source: where it comes from, and whether it was measured or calculated.
    """

    name: str
    value: float | tuple[float, float] | str
    unit: str
    source: str


@dataclass(frozen=True)
class Target:
    """A board plus a runtime.

    Attributes:
        name: as the user writes it, for example `rpi4`.
        description: one line.
        architecture: of the CPU, as `uname -m` says it.
        cpu: kind and clock of the cores.
        cores: of the CPU; None where machines of this kind differ.
        threads: default for the runtime.
        channel_step: widths of layers are multiples of this.
        scheme: default number format.
        runtime: the distribution that runs models there.
        delegate: library of an accelerator, or None.
        device: which accelerator, such as `usb:0`; None for any.
        board: how the board calls itself in its device tree; None for any of the architecture.
        host_board: the target that an accelerator is plugged into, or None.
        energy_meter: the meter that the board carries, or `none`.
        figures: facts with their sources.
        prediction: coefficients of the cost model with their errors, as the file has them.
        file: that describes the target.
    """

    name: str
    description: str
    architecture: str
    cpu: str
    threads: int
    channel_step: int
    scheme: str
    runtime: str
    cores: int | None = None
    delegate: str | None = None
    device: str | None = None
    board: str | None = None
    host_board: str | None = None
    energy_meter: str = "none"
    figures: tuple[Figure, ...] = ()
    prediction: Mapping[str, Any] = field(default_factory=dict, hash=False, repr=False)
    file: str = field(default="", compare=False, repr=False)

    def is_machine(self, machine: Mapping[str, Any], delegate: str | None = None) -> bool:
        """Tell whether a machine, as the harness describes it, is this target.

        The CPU of a board whose target is an accelerator is not the target.

        Args:
            machine: as the harness describes it.
            delegate: library that ran the model there; `None` for the CPU.
        """
        wanted, used = self.delegate is not None, delegate is not None and is_genuine(delegate)
        if wanted != used or machine["architecture"] != self.architecture:
            return False
        return self.board is None or (machine["board"] or "").startswith(self.board)

    def figure(self, name: str) -> Figure | None:
        """Return the figure of a name, or None where the file does not state it.

        Example:
            >>> from edgeprune.boards import find_target
            >>> find_target("rpi4").figure("power_idle").value
            2.85
        """
        return next((entry for entry in self.figures if entry.name == name), None)
