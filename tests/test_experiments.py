"""The grid behind `benchmarks/methods.md`: its cells, its draws, its resumption and its tables."""

from __future__ import annotations

import io
import json
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image
from places import ROOT

sys.path.insert(0, str(ROOT))

pytest.importorskip("matplotlib", reason="plots need matplotlib")

from benchmarks.experiments import __main__ as command
from benchmarks.experiments import material
from benchmarks.experiments.__main__ import find_missing, read_results, run_cells
from benchmarks.experiments.material import Images, draw
from benchmarks.experiments.recipes import choose_classes, read_recipe
from benchmarks.experiments.tables import fill_pages, write_tables

NAMES = tuple("airplane automobile bird cat deer dog frog horse ship truck".split())


@pytest.fixture(scope="module")
def grid():
    return read_recipe()


def make_row(cell, lost: float) -> dict:
    fields = {name: getattr(cell, name) for name in cell.__dataclass_fields__}
    accuracy = {"original_subset": 0.9, "slim": 0.3, "recovered": 0.9 - lost / 100}
    if cell.fine_tuning:
        accuracy["fine_tuned"] = 0.895
    return {
        "key": cell.key,
        **fields,
        "accuracy": accuracy,
        "seconds": {"pruning": 5.0},
        "fine_tuned": {"epochs": 2.0},
        "where": {"backend": "b", "keras": "3", "device": "CPU", "machine": "m", "cores": 2},
    }


def test_every_name_in_the_grid_exists(grid) -> None:
    from edgeprune.pruning.methods import METHODS
    from edgeprune.recovery import RECOVERIES
    from edgeprune.scoring.criteria import CRITERIA

    assert {cell.method for cell in grid.cells} <= METHODS.keys()
    assert {cell.criterion for cell in grid.cells if cell.criterion} <= CRITERIA.keys()
    assert {cell.recovery for cell in grid.cells if cell.recovery} <= RECOVERIES.keys()


