"""The table of quantization, from the cells that were measured."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping
from pathlib import Path
from typing import Any

Cells = Mapping[tuple[str, ...], dict[str, Any]]
SCHEMES = ("float32", "float16", "dynamic", "int8", "int16x8", "int8-qat")
ALLOWED = {("pruned", "int8"): 1.0, ("pruned", "int8-qat"): 0.5}
BELOW_REFERENCE = 0.3
"""Points that ours may lose."""


def write_table(path: Path, cells: Cells) -> None:
    """Write what has been measured so far.

    Args:
        path: of the Markdown file.
        cells: rows by model, variant and scheme.
    """
    versions = ", ".join(
        f"{name} {importlib.metadata.version(name)}"
        for name in ("tensorflow", "keras", "ai-edge-litert", "tensorflow-model-optimization")
    )
    models = list(dict.fromkeys(model for model, _, _ in cells))
    places = {row["where"] for row in cells.values() if "where" in row}
    lines = [
        "# Quantization: every scheme on four models",
        "",
        f"Written by `make quantization-table` ({versions}). *pruned* is half the MACs, recovered "
        "without training. Accuracy on the whole accuracy set: 10,000 CIFAR-10 test images for the "
        "ResNets, all 1,000 samples of the others by cross-fitting (models made from one half "
        "are judged on the other). *loss* is against float32 on the same samples, in points: "
        "`int16x8` has no fast kernels here and is judged on 2,000 of the test images. "
        "*latency* and *memory* "
        + (
            f"(what the model adds to the process) were {'; '.join(sorted(places))}, one thread, "
            "all files of a block interleaved in one run."
            if places
            else "are not measured yet."
        ),
        "",
    ]
    for model in models:
        for variant in ("original", "pruned"):
            lines += _block(model, variant, cells)
    lines += ["## What must hold", "", *_verdicts(cells)]
    path.write_text("\n".join(lines) + "\n")


def _block(model: str, variant: str, cells: Cells) -> list[str]:
    base = cells.get((model, variant, "float32"))
    if base is None:
        return []
    timing = cells.get((model, variant, "latency"), {})
    lines = [
        f"## {model}, {variant}",
        "",
        "| scheme | accuracy % | loss | samples | bytes | latency / float32 | memory KiB |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    for scheme in SCHEMES:
        row = cells.get((model, variant, scheme))
        if row is not None:
            lines.append(_line(scheme, scheme, row, base, timing))
    reference = cells.get((model, "reference", "int8"))
    if reference is not None and variant == "original":
        lines.append(_line("MLPerf's int8 file", "reference", reference, base, timing))
    return [*lines, ""]


def _line(title: str, name: str, row: Any, base: Any, timing: Any) -> str:
    ratio = memory = ""
    if name in timing.get("p50_ms", {}):
        ratio = f"{timing['p50_ms'][name] / timing['p50_ms']['float32']:.2f}"
        memory = f"{timing['memory'][name] / 1024:.0f}"
    return (
        f"| {title} | {row['accuracy']:.2%} | {_loss(row, base):+.2f} | {row['samples']:,} "
        f"| {row['bytes']:,} | {ratio} | {memory} |"
    ).replace("%", "")


def _loss(row: Any, base: Any) -> float:
    return 100 * (row.get("float_accuracy", base["accuracy"]) - row["accuracy"])


def _verdicts(cells: Cells) -> list[str]:
    lines = []
    for (model, variant, scheme), row in cells.items():
        allowed = ALLOWED.get((variant, scheme))
        base = cells.get((model, variant, "float32"))
        if allowed is not None and base is not None:
            loss = _loss(row, base)
            lines.append(
                f"- {model}, {variant}, {scheme}: loses {loss:+.2f} points, at most {allowed} "
                f"allowed: **{'met' if loss <= allowed else 'missed'}**"
            )
        reference = cells.get((model, "reference", "int8"))
        if variant == "original" and scheme == "int8" and reference is not None:
            below = 100 * (reference["accuracy"] - row["accuracy"])
            lines.append(
                f"- {model}, int8 against MLPerf's file: {-below:+.2f} points, at least "
                f"-{BELOW_REFERENCE} wanted: **{'met' if below <= BELOW_REFERENCE else 'missed'}**"
            )
    return lines
