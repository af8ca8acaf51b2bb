"""`edgeprune bench` as a user meets it: many models, files, comparisons, Ctrl-C."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import small_models

from edgeprune.benchmarking import BenchInterrupted, bench
from edgeprune.cli.measuring import name_models
from edgeprune.emulation.counting import Count, CountResult
from edgeprune.errors import BenchmarkError
from edgeprune.report.bench_files import write_results
from edgeprune.support.progress import showing
from edgeprune.tflite import convert

ROOT = Path(__file__).resolve().parent.parent
PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> list[Path]:
    """Ten, of two kinds."""
    folder = tmp_path_factory.mktemp("models")
    model = small_models.classifier()
    convert(model, scheme="float32", path=folder / "0.tflite")
    convert(model, calibration=small_models.samples(20), path=folder / "1.tflite")
    for number in range(2, 10):
        shutil.copy(folder / f"{number % 2}.tflite", folder / f"{number}.tflite")
    return [folder / f"{number}.tflite" for number in range(10)]


@pytest.fixture(scope="module")
def batch(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("batch") / "batch.npz"
    samples = small_models.samples(40)
    labels = small_models.classifier().predict(samples, verbose=0).argmax(-1)
    np.savez(path, inputs=samples, labels=labels)
    return path


def command(*words: object) -> list[str]:
    return [sys.executable, "-m", "edgeprune", "bench", *map(str, words)]


def run(*words: object, **options) -> subprocess.CompletedProcess:
    return subprocess.run(command(*words), cwd=ROOT, capture_output=True, text=True, **options)


def test_two_models_are_compared_and_written(models, batch, tmp_path) -> None:
    quick = ("--runs", 20, "--seconds", 0.1, "--threads", 1)
    done = run(*models[:2], "--compare", "--batch", batch, "--out", tmp_path / "out", *quick)
    assert done.returncode == 0, done.stderr
    assert "Relative to 0.tflite" in done.stdout
    assert "x 1.000" in done.stdout
    out = tmp_path / "out"
    assert {path.name for path in out.iterdir()} == {
        "measurement.json", "measurement.csv", "measurement.png",
    }  # fmt: skip
    document = json.loads((out / "measurement.json").read_text())
    rows = list(csv.DictReader((out / "measurement.csv").open(newline="")))
    for row, entry in zip(rows, document["measurements"], strict=True):
        assert row["model"] == entry["model"]
        assert float(row["p50_ms"]) == entry["p50_ms"]
        assert entry["p50_ms"] == pytest.approx(np.median(entry["samples_ms"]))
    assert document["measurements"][0]["accuracy"] == 1.0, "the labels are its own answers"
    assert document["measurements"][1]["accuracy"] > 0.9
    assert (out / "measurement.png").read_bytes().startswith(PNG)


@pytest.mark.slow
def test_ten_models_side_by_side_survive_ctrl_c_with_what_they_have(models, tmp_path) -> None:
    words = command(*models, "--seconds", 20, "--runs", 10**7, "--threads", 1, "--json")
    words += ["--warmup", "0.1"]
    with subprocess.Popen(
        [*words, "--out", str(tmp_path / "out")],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        harness = wait_until_it_times(process)
        os.killpg(process.pid, signal.SIGINT)
        output, error = process.communicate(timeout=600)
    assert process.returncode == 130
    assert error.splitlines()[-1] == "Interrupted. What had been measured until then is kept."
    document = json.loads(output)
    assert document["interrupted"]
    assert document["measurements"]
    assert all(entry["count"] > 0 for entry in document["measurements"])
    assert (tmp_path / "out" / "measurement.csv").exists()
    assert not Path(f"/proc/{harness}").exists()


def wait_until_it_times(process: subprocess.Popen) -> int:
    """Return the harness, once its ten processes are over and it has worked for a while.

    It is a child of the command, which is one of the process that waits for it.
    """
    end = time.monotonic() + 600
    had_children, idle_since, used_before = False, None, 0.0
    while time.monotonic() < end and process.poll() is None:
        time.sleep(0.1)
        for harness in (one for child in children(process.pid) for one in children(child)):
            if children(harness):
                had_children, idle_since = True, None
            elif had_children and idle_since is None:
                idle_since, used_before = time.monotonic(), seconds_of_cpu(harness)
            elif idle_since and seconds_of_cpu(harness) - used_before > 4:
                return harness
    pytest.fail("it did not start to measure")


def children(process: int) -> list[int]:
    try:
        text = Path(f"/proc/{process}/task/{process}/children").read_text()
    except OSError:
        return []
    return [int(word) for word in text.split()]


def seconds_of_cpu(process: int) -> float:
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_an_interrupted_bench_carries_its_result(models) -> None:
    class Impatient:
        def stage(self, name, total=None):
            import contextlib

            @contextlib.contextmanager
            def shown():
                steps = iter(range(total))

                def advance() -> None:
                    if next(steps) == 60:
                        raise KeyboardInterrupt

                yield advance

            return shown()

    with pytest.raises(BenchInterrupted) as caught, showing(Impatient()):
        bench(models[0], runs=200_000, seconds=4.0, threads=1)
    result = caught.value.result
    assert result.interrupted
    assert 0 < result.measurements[0].count < 200_000


def test_names_are_what_tells_paths_apart(tmp_path) -> None:
    assert name_models([f"{tmp_path}/a.tflite"]) == {"a.tflite": f"{tmp_path}/a.tflite"}
    pair = [f"{tmp_path}/x/m.tflite", f"{tmp_path}/y/m.tflite"]
    assert list(name_models(pair)) == ["x/m.tflite", "y/m.tflite"]


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--emulated"], "--emulated needs --target: whose CPU is to be emulated?"),
        (
            ["--emulated", "--target", "rpi4", "--energy", "hwmon"],
            "--emulated has neither a host nor energy: nothing is timed there.",
        ),
        (["--provision"], "--provision needs --host."),
        (["--energy", "volts"], "Unknown meter 'volts'. Choose one of none, pmic, hwmon, ina3221,"),
        (
            ["--energy", "auto", "--target", "rpi4"],
            "energy 'auto' takes the target's own meter, and rpi4 has none: name a meter.",
        ),
        (["--batch", "absent.npz"], "Cannot read the batch 'absent.npz': expected a .npz file."),
        (["--target", "absent.toml"], "Cannot read the target 'absent.toml': No such file or"),
        (["--host", "-oProxyCommand=x"], "'-oProxyCommand=x' is no host. Expected pi@raspberrypi"),
    ],
)
def test_options_that_cannot_work_are_refused_at_once(models, words, complaint) -> None:
    done = run(models[0], *words)
    assert done.returncode == 2
    assert done.stderr.startswith(f"Error: {complaint}")
    assert len(done.stderr.splitlines()) == 1
    assert done.stdout == ""


def test_a_batch_of_other_samples_is_refused(models, tmp_path) -> None:
    np.savez(tmp_path / "batch.npz", inputs=np.zeros((3, 5, 5, 1), np.float32))
    with pytest.raises(BenchmarkError, match=r"takes samples of .*, the batch has \(5, 5, 1\)"):
        bench(models[0], batch=tmp_path / "batch.npz", runs=10, seconds=0.1, threads=1)


def test_a_meter_that_is_not_here_fails_before_anything_is_timed(models) -> None:
    with pytest.raises(BenchmarkError) as caught:
        bench(models[0], energy="hwmon:ina999", runs=10, seconds=0.1, threads=1)
    assert str(caught.value) == (
        "Cannot measure: the meter hwmon:ina999: no sensor ina999 under /sys/class/hwmon."
    )
    with pytest.raises(BenchmarkError) as caught:
        bench(models[0], energy="hwmon:ina999@host", runs=10, seconds=0.1, threads=1)
    assert str(caught.value) == (
        "The meter 'hwmon' failed: no sensor ina999 under /sys/class/hwmon."
    )


def test_counts_are_written_as_json_and_csv(tmp_path: Path) -> None:
    by_kind = {"vector": 2.0, "load": 1.0}
    count = Count(
        "a", "counted", "cortex-a72", "rpi4", "x 1", "f" * 64, 9.0, by_kind, 0.5, None, ""
    )
    written = write_results(CountResult((count,)), tmp_path / "out")
    assert [path.name for path in written] == ["counts.csv", "counts.json"]
    assert json.loads(written[1].read_text())["counts"][0]["instructions_by_kind"] == by_kind
    (row,) = csv.DictReader(written[0].open(newline=""))
    assert (row["instructions"], row["instructions_by_kind_vector"]) == ("9.0", "2.0")
