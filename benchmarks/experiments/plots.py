"""Pictures of the results: accuracy by budget, and criteria by recovery."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np

Rows = list[Mapping[str, Any]]


def _lost(row: Mapping[str, Any]) -> float:
    return float(100 * (row["accuracy"]["recovered"] - row["accuracy"]["original_subset"]))


def draw_budgets(rows: Rows, title: str, subsets: Mapping[str, str], path: Path) -> None:
    """Draw points lost by kept MACs, a panel per subset, a line per method.

    Args:
        rows: of one model.
        title: of the picture.
        subsets: titles of panels by the names of their subsets.
        path: of the PNG.
    """
    methods = list(dict.fromkeys(row["method"] for row in rows))
    size = max(2.6 * len(subsets) + 2.4, 7), 3.6
    figure, panels = plt.subplots(
        1, len(subsets), figsize=size, sharex=True, sharey=True, squeeze=False, layout="constrained"
    )
    curves: dict[str, Any] = {}
    for panel, (subset, name) in zip(panels[0], subsets.items(), strict=True):
        for number, method in enumerate(methods):
            points: dict[float, list[float]] = {}
            for row in rows:
                if row["subset"] == subset and row["method"] == method:
                    points.setdefault(row["kept"], []).append(_lost(row))
            if points:
                kept = sorted(points)
                means = np.array([np.mean(points[share]) for share in kept])
                around = [
                    means - [min(points[share]) for share in kept],
                    [max(points[share]) for share in kept] - means,
                ]
                curves[method] = panel.errorbar(
                    [100 * share for share in kept], means, yerr=around,
                    marker="o", markersize=4, capsize=2, color=f"C{number}",
                )  # fmt: skip
        panel.set_title(name, fontsize=10)
        panel.set_xlabel("kept MACs, %")
        panel.grid(alpha=0.3)
        panel.axhline(0, color="black", linewidth=0.8)
    panels[0][0].set_ylabel("accuracy against\nthe unpruned model, points")
    shown = [method for method in methods if method in curves]
    figure.legend(
        [curves[method] for method in shown], shown, loc="outside right center", fontsize=8
    )
    figure.suptitle(f"{title}, without retraining", fontsize=11)
    _save(figure, path)


def draw_recoveries(rows: Rows, path: Path) -> None:
    """Draw points lost per criterion, a bar per recovery.

    Args:
        rows: criteria crossed with recoveries.
        path: of the PNG.
    """
    criteria = list(dict.fromkeys(row["criterion"] for row in rows))
    recoveries = list(dict.fromkeys(row["recovery"] for row in rows))
    figure, panel = plt.subplots(figsize=(8, 0.45 * len(criteria) + 1.6), layout="constrained")
    height = 0.8 / len(recoveries)
    for number, recovery in enumerate(recoveries):
        means = []
        for criterion in criteria:
            found = [
                _lost(row)
                for row in rows
                if row["criterion"] == criterion and row["recovery"] == recovery
            ]
            means.append(np.mean(found) if found else np.nan)
        places = np.arange(len(criteria)) + number * height
        panel.barh(places, means, height, label=recovery, color=f"C{number}")
    panel.set_yticks(np.arange(len(criteria)) + 0.4 - height / 2, criteria)
    panel.invert_yaxis()
    panel.set_xlabel("accuracy against the unpruned model, points")
    panel.set_title("ResNet-20, five random classes, 50 % of the MACs")
    panel.legend(fontsize=8, loc="lower left")
    panel.grid(axis="x", alpha=0.3)
    _save(figure, path)


def _save(figure: Any, path: Path) -> None:
    figure.savefig(path, dpi=110)
    plt.close(figure)
