"""A board may say anything: a measurement ends in figures that make sense, or in one line."""

from __future__ import annotations

import json
import math
from random import Random

import jsonschema
import pytest
from fuzzing import hostile_boards
from fuzzing.hostile_boards import NONSENSE, corrupt_document, honest_board, honest_document

from edgeprune.benchmarking.documents import Remarks, limit_answer, read_answer
from edgeprune.benchmarking.schemas import find_problem
from edgeprune.errors import BenchmarkError
from edgeprune.support.resources import find_folder

SCHEMA = json.loads((find_folder("devices") / "harness" / "measurement.schema.json").read_text())


def read(text: str | bytes, status: int = 0) -> dict:
    content = text.encode() if isinstance(text, str) else text
    return read_answer(content, status, Remarks(lambda: None), models=1)


def test_an_honest_board_is_measured(tmp_path) -> None:
    result = hostile_boards.measure_on(honest_board(), tmp_path)
    hostile_boards.check_result(result)
    (entry,) = result.measurements
    assert (entry.p50_ms, entry.accuracy) == (2.5, 0.75)


@pytest.mark.parametrize("seed", range(8))
def test_a_hostile_board_is_one_line_or_makes_sense(seed: int) -> None:
    hostile_boards.check(seed)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"p50_ms": math.nan}, "models/0/latency/p50_ms: expected number, got nan"),
        ({"min_ms": "2"}, "models/0/latency/min_ms: expected number, got '2'"),
        ({"p90_ms": -1}, "models/0/latency/p90_ms: expected a number from 0 to 10"),
        ({"p99_ms": 0.5}, "its latencies contradict each other"),
        ({"samples_ms": [2.0]}, "its latencies contradict each other"),
    ],
)
def test_figures_that_cannot_be_are_named(change: dict, reason: str) -> None:
    document = honest_document()
    document["models"][0]["latency"] |= change
    with pytest.raises(BenchmarkError) as caught:
        read(json.dumps(document))
    assert str(caught.value).startswith(f"The board gave no valid answer: {reason}")


@pytest.mark.parametrize("text", ["", "[]", "[" * 100_000, "9" * 10_000, b"\xff", '"error"'])
def test_what_is_no_document_is_no_answer(text: str | bytes) -> None:
    with pytest.raises(BenchmarkError, match=r"^The board gave no valid answer: "):
        read(text)


def test_another_number_of_models_is_no_answer() -> None:
    with pytest.raises(BenchmarkError, match="it is about 2 models instead of 1"):
        read(json.dumps(honest_document(models=2)))


def test_absurd_progress_ends_at_a_hundred_percent() -> None:
    steps: list[None] = []
    remarks = Remarks(lambda: steps.append(None))
    for done in ("1e300", "NaN", "Infinity", "-5", "[]", '"1"', "9" * 400, "[" * 100_000):
        remarks.read(f'{{"done": {done}}}')
    assert len(steps) == remarks.percent == 100
    remarks.read("x" * 10**6)
    assert len(remarks.last) == 300


def test_the_checker_agrees_with_jsonschema() -> None:
    """On some hundred documents, with what Python's JSON allows beyond JSON left out."""
    judge = jsonschema.Draft202012Validator(
        {"$ref": "#/$defs/measurement", "$defs": SCHEMA["$defs"]}
    )
    verdicts = set()
    for seed in range(300):
        text = corrupt_document(Random(seed))
        if "NaN" in text or "Infinity" in text:
            continue
        document = json.loads(text)
        problem = find_problem(document, SCHEMA["$defs"]["measurement"], SCHEMA)
        assert (problem is None) == judge.is_valid(document), (seed, problem)
        verdicts.add(problem is None)
    assert verdicts == {True, False}


def test_numbers_must_be_finite() -> None:
    for value in filter(lambda value: isinstance(value, float), NONSENSE):
        found = find_problem(value, {"type": "number"}, {})
        assert (found is None) == math.isfinite(value)


def test_a_long_series_fits_into_the_limit_of_an_answer() -> None:
    document = honest_document()
    runs = 50_000
    document["models"][0]["latency"] |= {"samples_ms": [123.45678901234567] * runs, "count": runs}
    assert len(json.dumps(document, indent=1)) < limit_answer(1, runs)
