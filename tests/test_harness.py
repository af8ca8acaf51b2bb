"""The harness as a program: copied alone to an empty folder and started there."""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import small_models
from jsonschema import Draft202012Validator

from edgeprune.tflite import convert

HARNESS = Path(__file__).resolve().parent.parent / "devices" / "harness"
SOURCES = sorted(HARNESS.glob("*.py"))
LONG = ["--runs", "300000", "--seconds", "600"]


@pytest.fixture(scope="session")
def models(tmp_path_factory) -> list[Path]:
    folder = tmp_path_factory.mktemp("models")
    model = small_models.classifier()
    convert(model, scheme="float32", path=folder / "float.tflite")
    convert(model, calibration=small_models.samples(20), io="int8", path=folder / "int8.tflite")
    return [folder / "float.tflite", folder / "int8.tflite"]


@pytest.fixture(scope="session")
def program(tmp_path_factory) -> Path:
    copy = tmp_path_factory.mktemp("board") / "harness"
    shutil.copytree(HARNESS, copy, ignore=shutil.ignore_patterns("__pycache__"))
    return copy


def start(program: Path, *arguments: Any, **options: Any) -> subprocess.Popen[str]:
    command = [sys.executable, "-I", str(program), *map(str, arguments)]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=program.parent, **streams, **options)


def run(program: Path, *arguments: Any) -> tuple[int, dict[str, Any], str]:
    process = start(program, *arguments)
    output, errors = process.communicate(timeout=600)
    return process.returncode, json.loads(output), errors


@pytest.fixture(scope="session")
def finished(program, models) -> tuple[int, dict[str, Any], str]:
    return run(program, *models, "--runs", 60, "--threads", 1, "--warmup", 0.2)


def check_against_schema(document: dict[str, Any], kind: str = "measurement") -> None:
    """Check with an independent implementation of JSON Schema."""
    schema = json.loads((HARNESS / "measurement.schema.json").read_text())
    Draft202012Validator.check_schema(schema)
    Draft202012Validator({"$ref": f"#/$defs/{kind}", "$defs": schema["$defs"]}).validate(document)


def test_the_document_is_the_one_that_the_schema_describes(finished) -> None:
    status, document, _ = finished
    assert status == 0
    check_against_schema(document)
    assert not document["interrupted"]
    assert [entry["file"] for entry in document["models"]] == ["float.tflite", "int8.tflite"]


def test_statistics_are_those_of_the_series(finished) -> None:
    for entry in finished[1]["models"]:
        latency = entry["latency"]
        samples = latency["samples_ms"]
        assert latency["count"] == len(samples) == 60
        assert latency["min_ms"] == min(samples) > 0
        assert latency["mean_ms"] == pytest.approx(sum(samples) / 60)
        for percent in (50, 90, 99):
            assert latency[f"p{percent}_ms"] == pytest.approx(np.percentile(samples, percent))


def test_sizes_and_memory_are_plausible(finished, models) -> None:
    for entry, path in zip(finished[1]["models"], models, strict=True):
        cold = entry["cold"]
        assert entry["size_bytes"] == path.stat().st_size
        assert 10e6 < cold["memory_before_bytes"] < cold["memory_peak_bytes"] < 120e6
        assert cold["load_ms"] > 0
        assert cold["first_ms"] > 0


def test_the_measuring_process_is_clean_and_says_what_it_runs(finished) -> None:
    document = finished[1]
    assert document["process"]["tensorflow_loaded"] is False
    assert 10e6 < document["process"]["memory_peak_bytes"] < 120e6
    software = document["environment"]["software"]
    assert software["runtime"] == "ai-edge-litert"
    assert software["numpy"] == np.__version__
    machine = document["environment"]["machine"]
    assert machine["usable_cores"] == len(os.sched_getaffinity(0))
    assert machine["architecture"] == os.uname().machine


def test_progress_is_one_json_line_per_step(finished) -> None:
    steps = [json.loads(line) for line in finished[2].splitlines() if line.startswith("{")]
    stages = {step["stage"] for step in steps}
    assert {"loading float.tflite", "warming up int8.tflite", "timing"} <= stages
    fractions = [step["done"] for step in steps]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_it_with_what_it_has(program, models, number, status) -> None:
    with start(program, *models, "--warmup", 0.1, *LONG) as process:
        for line in process.stderr:
            if '"timing"' in line:
                break
        process.send_signal(number)
        output, _ = process.communicate(timeout=600)
    document = json.loads(output)
    check_against_schema(document)
    assert process.returncode == status
    assert document["interrupted"] is True
    assert document["models"][0]["latency"]["count"] > 0


