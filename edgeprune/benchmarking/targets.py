"""Boards as data: one TOML file each in `devices/boards`, every figure with its source."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeprune.errors import EdgepruneError
from edgeprune.resources import find_folder


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
        board: how the board calls itself in its device tree; None for any of the architecture.
        figures: facts with their sources.
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
    board: str | None = None
    figures: tuple[Figure, ...] = ()

    def is_machine(self, machine: Mapping[str, Any]) -> bool:
        """Tell whether a machine, as the harness describes it, is this target.

        The CPU of a board whose target is an accelerator is not the target.
        """
        if self.delegate is not None or machine["architecture"] != self.architecture:
            return False
        return self.board is None or (machine["board"] or "").startswith(self.board)


def list_targets() -> tuple[Target, ...]:
    """Return all targets by name.

    Example:
        >>> [target.name for target in list_targets() if target.delegate]
        ['coral-dev-board', 'coral-usb']
    """
    return tuple(_read(path) for path in sorted((find_folder("devices") / "boards").glob("*.toml")))


def find_target(name: str) -> Target:
    """Return one target.

    Raises:
        EdgepruneError: there is no target of this name; suggests the nearest.

    Example:
        >>> find_target("rpi4").channel_step
        8
    """
    targets = {target.name: target for target in list_targets()}
    if name in targets:
        return targets[name]
    near = difflib.get_close_matches(name.lower(), targets, 1, 0.5)
    suggestion = f"Did you mean '{near[0]}'? " if near else ""
    raise EdgepruneError(f"Unknown target '{name}'. {suggestion}There are {', '.join(targets)}.")


def _read(path: Path) -> Target:
    try:
        entries = tomllib.loads(path.read_text(encoding="utf-8"))
        figures = tuple(
            Figure(name, _value(entry["value"]), entry.get("unit", ""), entry["source"])
            for name, entry in entries.pop("figures", {}).items()
        )
        return Target(name=path.stem, figures=figures, **entries)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise EdgepruneError(f"'{path}' does not describe a target: {error}.") from error


def _value(value: Any) -> float | tuple[float, float] | str:
    return (value[0], value[1]) if isinstance(value, list) else value
