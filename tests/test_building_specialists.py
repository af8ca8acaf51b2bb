"""Specialists of every kind of head: the right classes, in the user's order."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest
from scipy.special import softmax
from specialists import NUM_TRAIN, digits, make_classifier, save_digits

import edgeprune
from edgeprune.errors import ClassError
from edgeprune.tflite.runtime import TFLiteModel

HEADS = (
    "dense softmax", "dense logits", "dense layer softmax", "dense activation softmax",
    "conv softmax", "conv logits",
)  # fmt: skip
SETTINGS = {"export": "float32", "measurement": edgeprune.Measurement(latency=False)}
UNRECOVERED = edgeprune.Pruning(recovery="none", recalibration="off")


def small(data: Path) -> edgeprune.Data:
    return edgeprune.Data(data, calibration=20, validation=20, test=300)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return save_digits(tmp_path_factory.mktemp("data") / "digits.npz")


@pytest.mark.parametrize(
    ("head", "body"),
    [*((head, "flatten") for head in HEADS), ("dense softmax", "pooling")],
)
def test_a_specialist_answers_as_the_original_does_among_its_classes(
    data: Path, tmp_path: Path, head: str, body: str
) -> None:
    """Nothing but the head is cut, so the original's own logits are the oracle."""
    model = make_classifier(head, body)
    built = edgeprune.build(
        model, small(data), classes="seven,2,four", budget="macs=100%", pruning=UNRECOVERED,
        training=None, out=tmp_path / "out", **SETTINGS,
    )  # fmt: skip
    images = digits()[0][NUM_TRAIN : NUM_TRAIN + 64].astype(np.float32)
    outputs = model.predict(images, verbose=0)
    ends_in_softmax = "softmax" in head
    logits = np.log(outputs) if ends_in_softmax else outputs
    expected = logits[:, [7, 2, 4]]
    if ends_in_softmax:
        expected = softmax(expected, axis=-1)
    delivered = keras.models.load_model(built.folder / "model.keras")
    np.testing.assert_allclose(delivered.predict(images, verbose=0), expected, rtol=1e-3, atol=1e-4)
    runner = TFLiteModel(built.folder / "model.tflite")
    np.testing.assert_allclose(runner.predict(images), expected, rtol=1e-3, atol=1e-4)
    assert runner.labels == ("seven", "two", "four")
    accuracy = built.outcome.accuracy
    assert accuracy["original_subset"] == accuracy["pruned"] == accuracy["recovered"]
    assert built.model.get_layer("head").kernel.shape[-1] == 3


@pytest.mark.parametrize(
    "head", [pytest.param(head, marks=pytest.mark.slow) for head in HEADS[1:-1]] + [*HEADS[::5]]
)
def test_a_specialist_is_pruned_as_well(data: Path, tmp_path: Path, head: str) -> None:
    built = edgeprune.build(
        make_classifier(head), small(data), classes=["nine", 0], budget="macs=40%", training=None,
        pruning=edgeprune.Pruning(recovery="least_squares", recalibration="off"),
        out=tmp_path / "out", **SETTINGS,
    )  # fmt: skip
    outcome = built.outcome
    assert outcome.macs.after <= 0.4 * outcome.macs.before
    assert outcome.equivalence["max_abs_error"] <= 1e-5 * outcome.equivalence["scale"]
    assert outcome.classes == ("nine", "zero")
    assert outcome.accuracy["recovered"] > 0.85


def test_indices_and_names_mean_the_same(data: Path, tmp_path: Path) -> None:
    model = make_classifier()
    plans = []
    for number, classes in enumerate(("five,six,one", "5,6,1", [5, "six", 1])):
        built = edgeprune.build(
            model, small(data), classes=classes, pruning=UNRECOVERED, training=None,
            out=tmp_path / str(number), **SETTINGS,
        )  # fmt: skip
        plans.append((built.folder / "plan.json").read_text())
    assert plans[0] == plans[1] == plans[2]


