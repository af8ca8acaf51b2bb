"""Everything a user types, once: what `make test-versions` runs with each pair of versions."""

from __future__ import annotations

import json
from pathlib import Path

import keras
import numpy as np
import pytest
from specialists import NUM_TRAIN, digits, make_classifier, run_command, save_digits

import edgeprune
from edgeprune.tflite.conversion_checks import SCHEMES
from edgeprune.tflite.runtime import TFLiteModel

CLASSES = (8, 3, 5)
QUICK = "--recovery least_squares --recalibrate off --no-bench --quiet"


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with the data, and the same model as .keras and as .h5."""
    folder = tmp_path_factory.mktemp("smoke")
    save_digits(folder / "digits.npz")
    for name in ("model.keras", "model.h5"):
        make_classifier().save(folder / name)
    return folder


def unseen() -> tuple[np.ndarray, np.ndarray]:
    """Images of the kept classes that took no part, and the positions of their classes."""
    x, y = (part[NUM_TRAIN:] for part in digits())
    kept = np.isin(y, CLASSES)
    return x[kept].astype(np.float32), np.array([CLASSES.index(label) for label in y[kept]])


@pytest.mark.parametrize("name", ["model.keras", "model.h5"])
def test_a_build_goes_from_a_file_to_all_that_a_board_needs(place: Path, name: str) -> None:
    out = place / f"out of {name}"
    command = f"build {place}/{name} --data {place}/digits.npz --classes eight,three,5"
    command += f" --target rpi4 --fine-tune 1epochs {QUICK}"
    answer = run_command(*command.split(), "--out", out)
    assert answer.code == 0, answer.err
    slim, board = keras.models.load_model(out / "model.keras"), TFLiteModel(out / "model.tflite")
    assert slim.count_params() < make_classifier().count_params()
    images, positions = unseen()
    for outputs in (slim.predict(images, verbose=0), board.predict(images)):
        assert (outputs.argmax(-1) == positions).mean() > 0.9
    assert board.labels == ("eight", "three", "five")
    assert json.loads((out / "report.json").read_text())


def test_a_model_is_inspected_and_what_was_pruned_opens_again(place: Path) -> None:
    command = f"prune {place}/model.h5 --data {place}/digits.npz --budget macs=50%"
    slim = place / "slim.keras"
    answer = run_command(
        *f"{command} {QUICK.replace('--no-bench', '--effort fast')} --out {slim}".split()
    )
    assert answer.code == 0, answer.err
    listed = json.loads(run_command("inspect", slim, "--json").out)
    assert listed["params"] == edgeprune.load_model(slim).count_params()
    assert {group["name"] for group in listed["groups"]} >= {"first", "second", "head"}


@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_format_answers_as_keras_does(place: Path, scheme: str) -> None:
    file = place / f"{scheme}.tflite"
    command = f"convert {place}/model.keras --data {place}/digits.npz --quantize {scheme}"
    command += " --qat-epochs 1"
    answer = run_command(*f"{command} --quiet --out {file}".split())
    assert answer.code == 0, answer.err
    images, _ = unseen()
    expected = make_classifier().predict(images, verbose=0).argmax(-1)
    assert (TFLiteModel(file).predict(images).argmax(-1) == expected).mean() > 0.95


@pytest.mark.parametrize("name", ["MobileNetV3Small", "ResNet50V2"])
def test_the_channels_of_known_networks_are_found(name: str) -> None:
    model = getattr(keras.applications, name)(
        weights=None, input_shape=(32, 32, 3), classes=10, include_top=True
    )
    assert len(edgeprune.find_groups(model).removable) > 10
