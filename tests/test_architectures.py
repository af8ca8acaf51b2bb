"""The models of keras.applications, with the checks that write `benchmarks/architectures.md`.

The ten smallest run with every change; the rest, and the conversion of all, take many minutes.
"""

from __future__ import annotations

import importlib.util
import json
import sys

import pytest
from places import ROOT

SPEC = importlib.util.spec_from_file_location(
    "architectures", ROOT / "benchmarks" / "architectures.py"
)
architectures = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(architectures)

SMALLEST, REST = architectures.SMALLEST_FIRST[:10], architectures.SMALLEST_FIRST[10:]


def check(name: str) -> None:
    row = architectures.examine(name, convert=False)
    assert row["passed"], row
    assert row["locked"].keys() <= {"input", "output"} or "ConvNeXt" in name, row["locked"]
    assert row["floor_params"] < 0.1


@pytest.mark.parametrize("name", SMALLEST)
def test_a_small_architecture_is_cut_exactly(name) -> None:
    check(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", REST)
def test_a_large_architecture_is_cut_exactly(name) -> None:
    check(name)


def test_every_architecture_has_a_row() -> None:
    import keras

    names = {name for name in dir(keras.applications) if name[0].isupper()}
    assert set(architectures.SMALLEST_FIRST) == names
    assert len(architectures.SMALLEST_FIRST) == len(names) == 40


def test_a_result_that_proves_nothing_does_not_pass() -> None:
    errors = ("error", "identity_error", "reopened_error", "tflite_error")
    good = dict.fromkeys(errors, 0.0) | {"changed": 0.5, "same_signature": True}
    assert architectures.passes(good)
    for change in [*({error: 1e-3} for error in errors), {"changed": 0}, {"same_signature": 0}]:
        assert not architectures.passes(good | change)
    assert not architectures.passes(good | {"error": float("nan")})


def test_an_interrupted_run_goes_on_where_it_stopped(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(architectures, "RESULTS", tmp_path / "rows.json")
    monkeypatch.setattr(architectures, "TABLE", tmp_path / "table.md")
    monkeypatch.setattr(architectures, "SMALLEST_FIRST", ["First", "Second", "Third"])
    script = tmp_path / "fake.py"
    script.write_text("import sys; sys.exit('no such model')")
    monkeypatch.setattr(architectures, "__file__", str(script))
    done = {"model": "First", "failure": "", "passed": True}
    (tmp_path / "rows.json").write_text(json.dumps({"First": done}))
    assert architectures.main([]) == 1
    rows = json.loads((tmp_path / "rows.json").read_text())
    assert rows["First"] == done
    assert rows["Second"]["failure"] == rows["Third"]["failure"] == "no such model"
    assert "| Second | | | | **failed**: no such model |" in (tmp_path / "table.md").read_text()
    architectures.write_table({"Second": rows["Second"]})
    assert "Not run yet: First, Third." in (tmp_path / "table.md").read_text()
    assert sys.executable
