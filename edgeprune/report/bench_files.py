"""What `edgeprune bench --out` writes: JSON, CSV and a plot, all of them or none."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgeprune.benchmarking import BenchResult
from edgeprune.benchmarking.profiles import compare_profiles
from edgeprune.emulation.counting import CountResult
from edgeprune.support.files import move_together

StrPath = str | os.PathLike[str]
SHOWN_LAYERS = 30


def write_results(result: BenchResult | CountResult, folder: StrPath) -> list[Path]:
    """Write `measurement` or `counts` as JSON and CSV; times, with matplotlib, also as a plot.

    Of times of operators also `profile.png`, and `NAME.node_data.json` for Model Explorer.

    Returns:
        The files.

    Raises:
        EdgepruneError: the folder cannot be written; then none of them is there.
    """
    values = result.to_dict()
    kind, key = ("measurement", "measurements")
    if isinstance(result, CountResult):
        kind = key = "counts"
    rows = [_flatten(entry) for entry in values[key]]
    with move_together(folder) as workspace:
        _write_json(values, workspace / f"{kind}.json")
        _write_csv(rows, workspace / f"{kind}.csv")
        if isinstance(result, BenchResult):
            _plot(result, workspace / f"{kind}.png")
            _write_profiles(result, workspace)
        names = sorted(path.name for path in workspace.iterdir())
    return [Path(folder) / name for name in names]


def _flatten(entry: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return one level; series are left to the JSON, pairs become two columns."""
    row: dict[str, Any] = {}
    for name, value in entry.items():
        if name in ("samples_ms", "profile"):
            continue
        if isinstance(value, Mapping):
            row |= _flatten(value, f"{prefix}{name}_")
        elif isinstance(value, list | tuple) and name.endswith("interval_mj"):
            row[f"{prefix}{name}_low"], row[f"{prefix}{name}_high"] = value
        elif isinstance(value, list | tuple):
            row[prefix + name] = "; ".join(map(str, value))
        else:
            row[prefix + name] = value
    return row


def _write_json(content: Any, path: Path) -> None:
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _write_csv(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    columns = list(dict.fromkeys(name for row in rows for name in row))
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)


def _plot(result: BenchResult, path: Path) -> None:
    """Draw the distribution of every model's times; nothing without matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        return
    measured = result.measurements[::-1]
    figure = Figure(figsize=(8, 1.4 + 0.45 * len(measured)), layout="constrained")
    axes = figure.subplots()
    axes.boxplot(
        [entry.samples_ms for entry in measured],
        orientation="horizontal",
        whis=(1, 99),
        showfliers=False,
        tick_labels=[_shorten(entry.model) for entry in measured],
    )
    axes.set_xlim(left=0)
    axes.set_xlabel("ms per inference: box 25 to 75 %, line 50 %, whiskers 1 and 99 %")
    places = {f"{entry.where}, {entry.runtime}, threads {entry.threads}" for entry in measured}
    axes.set_title("\n".join(sorted(places)), fontsize="small")
    axes.grid(axis="x", alpha=0.3)
    figure.savefig(path, dpi=120)


def _write_profiles(result: BenchResult, folder: Path) -> None:
    profiles = {entry.model: entry.profile for entry in result.measurements if entry.profile}
    for name, profile in profiles.items():
        _write_json(profile.to_node_data(), folder / f"{name.replace('/', '-')}.node_data.json")
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        return
    if not profiles:
        return
    rows = compare_profiles(profiles)[:SHOWN_LAYERS][::-1]
    figure = Figure(figsize=(8, 1.4 + 0.3 * len(rows)), layout="constrained")
    axes, height = figure.subplots(), 0.8 / len(profiles)
    for number, name in enumerate(profiles):
        places = [index - number * height for index in range(len(rows))]
        axes.barh(places, [times[number] or 0 for _, times in rows], height, label=_shorten(name))
    axes.set_yticks(range(len(rows)), [_shorten(layer) for layer, _ in rows])
    axes.set_xlabel("ms per inference")
    axes.set_title(
        "\n".join(sorted({entry.where for entry in result.measurements})), fontsize="small"
    )
    axes.legend()
    figure.savefig(folder / "profile.png", dpi=120)


def _shorten(name: str, longest: int = 40) -> str:
    return name if len(name) <= longest else "..." + name[-longest + 3 :]
