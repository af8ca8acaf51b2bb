"""What the Edge TPU can do with a model, for people: before and after its compiler has seen it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from edgeprune.edgetpu import PARAMETER_MEMORY_BYTES, Fitness

MEBIBYTE = 2**20


def describe_fitness(fitness: Fitness) -> Group:
    """Return what `edgeprune check` prints for an Edge TPU.

    Args:
        fitness: of one model.
    """
    table = Table(title="Operators", title_justify="left", box=SIMPLE_HEAD)
    table.add_column("operator")
    table.add_column("count", justify="right")
    table.add_column("runs on")
    for operator, places in sorted(fitness.placement.items()):
        for place, count in places.items():
            table.add_row(operator, str(count), place)
    parts: list[RenderableType] = [table]
    if fitness.obstacles:
        obstacles = Table(title="What to change", title_justify="left", box=SIMPLE_HEAD)
        for name in ("operator", "at", "problem", "change"):
            obstacles.add_column(name, overflow="fold")
        for obstacle in fitness.obstacles:
            obstacles.add_row(obstacle.operator, obstacle.where, obstacle.problem, obstacle.change)
        parts.append(obstacles)
    share = fitness.parameter_bytes / PARAMETER_MEMORY_BYTES
    parts.append(
        Text(
            f"Parameters: {fitness.parameter_bytes / MEBIBYTE:.2f} MiB (counted), "
            f"{100 * share:.0f} % of the chip's memory for them."
        )
    )
    return Group(*parts, *map(Text, fitness.notes))


def describe_compilation(edgetpu: Mapping[str, Any]) -> RenderableType:
    """Return the lines about the Edge TPU that a build ends with.

    Args:
        edgetpu: of the outcome.
    """
    compilation = edgetpu["compilation"]
    log = compilation["log"]
    if compilation["compiler"] is None:
        obstacles = len(edgetpu["expected"]["obstacles"])
        expected = (
            "all operators are expected to be mapped"
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
    return Text(text + ".")
