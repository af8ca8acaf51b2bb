"""Whatever outputs mean, a build runs to its end and reports what fits; one contract for all."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers
from PIL import Image
from sklearn.metrics import mean_absolute_error, r2_score
from specialists import NUM_TRAIN, Answer, digits, make_classifier, run_command

from edgeprune.building.splits import read_splits
from edgeprune.data import Data
from edgeprune.errors import DataError
from edgeprune.evaluation.metrics import measure
from edgeprune.tflite.runtime import TFLiteModel
from edgeprune.tracing.outputs import OutputKind
from edgeprune.tracing.tasks import TASKS

QUICK = (
    "--budget", "macs=85%", "--criterion", "l1", "--recovery", "mean", "--effort", "fast",
    "--no-bench", "--calibration", "60", "--validation", "60", "--test", "200",
)  # fmt: skip


def solve(activation: str, wanted: np.ndarray) -> keras.Model:
    """The body of the classifier, and a head solved by least squares for what is wanted."""
    body = make_classifier()
    features = body.get_layer("head").input
    outputs = layers.Dense(wanted.shape[1], activation=activation, name="answer")(features)
    model = keras.Model(body.inputs, outputs, name="digits")
    seen = keras.Model(body.inputs, features).predict(digits()[0][:NUM_TRAIN], verbose=0)
    seen = np.hstack([seen, np.ones((len(seen), 1))]).astype(np.float64)
    solved = np.linalg.solve(
        seen.T @ seen + np.eye(seen.shape[1]), seen.T @ wanted[:NUM_TRAIN].astype(np.float64)
    )
    model.get_layer("answer").set_weights([solved[:-1], solved[-1]])
    return model


def ink(images: np.ndarray) -> np.ndarray:
    """How dark the two halves of an image are: numbers, and no classes."""
    return np.stack([images[:, :4].mean((1, 2, 3)), images[:, 4:].mean((1, 2, 3))], axis=1)


def traits(targets: np.ndarray) -> np.ndarray:
    """Whether a digit is even, above 4, and has a loop: several answers of yes or no."""
    return np.stack([targets % 2 == 0, targets > 4, np.isin(targets, [0, 6, 8, 9])], axis=1)


def make_case(task: str) -> tuple[keras.Model, np.ndarray | None]:
    """A model of a task, and targets."""
    x, y = digits()
    if task == "classify":
        return make_classifier(), y
    if task == "binary":
        even = y % 2 == 0
        return solve("sigmoid", 10 * (even[:, None] - 0.5)), even.astype(np.int64)
    if task == "multilabel":
        return solve("sigmoid", 10 * (traits(y) - 0.5)), traits(y).astype(np.int64)
    return solve("linear", ink(x)), ink(x).astype(np.float32)


def save(folder: Path, model: keras.Model, targets: np.ndarray | None) -> tuple[Path, Path]:
    x, _ = digits()
    parts = {"x_train": x[:NUM_TRAIN], "x_test": x[NUM_TRAIN:]}
    if targets is not None:
        parts |= {"y_train": targets[:NUM_TRAIN], "y_test": targets[NUM_TRAIN:]}
    np.savez(folder / "data.npz", **parts)
    model.save(folder / "model.keras")
    return folder / "model.keras", folder / "data.npz"


def build(folder: Path, case: tuple[keras.Model, np.ndarray | None], *options: str) -> Answer:
    model, data = save(folder, *case)
    return run_command("build", model, "--data", data, "--out", folder / "out", *QUICK, *options)


def read_report(answer: Answer, folder: Path) -> dict:
    assert answer.code == 0, answer.err
    return json.loads((folder / "out" / "report.json").read_text())


NAMED = [task for task in TASKS if task != "auto"]


@pytest.mark.parametrize("task", NAMED)
def test_a_task_is_found_or_said(task: str) -> None:
    model, targets = make_case(task)
    source = digits()[0], targets
    for given in ("auto", task):
        kind = read_splits(model, Data(source, task=given), None, seed=0).kind
        assert kind.task == task
        assert (kind.reason == "that is what was asked for") == (given == task)


@pytest.mark.parametrize("task", NAMED)
def test_every_task_is_built_to_its_end(task: str, tmp_path: Path) -> None:
    scheme = "int8" if task == "regress" else "float32"
    effort = ("--effort", "1epochs") if task == "regress" else ()
    answer = build(tmp_path, make_case(task), "--quantize", scheme, *effort)
    report = read_report(answer, tmp_path)
    assert report["task"]["task"] == task
    assert f"task: {task}, since {report['task']['reason']}" in answer.err
    assert f"Task: {task}, since" in answer.out
    if task == "regress":
        assert report["accuracy"] == {} and report["errors"]["tflite"]["r2"] > 0.5
        assert "MAE" in answer.out and "accuracy" not in answer.out
        assert report["training"]["validation_after"] >= report["training"]["validation_before"]
    else:
        assert report["errors"] == {} and report["accuracy"]["tflite"] > 0.5
    named_outputs = task in ("classify", "binary")
    assert (tmp_path / "out" / "labels.txt").exists() == named_outputs
    assert {"original", "pruned", "recovered", "tflite"} <= set(
        report["errors" if task == "regress" else "accuracy"]
    )


def test_what_is_reported_of_a_regressor_is_what_its_file_answers(tmp_path: Path) -> None:
    model, targets = make_case("regress")
    answer = build(tmp_path, (model, targets), "--quantize", "float32", "--test", "5000")
    reported = read_report(answer, tmp_path)["errors"]["tflite"]
    file = TFLiteModel(tmp_path / "out" / "model.tflite")
    found = file.predict(digits()[0][NUM_TRAIN:].astype(np.float32))
    wanted = targets[NUM_TRAIN:]
    assert reported["mae"] == pytest.approx(mean_absolute_error(wanted, found), rel=1e-4)
    assert reported["r2"] == pytest.approx(
        r2_score(wanted, found, multioutput="variance_weighted"), rel=1e-4
    )
    Image.fromarray(digits()[0][NUM_TRAIN, :, :, 0]).save(tmp_path / "image.png")
    program = tmp_path / "out" / "classify.py"
    ran = subprocess.run(
        [sys.executable, program, tmp_path / "image.png"], capture_output=True, text=True
    )
    assert [float(word) for word in ran.stdout.split()] == pytest.approx(found[0], abs=1e-4)


def test_whole_numbers_are_numbers_where_that_is_said() -> None:
    """An age is no class: of a model with one linear output; one with ten may have classes."""
    x, y = digits()
    one, ten = solve("linear", y[:, None]), make_classifier("dense logits")
    found = read_splits(one, Data((x, y)), None, seed=0)
    assert found.kind.task == "regress" and found.test.targets.dtype == np.float32
    np.testing.assert_array_equal(found.measure(found.test.targets[:, None])["mae"], 0.0)
    assert read_splits(ten, Data((x, y)), None, seed=0).kind.task == "classify"
    with pytest.raises(DataError, match=r"targets of 'arrays' have shape \(n,\); the model gives"):
        read_splits(ten, Data((x, y), task="regress"), None, seed=0)


def test_without_targets_the_original_is_what_counts(tmp_path: Path) -> None:
    answer = build(tmp_path, (make_case("regress")[0], None), "--quantize", "float32")
    report = read_report(answer, tmp_path)
    assert report["errors"]["original"] == {"mae": 0.0, "r2": 1.0}
    assert report["errors"]["tflite"]["mae"] > 0
    assert any("no targets" in warning for warning in report["warnings"])


@pytest.mark.parametrize(
    ("task", "options", "expected"),
    [
        ("regress", ["--classes", "0"], "There are no classes to keep: the task is regress"),
        ("regress", ["--budget", "drop=1%"], "needs samples with class indices"),
        ("regress", ["--task", "binary"], "needs one output"),
        ("classify", ["--task", "guess"], "'guess' is not one of"),
    ],
)
def test_what_a_task_cannot_have_is_told(task, options, expected, tmp_path: Path) -> None:
    answer = build(tmp_path, make_case(task), *options)
    assert answer.code == 2 and expected in answer.err
    assert not (tmp_path / "out").exists()


def test_prune_and_sensitivity_take_a_regressor_too(tmp_path: Path) -> None:
    model, data = save(tmp_path, *make_case("regress"))
    few = ("--calibration", "50", "--validation", "50", "--json")
    pruned = run_command(
        "prune", model, "--data", data, *few, "--effort", "fast", "--recovery", "mean",
        "--out", tmp_path / "small.keras",
    )  # fmt: skip
    assert pruned.code == 0, pruned.err
    found = json.loads(pruned.out)
    assert found["task"].startswith("regress, since") and found["validation_closeness"] < 0
    measured = run_command(
        "sensitivity", model, "--data", data, *few, "--step", "32", "--out", tmp_path / "c.json"
    )
    assert measured.code == 0, measured.err


def test_measures_know_their_limits() -> None:
    numbers = OutputKind("regress", "linear", 1)
    same = np.ones((3, 1))
    assert measure(numbers, same, same) == {"mae": 0.0, "r2": 1.0}
    assert measure(numbers, same + 1, same) == {"mae": 1.0, "r2": 0.0}
    logit = OutputKind("binary", "linear", 1)
    assert measure(logit, np.array([[0.2], [-0.1]]), np.array([1, 0])) == {"accuracy": 1.0}
    several = OutputKind("multilabel", "sigmoid", 2)
    found = measure(several, np.array([[0.9, 0.2], [0.6, 0.6]]), np.array([[1.0, 0], [1, 0]]))
    assert found == {"accuracy": 0.75}
