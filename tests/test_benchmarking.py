from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import keras
import numpy as np
import pytest
import small_models
from fuzzing import hostile_boards

from edgeprune.benchmarking import bench, local
from edgeprune.errors import BenchmarkError, ModelError
from edgeprune.support.progress import showing
from edgeprune.tflite import convert

ROOT = Path(__file__).resolve().parent.parent
QUICK = {"runs": 40, "seconds": 1.0, "threads": 1}


@pytest.fixture(scope="session")
def models(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    model = small_models.classifier()
    paths = {"before": folder / "float.tflite", "after": folder / "int8.tflite"}
    convert(model, scheme="float32", path=paths["before"])
    convert(model, calibration=small_models.samples(20), path=paths["after"])
    return paths


@pytest.fixture(scope="session")
def result(models):
    return bench(models, target="rpi4", **QUICK)


def test_each_model_is_measured_under_its_name(result, models) -> None:
    assert [entry.model for entry in result.measurements] == ["before", "after"]
    for name, path in models.items():
        measured = result[name]
        assert measured.kind == "measured"
        assert measured.count == len(measured.samples_ms) == 40
        assert measured.p90_ms == pytest.approx(np.percentile(measured.samples_ms, 90))
        assert measured.size_bytes == path.stat().st_size
        assert measured.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
        assert 0 < measured.memory_model_bytes < measured.memory_peak_bytes
        assert measured.threads == 1
    with pytest.raises(KeyError):
        result["neither"]


def test_milliseconds_of_this_machine_are_never_the_boards(result) -> None:
    measured = result["after"]
    assert measured.target == "rpi4"
    assert not measured.on_target
    assert platform.machine() in measured.machine
    assert measured.where == f"measured on {measured.machine}, not on rpi4"
    assert str(result).startswith(f"{measured.where}, ai-edge-litert ")


def test_this_machine_as_the_target_is_said_so(models) -> None:
    measured = bench(models["after"], target="x86-64", **QUICK).measurements[0]
    assert measured.model == "int8.tflite"
    assert measured.on_target == (platform.machine() == "x86_64")


def test_a_result_can_be_written_as_json(result) -> None:
    document = json.loads(json.dumps(result.to_dict()))
    assert document["measurements"][0]["where"] == result["before"].where
    assert document["environment"]["software"]["runtime"] == "ai-edge-litert"


def test_progress_counts_every_percent(models) -> None:
    recorder = small_models.Recorder()
    with showing(recorder):
        bench(models["after"], **QUICK)
    assert recorder.stages == [["benchmark", 100, 100]]


def test_threads_are_the_targets_but_no_more_than_there_are(models) -> None:
    usable = len(os.sched_getaffinity(0))
    measured = bench(models["after"], target="rpi4", runs=10, seconds=1.0).measurements[0]
    assert measured.threads == min(4, usable)


def test_what_cannot_be_measured_is_refused_before_a_process_starts(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(local.subprocess, "Popen", lambda *a, **k: pytest.fail("too late"))
    text = tmp_path / "text.tflite"
    text.write_text("no model")
    with pytest.raises(ModelError, match="is not a TensorFlow Lite model"):
        bench(text)
    with pytest.raises(BenchmarkError, match="There is nothing to measure"):
        bench([])
    with pytest.raises(BenchmarkError, match="Several models have the same file name: give them"):
        bench([text, tmp_path / "other" / "text.tflite"])
    with pytest.raises(BenchmarkError) as caught:
        bench(text, threads=0)
    assert str(caught.value) == ("threads, runs and seconds must be positive; got 0, 1000 and 5.0.")


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        (
            'print(\'{"schema_version": 1, "error": "the disk is gone"}\')',
            r"^Cannot measure: the disk is gone\.$",
        ),
        ("raise SystemError('broken')", r"^The harness ended with status 1: SystemError: broken$"),
        (
            "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
            r"^The harness was killed by signal 9: it said nothing$",
        ),
        ("print('{\"schema_version\": 2}')", r"^The harness speaks version 2 of its format"),
    ],
)
def test_a_failing_harness_is_one_clear_line(
    models, tmp_path, monkeypatch, program, reason
) -> None:
    (tmp_path / "harness").mkdir()
    (tmp_path / "harness" / "__main__.py").write_text(program)
    monkeypatch.setattr(local, "find_folder", lambda name: tmp_path)
    with pytest.raises(BenchmarkError, match=reason):
        bench(models["after"])


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (
            {"process": {"tensorflow_loaded": True, "memory_peak_bytes": 1}},
            "found TensorFlow loaded in its process",
        ),
        ({"interrupted": True}, "was stopped before it had measured everything"),
    ],
)
def test_figures_that_mean_nothing_are_refused(
    models, tmp_path, monkeypatch, change, reason
) -> None:
    document = hostile_boards.honest_document() | change
    schema = (local.find_folder("devices") / "harness" / "measurement.schema.json").read_bytes()
    (tmp_path / "harness").mkdir()
    (tmp_path / "harness" / "__main__.py").write_text(f"print({json.dumps(document)!r})")
    (tmp_path / "harness" / "measurement.schema.json").write_bytes(schema)
    monkeypatch.setattr(local, "find_folder", lambda name: tmp_path)
    with pytest.raises(BenchmarkError, match=reason):
        bench(models["after"])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_the_harness_ends_with_its_host(models, number) -> None:
    script = textwrap.dedent("""
        import contextlib, sys
        from edgeprune.benchmarking import bench
        from edgeprune.support.progress import showing

        class Talkative:
            @contextlib.contextmanager
            def stage(self, name, total):
                yield lambda: print("one more percent", flush=True)

        with showing(Talkative()):
            bench(sys.argv[1], runs=10**6, seconds=600, threads=1)
    """)
    command = [sys.executable, "-c", script, str(models["after"])]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as host:
        assert host.stdout.readline() == "one more percent\n"
        assert harness_processes(models["after"]), "else this test says nothing"
        host.send_signal(number)
        host.wait(timeout=600)
    for _ in range(6000):
        if not harness_processes(models["after"]):
            break
        time.sleep(0.1)
    assert not harness_processes(models["after"])


