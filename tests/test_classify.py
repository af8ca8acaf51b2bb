"""The program that a build delivers, where neither edgeprune nor TensorFlow can be imported."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import small_models
from keras import layers
from PIL import Image

from edgeprune.support.resources import find_folder
from edgeprune.tflite import convert

PROGRAM = find_folder("devices") / "classify.py"
ALONE = """
import runpy, sys
for name in ("tensorflow", "keras", "tf_keras", "edgeprune"):
    sys.modules[name] = None
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
STANDARDIZE = "standardize:mean=120,110,100;std=60,50,55"


def classify(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", ALONE, str(PROGRAM), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=600)


def scores(printed: str) -> dict[str, float]:
    """Return label -> score, in the order of the lines."""
    rows = [line.split(maxsplit=1) for line in printed.splitlines()]
    return {label: float(score) for score, label in rows}


@pytest.fixture(scope="module")
def photo(tmp_path_factory) -> Path:
    """A picture with colours, not square, larger than the model's input."""
    columns, rows = np.meshgrid(np.arange(60), np.arange(40))
    pixels = np.stack([columns * 4, rows * 6, (columns * rows) % 256], axis=-1).astype(np.uint8)
    path = tmp_path_factory.mktemp("photo") / "photo.png"
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture(scope="module")
def model() -> keras.Model:
    keras.utils.set_random_seed(2)
    image = keras.Input((8, 8, 3))
    x = layers.Conv2D(8, 3, activation="relu", padding="same")(image)
    outputs = layers.Dense(3, activation="softmax")(layers.Flatten()(x))
    return keras.Model(image, outputs)


def expect(model: keras.Model, photo: Path) -> np.ndarray:
    small = Image.open(photo).resize((8, 8), Image.Resampling.BILINEAR)
    inputs = (np.asarray(small, np.float32) - [120, 110, 100]) / [60, 50, 55]
    return model.predict(inputs[None].astype("float32"), verbose=0)[0]


def test_it_is_short_enough_to_be_read() -> None:
    lines = PROGRAM.read_text().splitlines()
    assert len(lines) <= 60
    assert max(map(len, lines)) <= 100


@pytest.mark.parametrize(
    ("scheme", "options", "tolerance"),
    [
        ("float32", {}, 1e-4),
        ("float32", {"input": "uint8"}, 1e-4),
        ("int8", {}, 0.06),
        ("int8", {"io": "int8"}, 0.06),
        ("int8", {"input": "uint8", "io": "uint8"}, 0.06),
    ],
)
def test_it_answers_like_keras_on_a_picture(
    tmp_path, model, photo, scheme, options, tolerance
) -> None:
    path = tmp_path / "model.tflite"
    calibration = 2 * small_models.samples(50)
    convert(
        model, scheme=scheme, calibration=calibration, labels=["cat", "red fox", "dog"],
        preprocess=STANDARDIZE, path=path, **options,
    )  # fmt: skip
    answer = classify(photo, "--model", path)
    assert answer.returncode == 0, answer.stderr
    expected = dict(zip(["cat", "red fox", "dog"], expect(model, photo), strict=True))
    found = scores(answer.stdout)
    assert found == pytest.approx(expected, abs=tolerance)
    assert list(found.values()) == sorted(found.values(), reverse=True)
    assert len(scores(classify(photo, "--model", path, "--top", 1).stdout)) == 1


def test_a_scaling_of_ones_own_is_asked_for(tmp_path, model, photo) -> None:
    path = tmp_path / "model.tflite"
    convert(model, scheme="float32", labels=["a", "b", "c"], preprocess=lambda x: x / 7, path=path)
    answer = classify(photo, "--model", path)
    assert answer.returncode == 1
    assert "The model wants test_classify:test_a_scaling_of_ones_own" in answer.stderr


@pytest.mark.slow
def test_a_real_photo_is_seen_as_keras_sees_it(tmp_path, shared_data) -> None:
    from edgeprune.loading import load_model

    model = load_model(shared_data / "mlperf_tiny" / "mobilenetv1_025_vww.h5")
    photo = shared_data / "coral" / "cat.bmp"
    small = Image.open(photo).convert("RGB").resize((96, 96), Image.Resampling.BILINEAR)
    inputs = np.asarray(small, np.float32)[None] / 255
    expected = model.predict(inputs, verbose=0)[0]
    path = tmp_path / "model.tflite"
    convert(
        model, labels=["nobody", "person"], preprocess="unit", input="uint8", path=path,
        calibration=inputs,
    )  # fmt: skip
    answer = classify(photo, "--model", path)
    assert answer.returncode == 0, answer.stderr
    found = scores(answer.stdout)
    assert [found["nobody"], found["person"]] == pytest.approx(expected, abs=0.05)


def test_one_sigmoid_names_the_likelier_of_two_classes(tmp_path, photo) -> None:
    image = keras.Input((8, 8, 3))
    pooled = keras.layers.GlobalAveragePooling2D()(image)
    model = keras.Model(image, keras.layers.Dense(1, "sigmoid")(pooled))
    path = tmp_path / "model.tflite"
    convert(model, scheme="float32", labels=["good", "bad"], preprocess=STANDARDIZE, path=path)
    chance = float(expect(model, photo)[0])
    found = scores(classify(photo, "--model", path).stdout)
    assert found == pytest.approx({"good": 1 - chance, "bad": chance}, abs=1e-4)