def test_it_ends_when_the_other_side_is_gone(program, models) -> None:
    with start(
        program, *models, "--warmup", 0.1, "--watch-stdin", *LONG, stdin=subprocess.PIPE
    ) as process:
        process.stdin.close()
        assert process.wait(timeout=600) == 143


def test_what_cannot_be_measured_is_one_line(program, models, tmp_path) -> None:
    (tmp_path / "text.tflite").write_text("no model at all")
    (tmp_path / "half.tflite").write_bytes(models[0].read_bytes()[:1000])
    for name, reason in [
        ("text.tflite", "is not a TensorFlow Lite model"),
        ("half.tflite", "cannot open"),
        ("gone.tflite", "No such file"),
    ]:
        status, document, _ = run(program, models[0], tmp_path / name)
        assert status == 2
        assert set(document) == {"schema_version", "error"}
        assert reason in document["error"]
        assert name in document["error"]
        assert "\n" not in document["error"]


def test_a_machine_without_a_runtime_is_told_what_to_install(program, models) -> None:
    script = f"""
import runpy, sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("ai_edge_litert", "tflite_runtime", "tensorflow"):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Refuse())
sys.argv = ["harness", "--cold", {str(models[0])!r}]
runpy.run_path({str(program)!r}, run_name="__main__")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 2
    assert json.loads(done.stdout)["error"] == (
        "no TensorFlow Lite runtime is installed: pip install ai-edge-litert"
    )


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_it_needs_nothing_but_python_39_numpy_and_a_runtime(path) -> None:
    tree = ast.parse(path.read_text(), feature_version=(3, 9))
    own = {source.stem for source in SOURCES}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module]
        else:
            continue
        for name in names:
            top = name.split(".")[0]
            assert top in sys.stdlib_module_names | own | {"numpy"}, name


def load(name: str, monkeypatch) -> ModuleType:
    """Import one file of the harness as the program would."""
    monkeypatch.syspath_prepend(str(HARNESS))
    specification = importlib.util.spec_from_file_location(
        f"harness_{name}", HARNESS / f"{name}.py"
    )
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


class Clock:
    """A clock that moves only when a model runs."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.log: list[str] = []

    def perf_counter(self) -> float:
        return self.seconds

    def perf_counter_ns(self) -> int:
        return round(1e9 * self.seconds)

    def model(self, name: str, *milliseconds: float):
        """Return a run that takes the given times in turn, then the last one for ever."""
        times = list(milliseconds)

        def run() -> None:
            self.log.append(name)
            self.seconds += 1e-3 * (times.pop(0) if len(times) > 1 else times[0])

        return run


@pytest.fixture
def clock(monkeypatch) -> Clock:
    return Clock()


@pytest.fixture
def timing(monkeypatch, clock) -> ModuleType:
    module = load("timing", monkeypatch)
    monkeypatch.setattr(module, "time", clock)
    return module


def never() -> bool:
    return False


def test_models_take_turns_and_the_order_is_reversed_every_round(timing, clock) -> None:
    counts = [40, 100]
    series = timing.interleave(
        [clock.model("A", 1.0), clock.model("B", 2.0)], counts, never, lambda done: None
    )
    assert [len(samples) for samples in series] == counts
    np.testing.assert_allclose(series[0], 1.0)
    np.testing.assert_allclose(series[1], 2.0)
    turns = [
        name
        for name, before in zip(clock.log, [None, *clock.log[:-1]], strict=True)
        if name != before
    ]
    assert "".join(turns) == "ABABABABABABABABABABA"[: len(turns)]
    assert len(turns) == 21, "ABBA...: the last of a round goes first in the next"


def test_the_first_runs_after_a_change_of_model_are_not_counted(timing, clock) -> None:
    slow_start = [9.0, 1.0]
    series = timing.interleave(
        [clock.model("A", *slow_start), clock.model("B", *slow_start)],
        [20, 20],
        never,
        lambda done: None,
    )
    assert max(series[0] + series[1]) == pytest.approx(1.0)


