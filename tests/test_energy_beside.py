"""A meter beside the board: readings on one clock, windows on another."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import edgetpu_stand_in
import numpy as np
import pytest
import small_models

from edgeprune.benchmarking import bench
from edgeprune.benchmarking.documents import Answer
from edgeprune.errors import BenchmarkError
from edgeprune.tflite import convert

HARNESS = Path(__file__).resolve().parent.parent / "devices" / "harness"
OFFSET = 5000.0  # the board was switched on earlier than this machine
IDLE_WATTS, BUSY_WATTS = 2.5, 6.5
SECONDS, INFERENCES = 10.0, 400


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("models") / "model.tflite"
    convert(small_models.classifier(), scheme="float32", path=path)
    return path


def run_harness(model: Path, **environment: str) -> dict:
    command = [sys.executable, "-I", str(HARNESS), str(model), "--runs", "20", "--warmup", "0.1"]
    command += ["--energy", "--window", "0.05", "--repeats", "1"]
    given = {"stderr": subprocess.DEVNULL, "env": os.environ | environment}
    return json.loads(subprocess.check_output(command, **given))


@pytest.fixture(scope="module")
def document(model) -> dict:
    return run_harness(model)


class Board:
    """Answers with windows of a long run that is over; its clock is ahead."""

    def __init__(self, document: dict, start: float, clock_error: float = 0.001) -> None:
        windows = [
            {
                "model": 0 if index % 2 else None,
                "start": OFFSET + start + index * (SECONDS + 1),
                "end": OFFSET + start + index * (SECONDS + 1) + SECONDS,
                "inferences": INFERENCES if index % 2 else 0,
                "throttled": False,
            }
            for index in range(11)
        ]
        self.answer = Answer(
            {**document, "energy": {**document["energy"], "windows": windows}}, OFFSET, clock_error
        )

    def measure(self, models, settings) -> Answer:
        return self.answer


def write_log(path: Path, start: float, late: float = 0.0) -> None:
    """What a meter wrote down: Unix seconds and watts, ten times a second."""
    to_unix = time.time() - time.monotonic()
    times = np.arange(start - 1, start + 11 * (SECONDS + 1), 0.1)
    index = np.floor((times - start + 0.5) / (SECONDS + 1))
    watts = np.where(index % 2 == 1, BUSY_WATTS, IDLE_WATTS)
    rows = [f"{t + to_unix + late:.4f},{w}" for t, w in zip(times, watts, strict=True)]
    path.write_text("\n".join(["time,watts", *rows]) + "\n")


def test_readings_of_this_machine_meet_the_windows_of_the_board(document, model, tmp_path) -> None:
    start = time.monotonic() - 1000
    write_log(tmp_path / "power.csv", start)
    result = bench(
        model, transport=Board(document, start), energy=f"log:{tmp_path}/power.csv", threads=1
    )
    energy = result.measurements[0].energy
    assert energy.kind == "metered"
    assert energy.windows == 5
    assert energy.total_mj == pytest.approx(1e3 * BUSY_WATTS * SECONDS / INFERENCES)
    above = 1e3 * (BUSY_WATTS - IDLE_WATTS) * SECONDS / INFERENCES
    assert energy.above_idle_mj == pytest.approx(above)
    assert str(energy).endswith("6.50 W, metered by log")
    row = result.to_dict()["measurements"][0]["energy"]
    assert row["total_mj"] == energy.total_mj


@pytest.mark.skipif(shutil.which("gcc") is None, reason="no gcc is installed")
def test_the_energy_of_a_compiled_model_says_what_ran_it(model, tmp_path) -> None:
    made, answers = edgetpu_stand_in.compile_whole(model.read_bytes()), tmp_path / "answers"
    inputs = [edgetpu_stand_in.made_up_inputs(model.read_bytes())]
    edgetpu_stand_in.write_answers(answers, made, model.read_bytes(), inputs)
    (compiled := tmp_path / "model_edgetpu.tflite").write_bytes(made)
    folder = str(edgetpu_stand_in.build(tmp_path).parent)
    document = run_harness(compiled, LD_LIBRARY_PATH=folder, STAND_IN_ANSWERS=str(answers))
    start = time.monotonic() - 1000
    write_log(tmp_path / "power.csv", start)
    board, log = Board(document, start), f"log:{tmp_path}/power.csv"
    (row,) = bench(compiled, transport=board, energy=log, threads=1).measurements
    assert row.energy.total_mj == pytest.approx(1e3 * BUSY_WATTS * SECONDS / INFERENCES)
    assert edgetpu_stand_in.WORDS in str(row)


def test_clocks_that_agree_too_badly_give_no_energy_but_the_reason(
    document, model, tmp_path
) -> None:
    start = time.monotonic() - 1000
    write_log(tmp_path / "power.csv", start)
    board = Board(document, start, clock_error=0.5)
    result = bench(model, transport=board, energy=f"log:{tmp_path}/power.csv", threads=1)
    assert result.measurements[0].energy is None
    assert (
        "energy: the clocks of the board and of this machine agree within 0.5 s only, the meter "
        "reads every 0.1 s"
    ) in result.warnings


def test_a_log_of_another_time_gives_no_energy_but_the_reason(document, model, tmp_path) -> None:
    start = time.monotonic() - 1000
    write_log(tmp_path / "power.csv", start, late=-5000)
    board = Board(document, start)
    result = bench(model, transport=board, energy=f"log:{tmp_path}/power.csv", threads=1)
    assert result.measurements[0].energy is None
    assert result.warnings[-1] == (
        "energy of model.tflite: 0 of at least 5 windows could be used: 0 readings in a window, "
        "fewer than 50"
    )


@pytest.mark.parametrize(
    ("content", "complaint"),
    [(None, "Cannot read the power log"), (b"volts,amperes\n", "neither a PTDaemon log nor a CSV"),
     (b"\xff\xfe\0", "Cannot read the power log"), ("pipe", "it is no file but")],
)  # fmt: skip
def test_a_log_that_cannot_be_one_is_told_before_anything_is_measured(
    document, model, tmp_path, monkeypatch, content, complaint
) -> None:
    board = Board(document, time.monotonic())
    monkeypatch.setattr(board, "measure", lambda *_: pytest.fail("it was measured"))
    path = tmp_path / "power.csv"
    if content == "pipe":
        os.mkfifo(path)
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(BenchmarkError, match=complaint):
        bench(model, transport=board, energy=f"log:{path}", threads=1)
