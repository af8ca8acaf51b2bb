"""Builds that train: on which samples, what they report, and what they refuse."""

from __future__ import annotations

import json

import keras
import numpy as np
import pytest
from specialists import (
    NUM_TRAIN,
    digits,
    make_classifier,
    measure_accuracy,
    run_command,
    save_digits,
)

from edgeprune.benchmarking import Measurement
from edgeprune.building import build
from edgeprune.building.production import choose_training_samples
from edgeprune.building.splits import read_splits
from edgeprune.data import Data, load_dataset
from edgeprune.distillation import Augmentation, Training
from edgeprune.errors import EdgepruneError
from edgeprune.evaluation.equivalence import predict

NUMBERS = {"calibration": 10, "validation": 20, "test": 300}


def test_a_build_reports_its_training(tmp_path):
    x, y = digits()
    data = {"train": (x[:NUM_TRAIN], y[:NUM_TRAIN]), "test": (x[NUM_TRAIN:], y[NUM_TRAIN:])}
    path = save_digits(tmp_path / "digits.npz")
    settings = Training(seconds=None, epochs=8, batch_size=32, learning_rate=2e-3)
    built = build(
        make_classifier(), Data(path, **NUMBERS), classes="three,five,eight", budget="macs=30%",
        pruning="chapr", training=settings, measurement=Measurement(latency=False),
        out=tmp_path / "out", export="float32",
    )  # fmt: skip
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    tuning = report["training"]
    assert tuning["stopped"] in ("epochs", "patience")
    assert tuning["validation_after"] >= tuning["validation_before"]
    assert report["settings"]["training"]["learning_rate"] == 2e-3
    kept = np.isin(data["test"][1], (3, 5, 8))
    inputs, targets = data["test"][0][kept].astype(np.float32), data["test"][1][kept]
    delivered = keras.models.load_model(tmp_path / "out" / "model.keras")
    found = measure_accuracy(predict(delivered, inputs), targets, (3, 5, 8))
    assert report["accuracy"]["trained"] == pytest.approx(found, abs=0.02)
    assert report["accuracy"]["tflite"] == pytest.approx(report["accuracy"]["trained"], abs=0.01)
    assert built.outcome.accuracy["trained"] >= built.outcome.accuracy["recovered"]
    assert not list(tmp_path.glob(".*fine-tuning*"))


def test_the_command_trains_and_says_how_long(tmp_path):
    model, data = tmp_path / "model.keras", save_digits(tmp_path / "digits.npz")
    make_classifier().save(model)
    answer = run_command(
        "prune", model, "--data", data, "--fine-tune", "2epochs", "--method", "chapr",
        "--calibration", 10, "--validation", 20, "--out", tmp_path / "small.keras", "--json",
    )  # fmt: skip
    assert answer.code == 0, answer.err
    assert json.loads(answer.out)["training"]["epochs"] == 2
    assert keras.models.load_model(tmp_path / "small.keras").name == "digits"


@pytest.mark.parametrize("given", ["5 parsecs", "-3s", "min", "0"])
def test_a_length_that_cannot_be_read_is_refused_before_anything_is_loaded(given: str):
    answer = run_command("prune", "missing.keras", "--data", "digits", "--fine-tune", given)
    assert answer.code == 2
    assert f"Cannot read '{given}' as an amount of training. Give fast, balanced" in answer.error


@pytest.mark.parametrize(
    ("text", "seconds", "epochs"),
    [("5min", 300, None), ("90s", 90, None), ("1.5h", 5400, None), ("45", 45, None),
     ("20epochs", None, 20), ("1 epoch", None, 1)],
)  # fmt: skip
def test_lengths_are_read_with_their_units(text: str, seconds: float, epochs: float):
    settings = Training.parse(text)
    assert (settings.seconds, settings.epochs) == (seconds, epochs)


@pytest.mark.parametrize("splits", [("train", "test"), ("train", "validation", "test"), ("all",)])
def test_training_samples_serve_neither_test_nor_validation(splits: tuple[str, ...]):
    x, y = digits()
    parts = np.array_split(np.random.default_rng(0).permutation(len(y)), len(splits))
    data = load_dataset((x, y), input_shape=(8, 8, 1))
    data = type(data)(data.name, data.classes, data.targets, dict(zip(splits, parts, strict=True)),
                      data.read)  # fmt: skip

    read = read_splits(make_classifier(), Data(data, **NUMBERS), [3, 5], seed=0)
    chosen = choose_training_samples(read, seed=0)
    assert set(y[chosen]) == {3, 5}
    trained_on = {sample.tobytes() for sample in x[chosen].astype(np.float32)}
    for used in (read.test, read.validation):
        assert not trained_on & {sample.tobytes() for sample in used.inputs}
    assert {sample.tobytes() for sample in read.calibration.inputs} <= trained_on
    assert len(chosen) > 100


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"seconds": None}, "Fine-tuning needs an end: give seconds, epochs or both"),
        ({"optimizer": "adam"}, "The optimizer must be muon, adamw or sgd. Got 'adam'"),
        ({"learning_rate": 0}, "Fine-tuning needs a finite learning_rate above 0. Got 0"),
        ({"batch_size": 0}, "Fine-tuning needs batch_size of at least 1"),
        ({"distillation": 1.5}, "Fine-tuning needs distillation between 0 and 1"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(settings, message: str):
    with pytest.raises(EdgepruneError, match=message):
        Training(**settings)


def test_an_augmentation_beyond_the_image_is_refused():
    with pytest.raises(EdgepruneError, match="The shift of an augmentation must be at least 0"):
        Augmentation(shift=1.0)