def test_a_slow_model_gets_fewer_runs_but_at_least_ten(timing) -> None:
    assert timing.plan_runs(1.0, runs=300, seconds=5) == 300
    assert timing.plan_runs(100.0, runs=300, seconds=5) == 50
    assert timing.plan_runs(10_000.0, runs=300, seconds=5) == 10
    assert timing.plan_runs(10_000.0, runs=3, seconds=5) == 3


def test_warm_up_ends_when_the_times_are_steady(timing, clock) -> None:
    falling = [100.0] * 5 + [50.0] * 5 + [20.0]
    result = timing.warm_up(clock.model("A", *falling), 60, never)
    assert result["steady"]
    assert result["runs"] == 20, "windows of five at 100, 50, 20 and 20 ms"
    assert result["median_ms"] == pytest.approx(20)
    assert result["seconds"] == pytest.approx(0.95)


def test_warm_up_gives_up_at_its_limit(timing, clock) -> None:
    restless = [10.0 * 1.1**step for step in range(100)]
    result = timing.warm_up(clock.model("A", *restless), 1.0, never)
    assert not result["steady"]
    assert 1.0 < result["seconds"] < 1.2


def test_an_interrupted_series_is_summarised_as_it_is(timing, clock) -> None:
    stop = iter([False] * 12)
    series = timing.interleave(
        [clock.model("A", 1.0)], [100], lambda: next(stop, True), lambda done: None
    )
    assert timing.summarize(series[0])["count"] == len(series[0]) > 0
    assert timing.summarize([]) is None


def test_the_machine_is_read_from_the_files_of_a_raspberry_pi(tmp_path, monkeypatch) -> None:
    files = {
        "proc/device-tree/model": "Raspberry Pi 4 Model B Rev 1.4\0",
        "proc/cpuinfo": "processor\t: 0\nCPU implementer\t: 0x41\nCPU part\t: 0xd08\n" * 4,
        "proc/meminfo": "MemTotal:        3884424 kB\nMemFree: 1 kB\n",
        "etc/os-release": 'NAME="Debian"\nPRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\n',
        "sys/class/thermal/thermal_zone0/type": "cpu-thermal\n",
        "sys/class/thermal/thermal_zone0/temp": "48312\n",
    }
    for core in range(2):
        folder = f"sys/devices/system/cpu/cpu{core}/cpufreq"
        files[f"{folder}/scaling_governor"] = "ondemand\n"
        files[f"{folder}/scaling_cur_freq"] = "600000\n"
        files[f"{folder}/cpuinfo_max_freq"] = "1500000\n"
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    environment = load("environment", monkeypatch)
    machine = environment.read_machine(str(tmp_path))
    assert machine["board"] == "Raspberry Pi 4 Model B Rev 1.4"
    assert machine["cpu"] == "Cortex-A72"
    assert machine["memory_bytes"] == 3884424 * 1024
    assert machine["system"] == "Debian GNU/Linux 12 (bookworm)"
    state = environment.read_state(str(tmp_path))
    assert state["governors"] == ["ondemand"]
    assert state["frequencies_mhz"] == [600.0, 600.0]
    assert state["highest_mhz"] == [1500.0, 1500.0]
    assert state["temperatures_c"] == {"thermal_zone0 cpu-thermal": 48.312}


def test_a_machine_that_tells_nothing_gives_empty_answers(tmp_path, monkeypatch) -> None:
    environment = load("environment", monkeypatch)
    machine = environment.read_machine(str(tmp_path))
    assert machine["board"] is machine["memory_bytes"] is None
    state = environment.read_state(str(tmp_path))
    assert state["governors"] == state["frequencies_mhz"] == []
    assert state["temperatures_c"] == {}


def test_memory_is_read_from_the_kernels_own_count(tmp_path, monkeypatch) -> None:
    cold = load("cold", monkeypatch)
    status = tmp_path / "status"
    status.write_text("Name:\tpython\nVmPeak:\t  900 kB\nVmHWM:\t   512 kB\nVmRSS:\t   256 kB\n")
    assert cold.read_memory("VmHWM", str(status)) == 512 * 1024
    assert cold.read_memory("VmRSS", str(status)) == 256 * 1024
    assert cold.read_memory("VmHWM", str(tmp_path / "gone")) > 1e6
