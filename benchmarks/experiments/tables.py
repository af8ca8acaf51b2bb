"""From finished cells to `methods.md`: mean and spread over seeds, by code only."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.experiments.plots import draw_budgets, draw_recoveries
from benchmarks.experiments.recipes import Recipe

Row = Mapping[str, Any]
Rows = list[Row]
MEASURED = "## Measured"
HEAD = """# Methods, measured

Written by `make experiments` from `benchmarks/methods.jsonl`, one line per run.

Points of accuracy against **original_subset**, the unpruned model with its answers limited to the
same classes, on the same test images: mean over seeds ± the largest distance from it, and the
number of runs. A seed draws the random subsets, the calibration images ({calibration} per class)
and the validation images ({validation} per class), all of the train split; validation chooses, the
test split is read once, for these tables. Visual wake words has no train split here: half of its
thousand images serve as one, the others test. No run but those of the last section takes a
gradient step.

Ran on: {machines}.
Left out, to end within three hours on two cores: {left_out}
"""


def write_tables(grid: Recipe, results: Mapping[str, Row], folder: Path) -> None:
    """Write `methods.md` and its plots.

    Args:
        grid: says what there should be.
        results: finished cells by key.
        folder: where the files go.
    """
    rows = [results[cell.key] for cell in grid.cells if cell.key in results]
    parts = [
        HEAD.format(
            calibration=grid.calibration_per_class,
            validation=grid.validation_per_class,
            machines=_describe_machines(rows),
            left_out=grid.left_out,
        ),
        f"{len(rows)} of {len(grid.cells)} cells of the grid are finished.\n",
    ]
    plain = [row for row in rows if not row["criterion"] and not row["fine_tuning"]]
    for name, subject in grid.subjects.items():
        of_model = [row for row in plain if row["model"] == name]
        if of_model:
            parts.append(f"## {subject.title}\n")
            parts.extend(_budget_tables(of_model, grid))
            picture = f"methods_{name}.png"
            names = dict.fromkeys(row["subset"] for row in of_model)
            subsets = {found: _describe_subset(grid, found) for found in names}
            draw_budgets(of_model, subject.title, subsets, folder / picture)
            parts.append(f"![accuracy lost by kept MACs]({picture})\n")
    crossed = [row for row in rows if row["criterion"]]
    if crossed:
        parts.append(_crossed_table(crossed))
        draw_recoveries(crossed, folder / "methods_crossed.png")
        parts.append("![criteria and recoveries](methods_crossed.png)\n")
    tuned = [row for row in rows if row["fine_tuning"]]
    if tuned:
        parts.append(_tuned_table(tuned))
    (folder / "methods.md").write_text("\n".join(parts), encoding="utf-8")


def fill_pages(grid: Recipe, results: Mapping[str, Row], folder: Path) -> None:
    """Write the section "Measured" of every method's page; what stands before it is left alone.

    Args:
        grid: says what there should be.
        results: finished cells by key.
        folder: with a page per method.
    """
    rows = [results[cell.key] for cell in grid.cells if cell.key in results]
    plain = [row for row in rows if not row["criterion"] and not row["fine_tuning"]]
    for method in list_values(plain, "method"):
        path = folder / f"{method}.md"
        text, mark, _ = path.read_text("utf-8").partition(MEASURED)
        if mark:
            table = _page_table(select(plain, method=method), grid)
            path.write_text(f"{text}{MEASURED}\n\n{table}", encoding="utf-8")


def _page_table(rows: Rows, grid: Recipe) -> str:
    """Return what one method lost, by model and subset."""
    budgets = sorted(list_values(rows, "kept"), reverse=True)
    lines = []
    for name, subject in grid.subjects.items():
        for subset in list_values(select(rows, model=name), "subset"):
            chosen = select(rows, model=name, subset=subset)
            cells = [_summarise(select(chosen, kept=kept)) for kept in budgets]
            lines.append([f"{subject.title}, {_describe_subset(grid, subset)}", *cells])
    note = (
        "Points of test accuracy against the unpruned model with its answers limited to the same "
        "classes:\nmean over seeds ± largest distance from it (runs). Written by "
        "`make experiments`; all methods side by\nside in "
        "[benchmarks/methods.md](../../benchmarks/methods.md).\n\n"
    )
    header = ["model and classes", *[f"{kept:.0%} of the MACs" for kept in budgets]]
    return note + _format_table(header, lines)


def lost(row: Row, stage: str = "recovered") -> float:
    """Return points of accuracy against the unpruned model on the same classes."""
    return float(100 * (row["accuracy"][stage] - row["accuracy"]["original_subset"]))


def select(rows: Iterable[Row], **wanted: Any) -> Rows:
    """Return the rows that have these values."""
    return [row for row in rows if all(row[name] == value for name, value in wanted.items())]


def list_values(rows: Iterable[Row], name: str) -> list[Any]:
    """Return the different values of a field, in order of appearance."""
    return list(dict.fromkeys(row[name] for row in rows))


def _summarise(rows: Rows, value: Callable[[Row], float] = lost) -> str:
    """Return mean, spread and number of runs."""
    if not rows:
        return ""
    found = np.array([value(row) for row in rows])
    mean = found.mean()
    spread = f" ± {np.abs(found - mean).max():.1f}" if len(found) > 1 else ""
    return f"{mean:+.1f}{spread} ({len(found)})"


def _budget_tables(rows: Rows, grid: Recipe) -> list[str]:
    """Return one table per subset: methods by kept MACs."""
    parts = []
    budgets = sorted(list_values(rows, "kept"), reverse=True)
    for subset in [name for name in grid.subsets if select(rows, subset=name)]:
        chosen = select(rows, subset=subset)
        base = np.mean([row["accuracy"]["original_subset"] for row in chosen])
        header = ["method", *[f"{kept:.0%} of the MACs" for kept in budgets], "seconds"]
        lines = []
        for method in list_values(chosen, "method"):
            of_method = select(chosen, method=method)
            cells = [_summarise(select(of_method, kept=kept)) for kept in budgets]
            seconds = np.median([row["seconds"]["pruning"] for row in of_method])
            lines.append([method, *cells, f"{seconds:.0f}"])
        parts.append(
            f"### {_describe_subset(grid, subset)}: original_subset {base:.1%}\n\n"
            + _format_table(header, lines)
        )
    return parts


def _crossed_table(rows: Rows) -> str:
    """Return criteria by recoveries."""
    recoveries = list_values(rows, "recovery")
    lines = [
        [
            criterion,
            *[_summarise(select(rows, criterion=criterion, recovery=name)) for name in recoveries],
        ]
        for criterion in list_values(rows, "criterion")
    ]
    title = (
        "## Criteria and recoveries\n\nResNet-20, random subsets of five classes, 50 % of the "
        "MACs, widths by gain per cost, BatchNorm not recalibrated.\n\n"
    )
    return title + _format_table(["criterion", *recoveries], lines)


def _tuned_table(rows: Rows) -> str:
    """Return what fine-tuning adds."""
    lines = []
    for subset in list_values(rows, "subset"):
        for parts in itertools.product(
            *(list_values(rows, name) for name in ("model", "kept", "method", "fine_tuning"))
        ):
            model, kept, method, effort = parts
            chosen = select(
                rows, subset=subset, model=model, kept=kept, method=method, fine_tuning=effort
            )
            if chosen:
                lines.append(
                    [
                        model, subset, f"{kept:.0%}", method, effort, _summarise(chosen),
                        _summarise(chosen, lambda row: lost(row, "fine_tuned")),
                        f"{np.mean([row['fine_tuned']['epochs'] for row in chosen]):.1f}",
                        str(len(chosen)),
                    ]
                )  # fmt: skip
    header = [
        "model", "classes", "kept MACs", "method", "effort", "closed form", "trained", "epochs",
        "seeds",
    ]  # fmt: skip
    return (
        "## With training\n\nDistillation from the original after the closed form, without "
        "labels: `--effort balanced`, the default, is at most 90 seconds, `thorough` 5 minutes.\n\n"
        + _format_table(header, lines)
    )


def _describe_subset(grid: Recipe, name: str) -> str:
    subset = grid.subsets[name]
    if isinstance(subset, int):
        return f"{subset} random classes"
    return f"{name} ({len(subset)} classes)" if isinstance(subset, tuple) else "all classes"


def _describe_machines(rows: Rows) -> str:
    found = {
        f"{row['where']['device']} ({row['where']['machine']}, {row['where']['cores']} cores), "
        f"Keras {row['where']['keras']} on {row['where']['backend']}"
        for row in rows
    }
    return "; ".join(sorted(found)) or "nothing yet"


def _format_table(header: list[str], lines: list[list[str]]) -> str:
    marks = ["---", *["--:"] * (len(header) - 1)]
    return "\n".join("| " + " | ".join(line) + " |" for line in (header, marks, *lines)) + "\n"
