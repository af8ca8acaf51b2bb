"""What `edgeprune check` prints, and what the compiler of the Edge TPU said."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from edgeprune.support.printable import printable
from edgeprune.tflite.edgetpu import PARAMETER_MEMORY_BYTES, ChipCompatibility, Obstacle
from edgeprune.tflite.edgetpu.compiler_log import OperatorStatus

if TYPE_CHECKING:
    from edgeprune.tflite.compatibility import Compatibility

MEBIBYTE = 2**20


def describe_compatibility(found: Compatibility) -> Group:
    """Return the tables for one model on one target."""
    parts: list[RenderableType] = []
    if found.edgetpu is not None:
        parts.append(_list_operators(found.edgetpu))
    if found.obstacles:
        parts.append(_list_obstacles(found.obstacles))
    if found.size_bytes:
        parts.append(
            Text(
                f"Size: {_amount(found.size_bytes)} as .tflite ({found.scheme}); activations: "
                f"{_amount(found.activation_bytes)} (planned as the runtime does)."
            )
        )
    if found.edgetpu is not None:
        share = found.edgetpu.parameter_bytes / PARAMETER_MEMORY_BYTES
        parts.append(
            Text(
                f"Parameters: {_amount(found.edgetpu.parameter_bytes)} (counted), "
                f"{100 * share:.0f} % of the chip's memory for them; the compiler pads them, by "
                "18 % in the one file compared."
            )
        )
    parts += map(Text, found.notes)
    verdict = "fits" if found.fits else "does not fit as it is: see what to change"
    return Group(
        *parts, Text(printable(f"{found.model} on {found.target}: {verdict}."), overflow="fold")
    )


def _amount(number: int) -> str:
    if number < MEBIBYTE:
        return f"{number / 1024:.1f} KiB"
    return f"{number / MEBIBYTE:.2f} MiB"


def _list_operators(fitness: ChipCompatibility) -> Table:
    table = Table(title="Operators (expected)", title_justify="left", box=SIMPLE_HEAD)
    table.add_column("operator")
    table.add_column("count", justify="right")
    table.add_column("runs on")
    for operator, places in sorted(fitness.placement.items()):
        for place, count in places.items():
            table.add_row(operator, str(count), place)
    return table


def _list_obstacles(obstacles: Sequence[Obstacle]) -> Table:
    """Return one row per kind of obstacle, with the place of the first."""
    table = Table(title="What to change", title_justify="left", box=SIMPLE_HEAD)
    table.add_column("operator", no_wrap=True)
    table.add_column("count", justify="right")
    for name in ("first at", "problem", "change"):
        table.add_column(name, overflow="fold")
    kinds = [(found.operator, found.problem, found.change) for found in obstacles]
    places = {kind: found.where for kind, found in reversed([*zip(kinds, obstacles, strict=True)])}
    for kind, count in Counter(kinds).items():
        operator, problem, change = kind
        table.add_row(operator, str(count), places[kind], problem, change)
    return table


MEBIBYTE = 2**20


def describe_compilation(edgetpu: Mapping[str, Any]) -> RenderableType:
    """Return the lines about the Edge TPU that a build ends with."""
    compilation = edgetpu["compilation"]
    log = compilation["log"]
    if compilation["compiler"] is None:
        obstacles = len(edgetpu["expected"]["obstacles"])
        expected = (
            "every operator between input and output is expected to be mapped"
            if not obstacles
            else f"{obstacles} kept off it; see `edgeprune check`"
        )
        return Text(
            f"Edge TPU: {expected}. edgetpu_compiler is not on the PATH; on x86-64 Linux run\n"
            f"  {compilation['command']}",
            overflow="fold",
        )
    if compilation["failure"] is not None:
        return Text(
            f"Edge TPU: edgetpu_compiler failed: {compilation['failure']}. Its words are in "
            f"report.json; model.tflite is delivered. By hand:\n  {compilation['command']}",
            overflow="fold",
        )
    version = f" {log['version']}" if log["version"] else ""
    text = f"Edge TPU: compiled by edgetpu_compiler{version}"
    if log["on_tpu"] is not None:
        text += f", {log['on_tpu']} operators mapped, {log['on_cpu'] or 0} on the CPU"
    for place, name in (("on-chip", "on_chip_bytes"), ("off-chip", "off_chip_bytes")):
        if log[name] is not None:
            text += f", {log[name] / MEBIBYTE:.2f} MiB {place}"
    refused = [
        f"{row['count']} {row['operator']} ({row['status']})"
        for row in log["operators"]
        if not OperatorStatus(**row).mapped
    ]
    if refused:
        text += f". On the CPU: {', '.join(refused)}"
    return Text(printable(text + "."), overflow="fold")
