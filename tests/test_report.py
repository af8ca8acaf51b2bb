from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from edgeprune.benchmarking import BenchResult, MeasuredModel
from edgeprune.report import Change, Outcome, describe_outcome
from edgeprune.report.benchmarks import describe_measurements
from edgeprune.report.tables import count_threads, describe_files, describe_values

OUTCOME = Outcome(
    accuracy={
        "original": 0.872, "original_subset": 0.8766, "pruned": 0.341, "recovered": 0.8066,
        "tflite": 0.8081,
    },
    test_samples={"kept": 3000, "all": 10_000},
    macs=Change(12_501_632, 5_972_040),
    params=Change(78_666, 39_303),
    size_bytes=Change(97_938, 55_380),
    budgets=({"quantity": "macs", "unit": "", "limit": 6.25e6, "found": 5_972_040.0,
              "how": "counted", "met": True},),
    latency_ms=Change(0.043, 0.034),
    latency_measured="measured on a machine, not on rpi4, a runtime, 2 threads",
    equivalence={"max_abs_error": 2.5e-6, "scale": 10.06},
    agreement=0.966,
    recovery="refit",
    candidates=({"recovery": "refit", "validation_accuracy": 0.84},),
    classes=("cat", "dog"),
    widths={"conv": (16, 8)},
    settings={"quantize": "int8"},
    warnings=(),
    seconds={"load model": 1.0},
    versions={"keras": "3"},
    seed=0,
    command="edgeprune build",
    files=("model.tflite",),
)  # fmt: skip
MEASUREMENT = MeasuredModel(
    model="out/model.tflite", kind="measured", machine="AMD EPYC (x86_64, 2 cores)", target=None,
    on_target=False, runtime="ai-edge-litert 2.3.0", threads=1, count=1000, min_ms=0.031,
    p50_ms=1234.5678, p90_ms=0.041, p99_ms=0.052, mean_ms=0.04, load_ms=12.34, first_ms=5.678,
    memory_peak_bytes=48 * 2**20, memory_model_bytes=2**20, size_bytes=1_234_567, sha256="0",
    steady=True, samples_ms=(),
)  # fmt: skip


def render(table, width: int = 80) -> str:
    screen = io.StringIO()
    Console(width=width, file=screen).print(table)
    return screen.getvalue()


def row(text: str, start: str) -> list[str]:
    (line,) = [line for line in text.splitlines() if line.strip().startswith(start)]
    return line.split(start)[1].split()


@pytest.mark.parametrize("width", [80, 120])
def test_the_tables_of_a_build_fit_the_terminal(width: int) -> None:
    text = render(describe_outcome(OUTCOME), width)
    assert "…" not in text
    assert row(text, "original, all classes") == ["87.2", "%", "10,000"]
    assert row(text, "original, kept classes") == ["87.7", "%", "3,000"]
    assert row(text, "recovered (refit)") == ["80.7", "%", "3,000"]
    assert row(text, "model.tflite (int8)") == ["80.8", "%", "3,000"]
    assert row(text, "macs") == ["6,250,000", "5,972,040", "counted"]
    assert row(text, "MACs") == ["12,501,632", "5,972,040", "47.8", "%", "counted"]
    assert row(text, "size, bytes") == ["97,938", "55,380", "56.5", "%", "counted"]
    assert row(text, "latency p50, ms") == ["0.043", "0.034", "79.1", "%", "measured"]
    joined = " ".join(text.split())
    assert "Latency: measured on a machine, not on rpi4, a runtime, 2 threads." in joined
    assert "they differ by at most 2.5e-06, the largest is 10.1." in joined
    assert "on 96.6 % of the samples." in joined


def test_a_build_for_all_classes_shows_the_original_once() -> None:
    text = render(describe_outcome(replace(OUTCOME, test_samples={"kept": 99, "all": 99})))
    assert row(text, "original ") == ["87.2", "%", "99"]
    assert "classes" not in text


def test_the_model_that_was_converted_is_named_by_what_was_done_to_it_last() -> None:
    tuned = replace(
        OUTCOME,
        accuracy=OUTCOME.accuracy | {"trained": 0.83},
        training={"epochs": 3, "seconds": 60, "gained": True},
    )
    assert "the recovered Keras model does" in " ".join(render(describe_outcome(OUTCOME)).split())
    text = " ".join(render(describe_outcome(tuned)).split())
    assert "the trained Keras model does" in text
    assert "trained (3 epochs, 60 s) 83.0 %" in text
    in_vain = replace(tuned, training={"epochs": 3, "seconds": 60, "gained": False})
    assert "the recovered Keras model does" in " ".join(render(describe_outcome(in_vain)).split())


def test_what_was_not_measured_is_not_shown() -> None:
    text = render(describe_outcome(replace(OUTCOME, latency_ms=None, latency_measured=None)))
    assert "atency" not in text


def test_an_outcome_is_json_and_back() -> None:
    document = json.loads(OUTCOME.to_json())
    assert document["version"] == 2
    assert document["macs"] == {"before": 12_501_632, "after": 5_972_040}
    assert document["widths"] == {"conv": [16, 8]}
    assert json.loads(json.dumps(OUTCOME.to_dict())) == document


def test_a_change_is_a_share_of_what_was_before() -> None:
    assert Change(200, 50).ratio == 0.25
    assert Change(0, 0).ratio == 1.0


@pytest.mark.parametrize("width", [80, 120])
def test_the_tables_of_a_measurement_fit_the_terminal(width: int) -> None:
    result = BenchResult((MEASUREMENT, replace(MEASUREMENT, model="before.tflite")), {})
    text = render(describe_measurements(result), width)
    assert "…" not in text
    first, second = (line.split()[1:] for line in text.splitlines() if "out/model.tflite" in line)
    assert first == ["1234.568", "0.031", "0.041", "0.052", "1,000"]
    assert second == ["12.3", "5.68", "48.0", "1,234,567"]
    how = "Measured on AMD EPYC (x86_64, 2 cores), ai-edge-litert 2.3.0, 1 thread, interleaved."
    assert how in " ".join(text.split())


def test_a_long_path_is_folded_and_not_cut() -> None:
    path = "/a/very/long/path" * 6 + "/model.tflite"
    text = render(describe_measurements(BenchResult((replace(MEASUREMENT, model=path),), {})))
    assert "…" not in text
    latency, _ = text.split("Start, memory and size")
    rows = latency.rpartition("─")[2].splitlines()
    column = "".join(line.split()[0] for line in rows if line.strip())
    assert column == path


def test_values_are_written_for_people() -> None:
    values = {
        "file": "slim.keras",
        "macs": {"before": 1_000_000, "after": 500_000},
        "validation_accuracy": 0.8383333333,
        "classes": ["cat", "dog"],
        "equivalence": {"max_abs_error": 2.50339e-06, "scale": 10.0575},
    }
    text = " ".join(render(describe_values(values)).split())
    assert text == (
        "file slim.keras macs 1,000,000 -> 500,000 validation accuracy 0.8383 classes cat, dog "
        "equivalence max abs error 2.503e-06, scale 10.06"
    )


def test_only_the_files_that_were_written_are_listed() -> None:
    text = render(describe_files(Path("out"), ("model.tflite", "report.json")))
    assert [line.split()[0] for line in text.split("Files in out")[1].splitlines() if line] == [
        "model.tflite", "report.json"
    ]  # fmt: skip


def test_threads_are_counted_in_words() -> None:
    assert (count_threads(1), count_threads(4)) == ("1 thread", "4 threads")
