"""Builds for the Edge TPU, bytes from a camera, and what the file itself says about all that."""

from __future__ import annotations

import hashlib
import json
import os
import sys
import zipfile
from pathlib import Path

import keras
import numpy as np
import pytest
from specialists import NUM_TRAIN, digits, make_classifier, run_command, save_digits

import edgeprune
from edgeprune.errors import DataError
from edgeprune.tflite.runtime import TFLiteModel

QUICK = (
    "--recovery", "mean", "--recalibrate", "off", "--effort", "fast", "--no-bench", "--quiet",
)  # fmt: skip
COMPILER = f"""#!{sys.executable}
import pathlib, sys
out, source = sys.argv[sys.argv.index("-o") + 1], pathlib.Path(sys.argv[-1])
pathlib.Path(out, source.stem + "_edgetpu.tflite").write_bytes(source.read_bytes())
print("Edge TPU Compiler version 16.0.384591198")
print("Model compiled successfully in 12 ms.")
print("On-chip memory used for caching model parameters: 9.00KiB")
print("Off-chip memory used for streaming uncached model parameters: 0.00B")
print("CONV_2D          2          Mapped to Edge TPU")
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("edgetpu")
    save_digits(folder / "digits.npz")
    make_classifier().save(folder / "model.keras")
    return folder


def build(place: Path, out: Path, *options: str):
    arguments = ["build", f"{place}/model.keras", "--data", f"{place}/digits.npz"]
    return run_command(*arguments, "--classes", "8,3,5", "--out", out, *options, *QUICK)


@pytest.fixture(scope="module")
def bytes_in(place: Path) -> Path:
    answer = build(place, place / "bytes", "--target", "coral-usb", "--input", "uint8")
    assert answer.code == 0, answer.err
    return place / "bytes"


def test_a_model_that_takes_bytes_answers_like_keras(bytes_in: Path) -> None:
    stored, targets = (part[NUM_TRAIN:] for part in digits())
    stored = stored[np.isin(targets, (8, 3, 5))].astype(np.uint8)
    model = TFLiteModel(bytes_in / "model.tflite")
    assert (model.inputs[0].dtype, model.takes_bytes) == (np.uint8, True)
    found = model.predict(stored)
    slim = keras.models.load_model(bytes_in / "model.keras")
    expected = slim.predict(stored.astype(np.float32), verbose=0)
    assert (found.argmax(-1) == expected.argmax(-1)).mean() > 0.97
    report = json.loads((bytes_in / "report.json").read_text())
    verification = report["verification"]
    assert verification["max_abs_error"] == pytest.approx(np.abs(found - expected).max(), abs=1e-6)
    assert verification["mean_abs_error"] == pytest.approx(np.abs(found - expected).mean())
    assert verification["scale"] == pytest.approx(expected.max(), abs=1e-5)
    assert verification["output_step"] == pytest.approx(1 / 256)
    assert verification["samples"] == len(stored)
    assert verification["top1_agreement"] == report["agreement"]
    assert list(verification["inputs"]) == [slim.inputs[0].name]
    assert verification["outputs"] == {"output_0": "float32 (1, 3)"}
    assert report["settings"]["input"] == "uint8"


def test_the_file_says_where_it_comes_from(bytes_in: Path) -> None:
    with zipfile.ZipFile(bytes_in / "model.tflite") as archive:
        assert archive.namelist() == ["labels.txt", "preprocessing.json", "provenance.json"]
        origin = json.loads(archive.read("provenance.json"))
        assert json.loads(archive.read("preprocessing.json"))["inside"] is True
    plan = edgeprune.Plan.load(bytes_in / "plan.json")
    report = json.loads((bytes_in / "report.json").read_text())
    assert origin["model_fingerprint"] == plan.fingerprint
    text = (bytes_in / "plan.json").read_bytes()
    assert origin["plan_sha256"] == hashlib.sha256(text).hexdigest()
    assert origin["classes"]["outputs_of_the_original"] == [8, 3, 5]
    assert origin["classes"]["names"] == report["classes"]
    settings = origin["settings"]
    assert {name for name in settings if settings[name] != report["settings"].get(name)} <= {
        "data", "model", "versions"
    }  # fmt: skip
    assert str(bytes_in.parent) not in json.dumps(origin), "no path of this machine travels"


def test_without_the_compiler_the_report_has_the_command(bytes_in: Path) -> None:
    report = json.loads((bytes_in / "report.json").read_text())
    compilation, expected = (report["edgetpu"][name] for name in ("compilation", "expected"))
    model = bytes_in / "model.tflite"
    assert compilation["command"] == f"edgetpu_compiler -s -o {bytes_in} {model}"
    assert compilation["compiler"] is None
    assert expected["fits"] is True
    assert not (bytes_in / "model_edgetpu.tflite").exists()


def test_with_the_compiler_its_log_is_in_the_report(place, tmp_path, monkeypatch) -> None:
    program = tmp_path / "bin" / "edgetpu_compiler"
    program.parent.mkdir()
    program.write_text(COMPILER)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    out = tmp_path / "out"
    assert build(place, out, "--target", "coral-dev-board").code == 0
    report = json.loads((out / "report.json").read_text())
    log = report["edgetpu"]["compilation"]["log"]
    assert log["version"] == "16.0.384591198"
    assert (log["on_tpu"], log["on_cpu"], log["on_chip_bytes"]) == (2, 0, 9216)
    assert "model_edgetpu.tflite" in report["files"]
    assert (out / "model_edgetpu.tflite").exists()

    monkeypatch.setenv("PATH", "/nowhere")
    assert build(place, out, "--target", "rpi4").code == 0
    assert json.loads((out / "report.json").read_text())["edgetpu"] is None
    assert not (out / "model_edgetpu.tflite").exists(), "of an earlier build"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ("--target", "coral-usb", "--quantize", "float16"),
            "Target 'coral-usb' is an Edge TPU, which computes in int8 only; got 'float16'. Take "
            "int8, the target's own format.",
        ),
        (
            ("--input", "uint8", "--preprocess", "keras.applications.resnet50:preprocess_input"),
            "Input uint8 puts the scaling inside the model, and 'keras.applications.resnet50:"
            "preprocess_input' is a function. Say how the model was fed",
        ),
        (("--input", "int4"), "Unknown input 'int4'. Choose float32 or uint8."),
    ],
)
def test_what_does_not_go_together_is_refused_at_once(place, tmp_path, options, message) -> None:
    answer = build(place, tmp_path / "out", *options)
    assert answer.code == 2
    assert answer.err.startswith(f"Error: {message}")
    assert not (tmp_path / "out").exists()


def test_samples_that_were_never_bytes_are_refused(tmp_path) -> None:
    x, y = digits()
    scaled = (x / 16).astype(np.float32)
    with pytest.raises(DataError) as caught:
        edgeprune.build(
            make_classifier(), (scaled, y), classes=[8, 3], export=edgeprune.Export(input="uint8"),
            measurement=edgeprune.Measurement(latency=False), training="fast",
            out=tmp_path / "out",
        )  # fmt: skip
    assert str(caught.value) == (
        "Input uint8 is for samples stored as whole numbers from 0 to 255; these go from 0 to 1. "
        "Leave the input as float32."
    )
    assert not (tmp_path / "out").exists()
