"""Run the grid of `pipelines/experiments/methods.toml` and write `benchmarks/methods.md`.

    python -m benchmarks.experiments                     # what is not finished yet, then the table
    python -m benchmarks.experiments --workers 8 --only methods

Every finished cell is one line of the results file, so an interrupted run goes on where it
stopped. Runs on any backend of Keras (KERAS_BACKEND); TensorFlow is needed by `--prepare` only.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from itertools import islice
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks.experiments.cells import run_cell
from benchmarks.experiments.material import prepare
from benchmarks.experiments.recipes import RECIPE, ROOT, Cell, Recipe, read_recipe
from benchmarks.experiments.tables import fill_pages, write_tables

RESULTS = ROOT / "benchmarks" / "methods.jsonl"
WORK = ROOT / "build" / "experiments"
SHARED = ROOT.parent / "shared" / "data"


@click.command()
@click.option("--recipe", type=click.Path(path_type=Path), default=RECIPE, help="The grid.")
@click.option("--results", type=click.Path(path_type=Path), default=RESULTS, help="JSON lines.")
@click.option("--work", type=click.Path(path_type=Path), default=WORK, help="Prepared material.")
@click.option("--shared", type=click.Path(path_type=Path), default=SHARED, help="Real data.")
@click.option("--workers", default=1, help="Processes beside each other.")
@click.option("--only", multiple=True, help="Name of a block; several are allowed.")
@click.option("--minutes", type=float, help="Start nothing new after this time.")
@click.option("--prepare", "only_prepare", is_flag=True, help="Prepare material, run nothing.")
@click.option("--tables", "only_tables", is_flag=True, help="Write the tables, run nothing.")
def main(
    recipe: Path, results: Path, work: Path, shared: Path, workers: int, only: tuple[str, ...],
    minutes: float | None, only_prepare: bool, only_tables: bool,
) -> None:  # fmt: skip
    """Run what is missing of the grid, then write the tables and plots."""
    grid = read_recipe(recipe)
    if not only_tables:
        missing = find_missing(grid, read_results(results), only)
        prepare(grid, dict.fromkeys(cell.model for cell in missing), shared, work)
        if only_prepare:
            return
        deadline = time.monotonic() + 60 * minutes if minutes else None
        run_cells(missing, recipe, results, work, shared, workers, deadline)
    finished = read_results(results)
    write_tables(grid, finished, ROOT / "benchmarks")
    fill_pages(grid, finished, ROOT / "docs" / "methods")


def read_results(path: Path) -> dict[str, dict[str, Any]]:
    """Return finished cells by key; a line that was cut off by a crash does not count."""
    found = {}
    for line in path.read_text("utf-8").splitlines() if path.exists() else []:
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue
        found[row["key"]] = row
    return found


def find_missing(
    grid: Recipe, finished: dict[str, dict[str, Any]], only: tuple[str, ...] = ()
) -> list[Cell]:
    """Return the cells that are still to run, in their order."""
    return [
        cell for cell in grid.cells if cell.key not in finished and (not only or cell.block in only)
    ]


def run_cells(
    cells: list[Cell], recipe: Path, results: Path, work: Path, shared: Path,
    workers: int, deadline: float | None,
) -> None:  # fmt: skip
    """Run cells beside each other and add a line to the results as each ends.

    Args:
        cells: in their order.
        recipe: path of the grid.
        results: path of the JSON lines.
        work: folder of prepared material.
        shared: folder of real data.
        workers: number of processes.
        deadline: by the monotonic clock; nothing new starts after it.
    """
    console = Console(stderr=True)
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
    failures = 0
    context = multiprocessing.get_context("spawn")
    with (
        Progress(*columns, TimeElapsedColumn(), console=console) as bar,
        results.open("a", encoding="utf-8") as file,
        ProcessPoolExecutor(workers, mp_context=context) as executor,
    ):
        task = bar.add_task("cells", total=len(cells))
        waiting = iter(cells)
        running = {
            executor.submit(run_cell, cell, recipe, work, shared): cell
            for cell in islice(waiting, workers)
        }
        while running:
            done = next(as_completed(running))
            cell = running.pop(done)
            try:
                file.write(json.dumps(done.result()) + "\n")
                file.flush()
            except Exception as error:
                failures += 1
                console.print(f"{cell.key}: {type(error).__name__}: {error}", markup=False)
            bar.advance(task)
            late = deadline is not None and time.monotonic() > deadline
            following = None if late else next(waiting, None)
            if following is not None:
                running[executor.submit(run_cell, following, recipe, work, shared)] = following
    if failures:
        console.print(f"{failures} cells failed and are tried again by the next run.")


if __name__ == "__main__":
    main()
