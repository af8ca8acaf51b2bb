"""The files of a build, each against a way of its own: plain Keras, masking, counting."""

from __future__ import annotations

import json
import math
import zipfile
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
import pytest
from small_models import Recorder
from specialists import NUM_TRAIN, digits, make_classifier, run_command, save_digits

import edgeprune
from edgeprune.support.progress import showing
from edgeprune.surgery.channel_removal import remove_channels
from edgeprune.tflite.runtime import TFLiteModel

CLASSES = (8, 3, 5)
FILES = {
    "classify.py",
    "labels.txt",
    "measurement.json",
    "model.keras",
    "model.tflite",
    "plan.json",
    "report.json",
}
QUICK = (
    "--recovery", "mean", "--recalibrate", "off", "--effort", "fast", "--no-bench", "--quiet",
)  # fmt: skip


@dataclass(frozen=True)
class Build:
    model: keras.Model
    folder: Path
    report: dict
    arguments: list[str]
    answer: object

    @property
    def test(self) -> tuple[np.ndarray, np.ndarray]:
        """Images of the kept classes that took no part in the build, and the right outputs."""
        x, y = (part[NUM_TRAIN:] for part in digits())
        kept = np.isin(y, CLASSES)
        return x[kept].astype(np.float32), np.array([CLASSES.index(c) for c in y[kept]])


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with a model and data."""
    folder = tmp_path_factory.mktemp("build")
    save_digits(folder / "digits.npz")
    make_classifier().save(folder / "model.keras")
    return folder


@pytest.fixture(scope="module")
def build(place: Path) -> Build:
    """What a user gets who changes nothing but the classes."""
    arguments = ["build", f"{place}/model.keras", "--data", f"{place}/digits.npz"]
    arguments += ["--classes", "eight,three,5", "--target", "rpi4", "--out", f"{place}/out"]
    answer = run_command(*arguments)
    assert answer.code == 0, answer.err
    report = json.loads((place / "out" / "report.json").read_text())
    model = keras.models.load_model(place / "model.keras")
    return Build(model, place / "out", report, arguments, answer)


def load_slim(build: Build) -> keras.Model:
    return keras.models.load_model(build.folder / "model.keras")


def accuracy(outputs: np.ndarray, targets: np.ndarray) -> float:
    return float((outputs.argmax(-1) == targets).mean())


def count_macs(model: keras.Model) -> int:
    """Multiply-accumulates of convolutions and dense layers, from shapes alone."""
    total = 0
    for layer in model.layers:
        if isinstance(layer, keras.layers.Conv2D):
            total += math.prod(layer.output.shape[1:3]) * math.prod(layer.kernel.shape)
        elif isinstance(layer, keras.layers.Dense):
            total += math.prod(layer.kernel.shape)
    return total


def test_a_build_writes_its_files_and_nothing_else(build: Build) -> None:
    assert {path.name for path in build.folder.iterdir()} == FILES
    assert set(build.report["files"]) == FILES
    assert {path.name for path in build.folder.parent.iterdir()} == {
        "digits.npz", "model.keras", "out"
    }  # fmt: skip


def test_the_table_says_what_the_report_says(build: Build) -> None:
    for key in ("original", "original_subset", "pruned", "recovered", "tflite"):
        assert f"{100 * build.report['accuracy'][key]:.1f} %" in build.answer.out
    for key in ("macs", "params", "size_bytes"):
        assert f"{build.report[key]['after']:,}" in build.answer.out
    assert "model.tflite (int8)" in build.answer.out
    assert "not on rpi4" in build.answer.out
    listed = "".join(build.answer.out.split("Files in ")[1].split())
    assert listed.startswith(str(build.folder))
    assert all(name in listed for name in FILES)


def test_the_report_has_its_fields(build: Build) -> None:
    report = build.report
    assert set(report["accuracy"]) == {
        "original", "original_subset", "pruned", "recovered", "trained", "tflite"
    }  # fmt: skip
    assert all(0 <= value <= 1 for value in report["accuracy"].values())
    for key in ("macs", "params", "size_bytes", "latency_ms"):
        assert set(report[key]) == {"before", "after"}
        assert all(value > 0 for value in report[key].values())
    assert all(
        isinstance(value, int) for key in ("macs", "params") for value in report[key].values()
    )
    assert set(report["equivalence"]) == {"max_abs_error", "scale"}
    assert {
        "starting TensorFlow, loading model",
        "reading the data",
        "statistics",
        "surgery and proof",
        "recovery",
        "converting to int8",
        "measuring",
    } <= set(report["seconds"])
    assert all(value >= 0 for value in report["seconds"].values())
    assert set(report["versions"]) >= {
        "edgeprune", "keras", "tensorflow", "numpy", "python", "runtime"
    }  # fmt: skip
    assert report["seed"] == 0
    assert report["command"].split() == ["edgeprune", *build.arguments]
    assert report["settings"]["target"] == "rpi4"
    assert report["settings"]["quantize"] == "int8"


def test_macs_and_parameters_can_be_counted_again(build: Build) -> None:
    small = load_slim(build)
    assert build.report["macs"] == {"before": count_macs(build.model), "after": count_macs(small)}
    assert build.report["params"]["before"] == build.model.count_params()
    assert build.report["params"]["after"] == small.count_params()
    assert count_macs(small) <= count_macs(build.model) / 2


def test_sizes_are_those_of_the_files(build: Build) -> None:
    size = build.report["size_bytes"]
    assert size["after"] == (build.folder / "model.tflite").stat().st_size
    x, _ = digits()
    names = np.load(build.folder.parent / "digits.npz")["classes"].tolist()
    whole = edgeprune.convert(build.model, calibration=x[:30].astype(np.float32), labels=names)
    assert abs(size["before"] - len(whole)) < 500  # zero points and scales of other samples


def test_accuracies_can_be_measured_again(build: Build) -> None:
    x, y = digits()
    test_x, test_y = build.test
    found = build.report["accuracy"]
    outputs = build.model.predict(x[NUM_TRAIN:], verbose=0)
    assert found["original"] == pytest.approx(accuracy(outputs, y[NUM_TRAIN:]))
    assert build.report["test_samples"] == {"kept": len(test_x), "all": len(x) - NUM_TRAIN}
    subset = build.model.predict(test_x, verbose=0)[:, list(CLASSES)]
    assert found["original_subset"] == pytest.approx(accuracy(subset, test_y))
    trained = load_slim(build).predict(test_x, verbose=0)
    assert found["trained"] == pytest.approx(accuracy(trained, test_y))
    answers = TFLiteModel(build.folder / "model.tflite").predict(test_x)
    assert found["tflite"] == pytest.approx(accuracy(answers, test_y))
    agreeing = (answers.argmax(-1) == trained.argmax(-1)).mean()
    assert build.report["agreement"] == pytest.approx(agreeing)
    assert found["trained"] > 0.85


def test_the_slim_accuracy_is_that_of_the_plan_without_recovery(build: Build) -> None:
    plan = edgeprune.Plan.load(build.folder / "plan.json")
    small = remove_channels(build.model, plan)
    test_x, test_y = build.test
    found = accuracy(small.predict(test_x, verbose=0), test_y)
    assert build.report["accuracy"]["pruned"] == pytest.approx(found)


def test_the_plan_gives_the_layers_of_the_slim_model(build: Build) -> None:
    plan = edgeprune.Plan.load(build.folder / "plan.json")
    small, again = load_slim(build), remove_channels(build.model, plan)
    for name in ("first", "second", "head"):
        assert small.get_layer(name).kernel.shape == again.get_layer(name).kernel.shape
    assert build.report["widths"] == {
        name: [width, small.get_layer(name).filters]
        for name, width in (("first", 16), ("second", 64))
    }
    assert {"first", "second"} >= plan.keep.keys() != set()
    assert plan.classes == CLASSES


def test_the_proof_can_be_repeated_by_hand(build: Build) -> None:
    """Silence the removed channels by multiplying with zeros where they are read."""
    plan = edgeprune.Plan.load(build.folder / "plan.json")
    x = digits()[0][:50].astype(np.float32)

    def mask(name: str, width: int) -> np.ndarray:
        return np.isin(np.arange(width), plan.keep.get(name, np.arange(width))).astype(np.float32)

    layer = build.model.get_layer
    seen = layer("relu")(layer("norm")(layer("first")(x), training=False)) * mask("first", 16)
    seen = layer("second")(seen) * mask("second", 64)
    logits = keras.ops.reshape(seen, (len(x), -1)) @ layer("head").kernel + layer("head").bias
    expected = keras.ops.softmax(keras.ops.take(logits, CLASSES, axis=1))
    found = remove_channels(build.model, plan).predict(x, verbose=0)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    proof = build.report["equivalence"]
    assert proof["max_abs_error"] <= 1e-5 * proof["scale"]


def test_the_order_of_the_labels_is_the_users(build: Build) -> None:
    names = ["eight", "three", "five"]
    assert (build.folder / "labels.txt").read_text() == "eight\nthree\nfive\n"
    assert list(TFLiteModel(build.folder / "model.tflite").labels) == names
    assert build.report["classes"] == names


def test_the_chosen_recovery_is_the_best_on_validation(build: Build) -> None:
    tried = build.report["candidates"]
    assert len({entry["recovery"] for entry in tried}) == len(tried) > 3
    assert tried[0]["recovery"] == build.report["recovery"]
    best = max(entry["validation_accuracy"] for entry in tried)
    assert tried[0]["validation_accuracy"] == best


def test_the_measurement_names_this_machine_and_compares_with_the_float_original(
    build: Build,
) -> None:
    document = json.loads((build.folder / "measurement.json").read_text())
    measured = {entry["model"]: entry for entry in document["measurements"]}
    assert set(measured) == {"after", "before", "before_float32"}
    assert measured["after"]["size_bytes"] == build.report["size_bytes"]["after"]
    assert measured["before"]["p50_ms"] == build.report["latency_ms"]["before"]
    assert measured["before_float32"]["size_bytes"] > measured["before"]["size_bytes"]
    assert not any(entry["on_target"] for entry in measured.values())


def test_the_same_seed_gives_the_same_files(build: Build, place: Path) -> None:
    twice = [*build.arguments[:-1], f"{place}/again", "--no-bench", "--quiet"]
    assert run_command(*twice).code == 0
    for name in ("plan.json", "labels.txt", "classify.py"):
        assert (place / "again" / name).read_bytes() == (build.folder / name).read_bytes(), name
    first, second = (
        without_attachments(place / name / "model.tflite") for name in ("again", "out")
    )
    assert first == second
    again = keras.models.load_model(place / "again" / "model.keras")
    for first, second in zip(load_slim(build).get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(first, second)


def without_attachments(path: Path) -> bytes:
    """Return a model without the files behind it: they name the command."""
    with zipfile.ZipFile(path) as archive:
        start = min(entry.header_offset for entry in archive.infolist())
    return path.read_bytes()[:start]


def test_a_second_build_replaces_its_files_and_leaves_others_alone(
    build: Build, place: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    for name in FILES:
        (out / name).write_text("old")
    (out / "notes.txt").write_text("mine")
    answer = run_command(*build.arguments[:-1], str(out), "--budget", "macs=30%", *QUICK)
    assert answer.code == 0, answer.err
    assert (out / "notes.txt").read_text() == "mine"
    # The measurement of the earlier build is not one of this model.
    assert {path.name for path in out.iterdir()} == FILES - {"measurement.json"} | {"notes.txt"}
    assert all((out / name).read_bytes() != b"old" for name in FILES - {"measurement.json"})
    report = json.loads((out / "report.json").read_text())
    assert report["macs"]["after"] <= 0.3 * report["macs"]["before"]
    assert report["latency_ms"] is None
    assert "measurement.json" not in report["files"]


@pytest.mark.parametrize("io", ["int8", "uint8"])
def test_integers_in_and_out_on_request(place: Path, tmp_path: Path, io: str) -> None:
    answer = run_command(
        "build", f"{place}/model.keras", "--data", f"{place}/digits.npz", "--classes", "1,2",
        "--io", io, "--out", str(tmp_path / "out"), *QUICK,
    )  # fmt: skip
    assert answer.code == 0, answer.err
    model = TFLiteModel(tmp_path / "out" / "model.tflite")
    assert {model.inputs[0].dtype, model.outputs[0].dtype} == {np.dtype(io)}


@pytest.mark.parametrize("scheme", ["float32", "float16", "dynamic"])
def test_other_number_formats(place: Path, tmp_path: Path, scheme: str) -> None:
    built = edgeprune.build(
        place / "model.keras", place / "digits.npz", classes=[1, 2], export=scheme,
        pruning=edgeprune.Pruning(recovery="mean", recalibration="off"),
        measurement=edgeprune.Measurement(latency=False), training="fast", out=tmp_path / "out",
    )  # fmt: skip
    assert built.outcome.agreement == 1.0
    assert built.outcome.settings["quantize"] == scheme
    size = (tmp_path / "out" / "model.tflite").stat().st_size
    assert built.outcome.size_bytes.after == size < built.outcome.size_bytes.before


def test_all_classes_without_asking_for_some(place: Path, tmp_path: Path) -> None:
    built = edgeprune.build(
        place / "model.keras",
        edgeprune.Data(str(place / "digits.npz"), calibration=20, validation=20, test=100),
        pruning=edgeprune.Pruning(recovery="least_squares", recalibration="off"),
        measurement=edgeprune.Measurement(latency=False), training="fast", out=tmp_path / "out",
    )  # fmt: skip
    assert len(built.outcome.classes) == 10
    accuracy = built.outcome.accuracy
    assert accuracy["original"] == accuracy["original_subset"]
    assert built.outcome.test_samples["kept"] == 100
    assert edgeprune.Plan.load(tmp_path / "out" / "plan.json").classes is None


def test_arrays_a_model_and_a_function_from_python(tmp_path: Path) -> None:
    model = make_classifier()
    weights = [weight.copy() for weight in model.get_weights()]
    x, y = digits()
    train, test = (x[:NUM_TRAIN], y[:NUM_TRAIN]), (x[NUM_TRAIN:], y[NUM_TRAIN:])
    seen: list[np.dtype] = []

    def keep(batch: np.ndarray) -> np.ndarray:
        seen.append(batch.dtype)
        return batch

    recorder = Recorder()
    data = edgeprune.Data((train, test), keep, labels=[f"digit {n}" for n in range(10)])
    pruning = edgeprune.Pruning(
        criterion="l1", recovery="least_squares", recalibration="on", step=1, seed=3
    )
    with showing(recorder):
        built = edgeprune.build(
            model, data, classes=[3, 8], budget=edgeprune.Budget("params", 0.4), pruning=pruning,
            measurement=edgeprune.Measurement(latency=False), training="fast", out=tmp_path / "out",
        )  # fmt: skip
    assert built.outcome.classes == ("digit 3", "digit 8")
    assert built.model.output_shape == (None, 2)
    assert built.outcome.params.after <= 0.4 * model.count_params()
    assert built.outcome.recovery == "least_squares + BatchNorm"
    assert set(seen) == {np.dtype(np.float32)}
    assert built.outcome.settings["preprocess"].endswith(".keep")
    assert built.folder == tmp_path / "out"
    assert json.loads((built.folder / "report.json").read_text()) == json.loads(
        built.outcome.to_json()
    )
    assert {"reading the data", "testing the original"} <= {name for name, *_ in recorder.stages}
    for before, after in zip(weights, model.get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)


def test_pruning_from_python_gives_a_plain_model_within_the_budget() -> None:
    model = make_classifier()
    x, y = digits()
    pruned = edgeprune.prune(
        model, (x[:300].astype(np.float32), y[:300]), budget="macs=40%", classes=[3, 8, 5],
        pruning=edgeprune.Pruning(recovery="least_squares"),
    )  # fmt: skip
    assert type(pruned.model) is type(model)
    assert count_macs(pruned.model) == pruned.after.macs <= 0.4 * count_macs(model)
    kept = np.isin(y[NUM_TRAIN:], (3, 8, 5))
    outputs = pruned.model.predict(x[NUM_TRAIN:][kept], verbose=0)
    right = np.array([3, 8, 5])[outputs.argmax(-1)] == y[NUM_TRAIN:][kept]
    assert right.mean() > 0.8


def test_a_part_that_is_given_replaces_the_methods_own(place: Path, tmp_path: Path) -> None:
    def settings(**given: str) -> tuple[str, ...]:
        built = edgeprune.build(
            place / "model.keras",
            edgeprune.Data(place / "digits.npz", calibration=20, validation=20, test=50),
            classes=[1, 2], pruning=edgeprune.Pruning(recalibration="off", **given),
            measurement=edgeprune.Measurement(latency=False), training="fast", out=tmp_path / "out",
        )  # fmt: skip
        parts = ("method", "criterion", "allocation", "recovery")
        return tuple(built.outcome.settings[part] for part in parts)

    assert settings(recovery="mean") == ("auto", "greedy_least_squares", "branches", "mean")
    assert settings(method="chapr", criterion="l1") == ("chapr", "l1", "gain", "least_squares")


def test_a_budget_above_the_original_is_pointed_out(place: Path, tmp_path: Path) -> None:
    built = edgeprune.build(
        place / "model.keras", place / "digits.npz", classes=[1, 2], budget="macs=99G",
        pruning=edgeprune.Pruning(recovery="none", recalibration="off"),
        measurement=edgeprune.Measurement(latency=False), training="fast", out=tmp_path / "out",
    )  # fmt: skip
    (warning,) = built.outcome.warnings
    before = built.outcome.macs.before
    assert warning == (
        f"The budget macs=9.9e+10 is not below what the original costs, macs={before:,}: for "
        "it no channel had to go."
    )
    assert all(before == after for before, after in built.outcome.widths.values())


def test_equal_commands_make_equal_bytes(place: Path, tmp_path: Path, monkeypatch) -> None:
    """The dates of a `.keras` archive are pinned: those of two quick runs may be equal anyhow."""
    data = f"{place}/digits.npz"
    command = ["build", f"{place}/model.keras", "--data", data, *QUICK, "--calibration", "20"]
    found = []
    for _ in range(2):
        assert run_command(*command, "--out", tmp_path / "out").code == 0
        found.append({path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()})
    reports = [json.loads(files.pop("report.json")) for files in found]
    assert all(report.pop("seconds") for report in reports)
    assert reports[0] == reports[1]
    assert found[0] == found[1]
    with zipfile.ZipFile(tmp_path / "out" / "model.keras") as archive:
        assert {entry.date_time for entry in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
        assert b"1980-01-01" in archive.read("metadata.json")
    for name, content in found[0].items():
        assert str(tmp_path).encode() not in content, name
        assert str(place).encode() not in content, name
    keras.models.load_model(tmp_path / "out" / "model.keras")
