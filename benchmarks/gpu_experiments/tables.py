"""`python benchmarks/gpu_experiments/tables.py gpu_experiments.json`: the results as Markdown."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

HERE = Path(__file__).resolve().parent
OUT = HERE.parent / "gpu_experiments.md"
HEAD = """# Experiments on a GPU

Written by `benchmarks/gpu_experiments/tables.py` from a run of `pipelines/experiments/gpu.toml`.
Accuracies are measured on the {images:,} test images of CIFAR-10, in float32; every choice was made
on validation images of the train split. MACs and parameters are counted. A dash stands for a stage
that did not end within the time the machine was lent for.
"""


def percent(share: float) -> str:
    """Return a share with two digits, as papers give it."""
    return f"{100 * share:.2f}"


def make_table(head: list[str], rows: list[list[str]]) -> str:
    """Return a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def describe_networks(networks: list[dict[str, Any]]) -> str:
    """Return what was trained from scratch."""
    head = ["network", "test accuracy, %", "epochs", "seconds", "images/s", "precision", "device"]
    rows = [
        [
            row["network"],
            percent(row["test_accuracy"]),
            str(row["epochs"]),
            f"{row['seconds']:.0f}",
            f"{row['images_per_second']:,.0f}",
            row["precision"],
            row["device"],
        ]
        for row in networks
    ]
    return "## Trained from scratch\n\n" + make_table(head, rows)


def describe_experiments(found: dict[str, Any], names: list[str]) -> str:
    """Return what was pruned and fine-tuned; a dash stands for a stage without a result."""
    head = [
        "experiment",
        "MACs left, %",
        "parameters left, %",
        "original, %",
        "as cut",
        "recovered",
    ]
    head += ["fine-tuned", "points lost", "goal", "prune, s", "tune, s", "epochs", "device"]
    rows = []
    for name in names:
        pruned = found[f"{name}-pruned"]
        tuned = found.get(f"{name}-tuned")
        left = [100 * pruned[key][1] / pruned[key][0] for key in ("macs", "params")]
        row = [name, *(f"{value:.1f}" for value in left)]
        row += [percent(pruned[key]) for key in ("original", "as_cut", "recovered")]
        if tuned is None:
            row += ["-", "-", "-", f"{pruned['seconds']:.0f}", "-", "-", pruned["device"]]
        else:
            goal = tuned["goal_points"]
            row += [percent(tuned["fine_tuned"]), f"{tuned['points_lost']:.2f}"]
            row += ["-" if goal is None else f"{goal:g}", f"{pruned['seconds']:.0f}"]
            row += [f"{tuned['seconds']:.0f}", f"{tuned['epochs']:g}", tuned["device"]]
        rows.append(row)
    return "## Pruned, recovered in closed form, fine-tuned\n\n" + make_table(head, rows)


def describe_trials(trials: dict[str, Any]) -> str:
    """Return how settings of `fine_tune` compare."""
    head = ["settings", f"accuracy on {trials['images']:,} validation images, %", "epochs", "steps"]
    rows = [
        [
            row["name"],
            percent(row["accuracy"]),
            f"{row.get('epochs', 0):g}",
            str(row.get("steps", 0)),
        ]
        for row in trials["rows"]
    ]
    title = "## Settings of `fine_tune`, ResNet-20 at 36 % of its MACs, equally many epochs\n\n"
    return title + make_table(head, rows)


@click.command()
@click.argument("results", type=Path)
@click.option("--out", type=Path, default=OUT)
def main(results: Path, out: Path) -> None:
    """Write the tables of all results that there are."""
    found = json.loads(results.read_text(encoding="utf-8"))
    networks = [entry for entry in found.values() if "test_accuracy" in entry]
    names = [key.removesuffix("-pruned") for key in found if key.endswith("-pruned")]
    images = max((entry["test_images"] for entry in networks), default=0)
    parts = [HEAD.format(images=images), describe_networks(networks)]
    parts.append(describe_experiments(found, names))
    if "trials" in found:
        parts.append(describe_trials(found["trials"]))
    out.write_text("\n\n".join(part.strip() for part in parts) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