def test_a_sorted_file_still_gives_every_class_to_pool_and_test(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(material, "VWW_POOL_PER_CLASS", 3)
    packed = []
    for shade in range(0, 200, 20):
        file = io.BytesIO()
        Image.new("RGB", (4, 4), (shade,) * 3).save(file, "webp", lossless=True)
        packed.append(np.frombuffer(file.getvalue(), np.uint8))
    (tmp_path / "mlperf_tiny").mkdir()
    np.savez(
        tmp_path / "mlperf_tiny" / "vww01.npz",
        webp=np.concatenate(packed),
        offsets=np.cumsum([0, *map(len, packed)]),
        labels=[1] * 5 + [0] * 5,
        classes=["non_person", "person"],
    )
    found = material._read_images(tmp_path, "vww01")
    assert np.bincount(found["pool_targets"]).tolist() == [3, 3]
    assert np.bincount(found["test_targets"]).tolist() == [2, 2]
    shades = [*found["pool"][:, 0, 0, 0], *found["test"][:, 0, 0, 0]]
    assert sorted(shades) == list(range(0, 200, 20))


def test_the_seed_draws_random_subsets_and_named_ones_stay(grid) -> None:
    def classes(subset: str, seed: int):
        cell = next(c for c in grid.cells if c.subset == subset and c.seed == seed)
        return choose_classes(grid, cell, NAMES)

    assert len(classes("random5", 0)) == 5
    assert len({classes("random5", seed) for seed in range(3)}) > 1
    assert [NAMES[i] for i in classes("vehicles", 0)] == ["airplane", "automobile", "ship", "truck"]
    assert classes("all", 0) is None


def test_calibration_and_validation_are_of_the_kept_classes_and_share_nothing() -> None:
    targets = np.repeat(np.arange(4), 30)
    nothing = np.zeros((0, 1, 1, 1), np.uint8)
    images = Images(("a", "b", "c", "d"), nothing, targets, nothing, np.zeros(0, np.int64))
    calibration, validation = draw(images, (1, 3), (10, 15), seed=0)
    assert not set(calibration) & set(validation)
    assert np.bincount(targets[calibration]).tolist() == [0, 10, 0, 10]
    assert np.bincount(targets[validation]).tolist() == [0, 15, 0, 15]


def test_finished_cells_are_not_run_again_and_a_torn_line_is(grid, tmp_path) -> None:
    first, second = grid.cells[:2]
    results = tmp_path / "results.jsonl"
    whole, torn = (json.dumps(make_row(cell, 1.0)) for cell in (first, second))
    results.write_text(f"{whole}\n{torn[:40]}")
    missing = find_missing(grid, read_results(results))
    assert first not in missing
    assert second in missing
    assert find_missing(grid, {}, ("fine-tuned",)) == [
        cell for cell in grid.cells if cell.block == "fine-tuned"
    ]


@pytest.mark.parametrize("workers", [1, 2, 9])
def test_every_cell_runs_once_whatever_the_number_of_workers(
    grid, tmp_path, monkeypatch, workers
) -> None:
    monkeypatch.setattr(
        command, "ProcessPoolExecutor", lambda count, mp_context: ThreadPoolExecutor(count)
    )
    monkeypatch.setattr(command, "run_cell", lambda cell, *_: {"key": cell.key})
    results = tmp_path / "results.jsonl"
    run_cells(list(grid.cells[:7]), tmp_path, results, tmp_path, tmp_path, workers, None)
    found = [json.loads(line)["key"] for line in results.read_text().splitlines()]
    assert sorted(found) == sorted(cell.key for cell in grid.cells[:7])


def test_tables_hold_mean_and_spread_over_seeds(grid, tmp_path) -> None:
    rows = {}
    for cell in grid.cells:
        if cell.block in ("methods", "crossed", "fine-tuned"):
            rows[cell.key] = make_row(cell, lost=1.0 + cell.seed)
    write_tables(grid, rows, tmp_path)
    text = (tmp_path / "methods.md").read_text()
    assert "| auto | -2.0 ± 1.0 (3) | -2.0 ± 1.0 (3) | 5 |" in text
    assert "| random | -2.0 ± 1.0 (3)" in text
    assert "-0.5 ± 0.0 (3)" in text
    assert f"{len(rows)} of {len(grid.cells)} cells" in text
    assert {p.name for p in tmp_path.glob("*.png")} == {
        "methods_resnet20.png",
        "methods_crossed.png",
    }


def test_only_the_measured_section_of_a_page_is_written(grid, tmp_path) -> None:
    cells = [cell for cell in grid.cells if cell.block == "methods" and cell.method == "auto"]
    page, other = tmp_path / "auto.md", tmp_path / "catro.md"
    page.write_text("# auto\n\nBy hand.\n\n## Measured\nold\n")
    other.write_text("# catro\n\n## Measured\n")
    fill_pages(grid, {cell.key: make_row(cell, 1.0) for cell in cells}, tmp_path)
    text = page.read_text()
    assert text.startswith("# auto\n\nBy hand.\n\n## Measured\n\n")
    assert "old" not in text
    assert "| -1.0 ± 0.0 (3) |" in text
    assert other.read_text() == "# catro\n\n## Measured\n"


def test_a_cell_runs_from_prepared_files_to_its_figures(tmp_path) -> None:
    """A specialist that is trained, on handwriting in place of the real data."""
    from specialists import NUM_TRAIN, digits, make_classifier

    from benchmarks.experiments.cells import run_cell

    x, y = digits()
    make_classifier().save(tmp_path / "small.keras")
    np.savez(
        tmp_path / "digits.npz", names=[str(number) for number in range(10)], pool=x[:600],
        pool_targets=y[:600], test=x[NUM_TRAIN:], test_targets=y[NUM_TRAIN:],
    )  # fmt: skip
    (tmp_path / "recipe.toml").write_text(
        "seeds = [0]\ncalibration_per_class = 10\nvalidation_per_class = 10\ntime_limit = 1\n"
        'left_out = ""\n[models.small]\ntitle = "small"\nmodel = "none"\ndata = "digits"\n'
        'preprocess = "raw"\nstep = 1\n[subsets]\nsome = ["3", "8"]\n[[blocks]]\nname = "one"\n'
        'model = "small"\nsubsets = ["some"]\nkept = [0.5]\nmethods = ["chapr"]\n'
        'fine_tuning = "3epochs"\n'
    )
    (cell,) = read_recipe(tmp_path / "recipe.toml").cells
    row = json.loads(json.dumps(run_cell(cell, tmp_path / "recipe.toml", tmp_path, tmp_path)))
    kept = np.isin(y[NUM_TRAIN:], (3, 8))
    outputs = make_classifier().predict(x[NUM_TRAIN:][kept].astype(np.float32), verbose=0)
    right = np.array([3, 8])[outputs[:, [3, 8]].argmax(-1)] == y[NUM_TRAIN:][kept]
    assert row["accuracy"]["original_subset"] == pytest.approx(right.mean())
    assert set(row["accuracy"]) == {"original_subset", "slim", "recovered", "fine_tuned"}
    assert row["accuracy"]["fine_tuned"] > 0.8 and row["fine_tuned"]["stopped"] == "epochs"
    assert row["test_samples"] == kept.sum() and row["macs"] <= 0.5
