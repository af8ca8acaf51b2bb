"""The real model files, with the checks that write `benchmarks/model_files.md`."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
from places import ROOT

SPEC = importlib.util.spec_from_file_location("model_files", ROOT / "benchmarks" / "model_files.py")
model_files = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(model_files)


@pytest.mark.slow
@pytest.mark.parametrize("name", model_files.FILES)
def test_a_real_file_opens_shrinks_to_half_and_converts(name, shared_data: Path) -> None:
    row = model_files.examine(name, shared_data)
    assert row["open_error"] < 1e-5
    if "reason" in row:
        assert "smallest" in row["reason"]
        return
    assert row["kept_macs"] <= 0.5
    assert row["kept_params"] < 1
    assert row["equivalence"] < 1e-5
    assert row["tflite_error"] < 1e-4
    assert row["int8_bytes"] < row["float_bytes"]


@pytest.mark.parametrize("name", model_files.WITH_CODE)
def test_a_real_file_with_code_is_refused_by_the_name_of_the_layer(name, shared_data) -> None:
    assert "(Lambda)" in model_files.refuse(name, shared_data)["refusal"]


def test_all_files_there_are_stand_in_the_table(shared_data: Path) -> None:
    found = {
        str(path.relative_to(shared_data))
        for folder in ("mlperf_tiny", "legacy_models")
        for path in (shared_data / folder).iterdir()
        if (path.suffix in (".h5", ".hdf5") and not path.with_suffix(".json").exists())
        or path.suffix == ".json"
    }
    assert found == {*model_files.FILES, *model_files.WITH_CODE}