def test_an_interrupted_bench_leaves_no_process(models) -> None:
    class Impatient:
        @contextlib.contextmanager
        def stage(self, name, total):
            def interrupt() -> None:
                raise KeyboardInterrupt

            yield interrupt

    with pytest.raises(KeyboardInterrupt) as caught, showing(Impatient()):
        bench(models["after"], runs=10**6, seconds=600, threads=1)
    assert not harness_processes(models["after"])
    del caught


def harness_processes(model: Path) -> list[str]:
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().decode().split("\0")
        except OSError:
            continue
        if "--watch-stdin" in words and str(model) in words:
            found.append(process.name)
    return found


def test_the_host_side_loads_neither_tensorflow_nor_a_runtime() -> None:
    script = (
        "import sys, edgeprune.benchmarking;"
        "print({'tensorflow', 'keras', 'ai_edge_litert'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "set()\n", done.stderr


@pytest.mark.parametrize("scheme", ["float32", "int8"])
def test_one_sigmoid_answers_yes_above_one_half(tmp_path, scheme) -> None:
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1, activation="sigmoid")])
    inputs = small_models.samples(30, 4)
    expected = model.predict(inputs, verbose=0)[:, 0] > 0.5
    assert 3 < expected.sum() < 27
    path = tmp_path / "model.tflite"
    convert(model, scheme=scheme, calibration=inputs, io=scheme, path=path)
    np.savez(tmp_path / "batch.npz", inputs=inputs, labels=expected.astype(int))
    (entry,) = bench(path, batch=tmp_path / "batch.npz", **QUICK).measurements
    assert entry.accuracy > 0.9
