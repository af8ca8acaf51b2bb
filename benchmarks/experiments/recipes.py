"""What is to be run: the recipe in `pipelines/experiments` and the cells of its grid."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
RECIPE = ROOT / "pipelines" / "experiments" / "methods.toml"


@dataclass(frozen=True)
class Subject:
    """A model and its data.

    Attributes:
        title: for tables.
        model: file below the folder of shared data.
        data: `cifar10` or `vww01`.
        preprocess: how stored samples become inputs.
        step: of widths.
    """

    title: str
    model: str
    data: str
    preprocess: str
    step: int


@dataclass(frozen=True)
class Cell:
    """One run: a model cut for some classes to some cost, in one way.

    Attributes:
        block: name of the part of the grid.
        model: name of the subject.
        subset: name of the class subset.
        kept: share of the MACs.
        method: name in `METHODS`.
        criterion: in place of the method's own; likewise the recovery.
        recovery: see `criterion`.
        fine_tuning: how long, as after `--effort`; empty for not at all.
        seed: of everything that is drawn, random subsets included.
    """

    block: str
    model: str
    subset: str
    kept: float
    method: str
    criterion: str | None
    recovery: str | None
    fine_tuning: str
    seed: int

    @property
    def key(self) -> str:
        """What tells this cell from all others."""
        parts = (
            self.model, self.subset, f"{self.kept:g}", self.method, self.criterion or "-",
            self.recovery or "-", self.fine_tuning or "-", str(self.seed),
        )  # fmt: skip
        return "/".join(parts)


@dataclass(frozen=True)
class Recipe:
    """The whole grid.

    Attributes:
        subjects: by name.
        subsets: class names, a number of classes to draw, or `all`.
        cells: in the order in which they run, each combination once.
        calibration_per_class: samples for statistics.
        validation_per_class: samples that choose.
        time_limit: seconds in which `auto` may try further methods.
        left_out: what the full grid would have besides.
    """

    subjects: Mapping[str, Subject]
    subsets: Mapping[str, str | int | tuple[str, ...]]
    cells: tuple[Cell, ...]
    calibration_per_class: int
    validation_per_class: int
    time_limit: float
    left_out: str


def read_recipe(path: Path = RECIPE) -> Recipe:
    """Read a recipe.

    Args:
        path: a TOML file such as `pipelines/experiments/methods.toml`.

    Raises:
        ValueError: a block names a model or a subset that is not described.
    """
    found = tomllib.loads(path.read_text("utf-8"))
    subjects = {name: Subject(**entries) for name, entries in found["models"].items()}
    subsets = {
        name: tuple(entry) if isinstance(entry, list) else entry
        for name, entry in found["subsets"].items()
    }
    cells: dict[str, Cell] = {}
    for block in found["blocks"]:
        for cell in _expand(block, found["seeds"]):
            if cell.model not in subjects or cell.subset not in subsets:
                raise ValueError(
                    f"{path.name}: block '{cell.block}' names model '{cell.model}' and subset "
                    f"'{cell.subset}'; described are {', '.join(subjects)} and "
                    f"{', '.join(subsets)}."
                )
            cells.setdefault(cell.key, cell)
    return Recipe(
        subjects,
        subsets,
        tuple(cells.values()),
        found["calibration_per_class"],
        found["validation_per_class"],
        found["time_limit"],
        found["left_out"].strip(),
    )


def _expand(block: Mapping[str, object], seeds: list[int]) -> Iterator[Cell]:
    """Yield the cells of a block, all of one seed before the next."""

    def listed(name: str, default: list[object]) -> list[object]:
        return block.get(name, default)  # type: ignore[return-value]

    for seed in listed("seeds", list(seeds)):
        for subset in listed("subsets", []):
            for kept in listed("kept", []):
                for method in listed("methods", []):
                    for criterion in listed("criteria", [None]):
                        for recovery in listed("recoveries", [None]):
                            yield Cell(
                                str(block["name"]), str(block["model"]), str(subset),
                                float(kept), str(method), criterion, recovery,  # type: ignore[arg-type]
                                str(block.get("fine_tuning", "")), int(seed),  # type: ignore[call-overload]
                            )  # fmt: skip


def choose_classes(recipe: Recipe, cell: Cell, names: tuple[str, ...]) -> tuple[int, ...] | None:
    """Return the classes a cell keeps, ascending; `None` for all.

    Args:
        recipe: describes the subsets.
        cell: names one; its seed draws random ones.
        names: of all classes of the data.
    """
    subset = recipe.subsets[cell.subset]
    if isinstance(subset, tuple):
        return tuple(sorted(names.index(name) for name in subset))
    if isinstance(subset, int):
        drawn = np.random.default_rng([cell.seed, subset]).choice(len(names), subset, False)
        return tuple(sorted(int(number) for number in drawn))
    return None
