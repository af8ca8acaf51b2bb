from __future__ import annotations

import json
import warnings
from pathlib import Path

import keras
import networks
import numpy as np
import pytest
from keras import layers
from specialists import make_classifier, run_command, save_digits

from edgeprune.allocation import Sensitivity
from edgeprune.errors import EdgepruneError
from edgeprune.pruning.curves import measure_curves
from edgeprune.pruning.pruning_settings import Pruning


def build() -> keras.Model:
    """Channels of `first` matter; `second` writes zeros, so nothing depends on its width."""
    inputs = keras.Input((8, 8, 3))
    first = layers.Conv2D(8, 3, activation="relu", name="first")(inputs)
    second = layers.Conv2D(8, 3, activation="relu", name="second")(inputs)
    x = layers.Concatenate()([first, second])
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(6, 1, name="last")(x))
    model = networks.randomize(keras.Model(inputs, layers.Dense(4, name="head")(x)))
    silent = model.get_layer("second")
    silent.set_weights([0 * weight for weight in silent.get_weights()])
    return model


def images(samples: int = 120) -> np.ndarray:
    return np.random.default_rng(5).normal(size=(samples, 8, 8, 3)).astype(np.float32)


def test_what_carries_nothing_measures_as_harmless(tmp_path) -> None:
    model, x = build(), images()
    targets = np.asarray(model(x)).argmax(-1)
    cache = tmp_path / "curves.json"
    found = measure_curves(model, (x, targets), cache=cache)
    assert found.full == 1
    assert set(found.scores) == {"first", "second", "last"}
    assert set(found.scores["second"].values()) == {1.0}
    assert found.scores["first"][2] < 1
    assert found == Sensitivity.load(cache)


def example() -> tuple[keras.Model, np.ndarray, np.ndarray]:
    model, x = build(), images()
    return model, x, np.asarray(model(x)).argmax(-1)


@pytest.fixture(scope="module")
def measured(tmp_path_factory) -> Path:
    """The curves of the example, in a file."""
    path = tmp_path_factory.mktemp("curves") / "curves.json"
    model, x, targets = example()
    measure_curves(model, (x, targets), validation=(x[:40], targets[:40]), cache=path)
    return path


def change_weights(model: keras.Model) -> keras.Model:
    other = keras.models.clone_model(model)
    other.set_weights([0.9 * weight for weight in model.get_weights()])
    return other


def change_strides(model: keras.Model) -> keras.Model:
    def build_layer(layer: keras.Layer) -> keras.Layer:
        config = layer.get_config()
        if layer.name in ("first", "second"):
            config["strides"] = (2, 2)
        return type(layer).from_config(config)

    other = keras.models.clone_model(model, clone_function=build_layer)
    other.set_weights(model.get_weights())
    return other


@pytest.mark.parametrize(
    "changed", ["weights", "strides", "data", "targets", "validation", "classes", "nothing"]
)
def test_curves_of_anything_else_are_not_taken_from_a_file(tmp_path, measured, changed) -> None:
    model, x, targets = example()
    cache = tmp_path / "curves.json"
    given = {"validation": (x[:40], targets[:40]), "cache": cache}
    cache.write_bytes(measured.read_bytes())
    first = Sensitivity.load(cache)
    if changed == "weights":
        model = change_weights(model)
    elif changed == "strides":
        model = change_strides(model)
    elif changed == "data":
        x = x + np.float32(0.25)
    elif changed == "targets":
        targets = np.roll(targets, 1)
    elif changed == "validation":
        given["validation"] = (x[40:80], targets[40:80])
    elif changed == "classes":
        given["classes"] = np.unique(targets)[:2].tolist()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        found = measure_curves(model, (x, targets), **given)
    assert any("starting anew" in str(one.message) for one in told) == (changed != "nothing")
    fresh = measure_curves(model, (x, targets), **{**given, "cache": None})
    assert found == fresh
    assert (found == first) == (changed == "nothing")


def test_unknown_criteria_are_refused() -> None:
    with pytest.raises(EdgepruneError, match="Unknown criterion 'best'"):
        measure_curves(build(), images(), pruning=Pruning(criterion="best"))


def test_the_command_writes_numbers_and_a_plot(tmp_path, monkeypatch) -> None:
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    make_classifier().save("model.keras")
    save_digits(tmp_path / "data.npz")
    given = ["model.keras", "--data", "data.npz", "--preprocess", "raw", "--calibration", "10"]
    told = run_command(
        "sensitivity", *given, "--validation", "5", "--plot", "c.png", "--json", "--quiet"
    )
    assert told.code == 0, told.err
    printed = json.loads(told.out)
    assert printed["file"] == "sensitivity.json"
    stored = Sensitivity.load("sensitivity.json")
    assert stored.scores
    for name, scores in stored.scores.items():
        assert printed[name] == {str(width): score for width, score in sorted(scores.items())}
    assert (tmp_path / "c.png").read_bytes().startswith(b"\x89PNG")


def test_a_plot_of_another_kind_is_refused_before_anything_runs(tmp_path) -> None:
    told = run_command("sensitivity", "missing.keras", "--data", "missing.npz", "--plot", "c.txt")
    assert told.code == 2
    assert "Expected a name in .png, .svg or .pdf" in told.err