def test_a_head_whose_classes_are_read_again_is_refused(data: Path, tmp_path: Path) -> None:
    model = make_classifier("dense logits")
    outputs = keras.layers.Add()([model.output, keras.layers.Dense(10)(model.output)])
    with pytest.raises(ClassError, match="The classes cannot be cut out of this model"):
        edgeprune.build(
            keras.Model(model.input, outputs), small(data), classes="1,2", budget="macs=90%",
            training=None, out=tmp_path / "out", **SETTINGS,
        )  # fmt: skip
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("classes", [[1, 0], "one,zero"])
def test_all_classes_in_another_order_are_counted_in_that_order(tmp_path: Path, classes) -> None:
    """Nothing is cut, so every accuracy is the original's on all samples."""
    images, targets = digits()
    two = targets < 2
    x, y = images[two].astype(np.float32), targets[two]
    model = keras.Sequential([
        keras.Input((8, 8, 1)), keras.layers.Conv2D(8, 3, activation="relu"),
        keras.layers.Flatten(), keras.layers.Dense(2, "softmax"),
    ])  # fmt: skip
    model.compile("adam", "sparse_categorical_crossentropy")
    model.fit(x / 16, y, epochs=8, verbose=0)
    file = tmp_path / "two.npz"
    cut = len(x) // 2
    np.savez(
        file, x_train=x[:cut] / 16, y_train=y[:cut], x_test=x[cut:] / 16, y_test=y[cut:],
        classes=np.array(["zero", "one"]),
    )  # fmt: skip
    built = edgeprune.build(
        model, edgeprune.Data(file, calibration=20, validation=20, preprocess="raw"),
        classes=classes, budget="macs=100%", pruning=UNRECOVERED,
        training=edgeprune.Training(seconds=None, epochs=1),
        out=tmp_path / "out", **SETTINGS,
    )  # fmt: skip
    accuracy = built.outcome.accuracy
    found = (model.predict(x[cut:] / 16, verbose=0).argmax(1) == y[cut:]).mean()
    assert found > 0.9
    for name in ("original", "original_subset", "pruned", "recovered", "tflite"):
        assert accuracy[name] == pytest.approx(found), name
    assert accuracy["trained"] > 0.9
    assert built.outcome.classes == ("one", "zero")
    scores = [one["validation_accuracy"] for one in built.outcome.candidates]
    assert min(scores) > 0.9


def test_one_sigmoid_tells_two_classes_apart(tmp_path: Path) -> None:
    images, targets = digits()
    two = targets < 2
    x, y = images[two].astype(np.float32) / 16, targets[two]
    model = keras.Sequential([
        keras.Input((8, 8, 1)), keras.layers.Conv2D(8, 3, activation="relu"),
        keras.layers.Flatten(), keras.layers.Dense(1, "sigmoid"),
    ])  # fmt: skip
    model.compile("adam", "binary_crossentropy")
    model.fit(x, y, epochs=8, verbose=0)
    file, cut = tmp_path / "two.npz", len(x) // 2
    np.savez(
        file, x_train=x[:cut], y_train=y[:cut], x_test=x[cut:], y_test=y[cut:],
        classes=np.array(["zero", "one"]),
    )  # fmt: skip
    data = edgeprune.Data(file, calibration=20, validation=20, preprocess="raw")
    with pytest.raises(edgeprune.ClassError, match="both stay, in their order, zero and one"):
        edgeprune.build(model, data, classes="one,zero", out=tmp_path / "out", **SETTINGS)
    built = edgeprune.build(
        model, data, classes="zero,one", budget="macs=100%", pruning=UNRECOVERED,
        training=edgeprune.Training(seconds=None, epochs=1), out=tmp_path / "out", **SETTINGS,
    )  # fmt: skip
    found = ((model.predict(x[cut:], verbose=0)[:, 0] > 0.5) == y[cut:]).mean()
    assert found > 0.9
    for name in ("original", "original_subset", "pruned", "recovered", "tflite"):
        assert built.outcome.accuracy[name] == pytest.approx(found), name
    assert built.outcome.accuracy["trained"] > 0.9
    assert (tmp_path / "out" / "labels.txt").read_text() == "zero\none\n"
