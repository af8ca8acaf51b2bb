"""What the compiler of the Edge TPU said, for people; without one, what to run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import RenderableType
from rich.text import Text

MEBIBYTE = 2**20


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
    return Text(text + ".")
