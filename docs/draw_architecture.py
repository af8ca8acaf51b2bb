"""Draw `docs/architecture.svg`: the folders of the package in their order, and who imports whom.

    python docs/draw_architecture.py

The order is the contract of `pyproject.toml`, the arrows are the imports that the code has.
"""

from __future__ import annotations

import tomllib
from collections import Counter
from pathlib import Path

import grimp
from matplotlib.figure import Figure

ROOT = Path(__file__).resolve().parents[1]
MAIN_PATH = ("cli", "building", "pruning", "scoring", "allocation", "surgery", "tflite", "tracing")


def read_order() -> list[list[str]]:
    """Return the folders from top to bottom, those of one level together."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    layers = settings["tool"]["importlinter"]["contracts"][0]["layers"]
    levels = [[name.strip(" ()") for name in layer.split("|")] for layer in layers]
    return [level for level in levels if (ROOT / "edgeprune" / level[0]).is_dir()]


def count_imports() -> Counter[tuple[str, str]]:
    """Return how many modules of one folder import one of another."""
    graph = grimp.build_graph("edgeprune", exclude_type_checking_imports=True)
    found: Counter[tuple[str, str]] = Counter()
    for module in graph.modules:
        for imported in graph.find_modules_directly_imported_by(module):
            ends = [name.split(".")[1] for name in (module, imported) if "." in name]
            if len(ends) == 2 and ends[0] != ends[1]:
                found[ends[0], ends[1]] += 1
    return found


def read_sentence(folder: str) -> str:
    """Return what a folder says of itself."""
    text = (ROOT / "edgeprune" / folder / "__init__.py").read_text("utf-8")
    return text.split('"""')[1].split("\n\n")[0].replace("\n", " ").strip()


def draw(path: Path) -> None:
    """Draw the folders as rows and the imports as arcs beside them."""
    levels = read_order()
    figure = Figure(figsize=(12, 0.42 * sum(map(len, levels)) + 0.6))
    axes = figure.subplots()
    places: dict[str, float] = {}
    for folder in (name for level in levels for name in level):
        places[folder] = -float(len(places))
        files = sum(1 for _ in (ROOT / "edgeprune" / folder).rglob("*.py"))
        weight = "bold" if folder in MAIN_PATH else "normal"
        axes.text(0.0, places[folder], folder, weight=weight, va="center", family="monospace")
        axes.text(2.1, places[folder], f"{files:>3} files", va="center", size=8, color="0.4")
        axes.text(3.2, places[folder], read_sentence(folder), va="center", size=8.5)
    for (importer, imported), count in sorted(count_imports().items()):
        if importer not in places or imported not in places:
            continue
        start, end = places[importer], places[imported]
        bend = 0.35 * (start - end) ** 0.5
        axes.annotate(
            "", (-0.1, end), (-0.1, start),
            arrowprops={
                "arrowstyle": "->", "color": "#2a6f97", "alpha": 0.45,
                "linewidth": 0.4 + 0.25 * count**0.5, "mutation_scale": 7,
                "connectionstyle": f"arc3,rad={min(0.12 + 0.1 * bend, 0.5)}",
            },
        )  # fmt: skip
    axes.set_xlim(-4.5, 14)
    axes.set_ylim(min(places.values()) - 0.6, 0.6)
    axes.axis("off")
    figure.savefig(path, bbox_inches="tight", metadata={"Date": None})


if __name__ == "__main__":
    draw(ROOT / "docs" / "architecture.svg")
