"""`.keras` files of TensorFlow 2.12 and 2.13.

No such file is at hand, and those releases do not install beside what runs here. So tf_keras
writes the files, with three places of its `saving_lib` put back to what Keras 2.12 has published:
the list of attributes that are passed over, their order, and the count of layers seen before.
"""

from __future__ import annotations

import inspect
import json
import logging
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from edgeprune.errors import ModelError
from edgeprune.loading import load_model

pytestmark = pytest.mark.usefixtures("one_legacy_process")
L = tf_keras.layers
saving_lib: Any = inspect.getmodule(tf_keras.saving.save_model).saving_lib


@pytest.fixture(autouse=True)
def as_in_keras_2_12(monkeypatch: pytest.MonkeyPatch) -> None:
    passed_over = saving_lib.ATTR_SKIPLIST - {"_layer_checkpoint_dependencies"}

    def walk(trackable: Any) -> Iterator[tuple[str, Any]]:
        for name in dir(trackable):
            if name.startswith("__") or name in passed_over:
                continue
            try:
                yield name, getattr(trackable, name)
            except Exception:
                continue

    def save_container(
        container: Any, weights_store: Any, assets_store: Any, inner_path: str, visited: Any
    ) -> None:
        used_names: dict[str, int] = {}
        for trackable in list(container.values()) if isinstance(container, dict) else container:
            if saving_lib._is_keras_trackable(trackable):
                name = saving_lib.generic_utils.to_snake_case(type(trackable).__name__)
                used_names[name] = used_names.get(name, -1) + 1
                name = f"{name}_{used_names[name]}" if used_names[name] else name
                path = tf.io.gfile.join(inner_path, name)
                saving_lib._save_state(trackable, weights_store, assets_store, path, visited)

    def adapted(*given: Any, visited_trackables: Any, inner_path: str) -> None:
        save_container(*given, inner_path, visited_trackables)

    monkeypatch.setattr(saving_lib, "_walk_trackable", walk)
    monkeypatch.setattr(saving_lib, "_save_container_state", adapted)


def randomised(model: Any) -> Any:
    generator = np.random.default_rng(1)
    for weight in model.weights:
        if weight.dtype.is_floating:
            values = generator.normal(0, 0.4, weight.shape)
            weight.assign(np.abs(values) + 0.3 if "variance" in weight.name else values)
    return model


def plain_layers() -> Any:
    x = tf_keras.Input((10, 10, 3))
    y = L.ReLU()(L.BatchNormalization()(L.Conv2D(4, 3)(x)))
    y = L.Add()([L.Conv2D(4, 3, padding="same")(y), y])
    y = L.PReLU()(L.SeparableConv2D(4, 3)(L.DepthwiseConv2D(3)(y)))
    y = L.Conv2D(4, 1)(L.LayerNormalization()(y))
    y = L.Dropout(0.3)(L.Conv2D(2, 1, activation="hard_sigmoid")(y))
    return tf_keras.Model(x, L.Dense(3)(L.Dense(5, activation="relu")(L.Flatten()(y))))


def nested() -> Any:
    def inner() -> Any:
        return tf_keras.Sequential([tf_keras.Input((8, 8, 4)), L.Conv2D(4, 1), L.Conv2D(4, 1)])

    z = tf_keras.Input((8, 8, 4))
    other = tf_keras.Model(z, L.Conv2D(4, 3, padding="same")(inner()(z)))
    x = tf_keras.Input((8, 8, 4))
    shared = inner()
    y = other(L.Conv2D(4, 1)(shared(shared(inner()(x)))))
    return tf_keras.Model(x, L.Dense(2)(L.GlobalAveragePooling2D()(L.Conv2D(4, 1)(y))))


def sequential() -> Any:
    return tf_keras.Sequential(
        [tf_keras.Input((6, 6, 1)), L.Conv2D(3, 3), L.Conv2D(3, 3), L.Flatten(), L.Dense(2)]
    )


def recurrent() -> Any:
    x = tf_keras.Input((6, 4))
    y = L.LSTM(3, return_sequences=True)(L.TimeDistributed(L.Dense(5))(x))
    y = L.Bidirectional(L.GRU(3, return_sequences=True))(y)
    y = L.MultiHeadAttention(2, 3)(y, y)
    return tf_keras.Model(x, L.Dense(2)(L.Bidirectional(L.LSTM(2))(y)))


def in_windows(path: Path) -> None:
    """Write the paths as they come from there: one name with backslashes in it."""
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    weights = path.with_name("windows.h5")
    (path.with_name("unix.h5")).write_bytes(entries["model.weights.h5"])
    with h5py.File(path.with_name("unix.h5")) as old, h5py.File(weights, "w") as new:

        def copy(name: str, entry: Any) -> None:
            if isinstance(entry, h5py.Dataset):
                folder, _, number = name.rpartition("/vars/")
                new[f"{folder.replace('/', chr(92))}/vars/{number}"] = np.asarray(entry)

        old.visititems(copy)
    entries["model.weights.h5"] = weights.read_bytes()
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, content)


@pytest.mark.parametrize("windows", [False, True])
@pytest.mark.parametrize("make", [plain_layers, nested, sequential, recurrent])
def test_an_archive_opens_with_its_weights(
    make: Any, windows: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    original = randomised(make())
    path = tmp_path / "model.keras"
    original.save(path)
    if windows:
        in_windows(path)
    with zipfile.ZipFile(path) as archive:
        names: list[str] = []
        with h5py.File(archive.open("model.weights.h5")) as file:
            file.visit(names.append)
    assert any(name.startswith("_layer_checkpoint_dependencies") for name in names)
    if make is plain_layers and not windows:
        assert {"_layer_checkpoint_dependencies/conv2d_4"} < set(names)
        assert "_layer_checkpoint_dependencies/conv2d_1" not in names
    x = np.random.default_rng(0).random((3, *original.input_shape[1:])).astype("float32")

    with caplog.at_level(logging.WARNING, "edgeprune"):
        opened = load_model(path)

    np.testing.assert_allclose(opened(x), original(x), atol=1e-5)
    assert caplog.messages == []


def test_weights_alone_open_beside_their_architecture(tmp_path: Path) -> None:
    original = randomised(plain_layers())
    (tmp_path / "net.json").write_text(original.to_json())
    original.save_weights(tmp_path / "net.weights.h5")
    x = np.random.default_rng(0).random((3, 10, 10, 3)).astype("float32")

    opened = load_model(tmp_path / "net.json", weights=tmp_path / "net.weights.h5")

    np.testing.assert_allclose(opened(x), original(x), atol=1e-5)


@pytest.mark.parametrize("damage", ["missing", "shape", "array"])
def test_weights_of_another_model_are_refused(damage: str, tmp_path: Path) -> None:
    original = plain_layers()
    (tmp_path / "net.json").write_text(json.dumps(json.loads(original.to_json())))
    original.save_weights(tmp_path / "net.weights.h5")
    with h5py.File(tmp_path / "net.weights.h5", "r+") as file:
        layers = file["_layer_checkpoint_dependencies"]
        if damage == "missing":
            del layers["conv2d_2"]
        elif damage == "array":
            del layers["conv2d_2/vars/1"]
        else:
            del layers["conv2d_2/vars/0"]
            layers["conv2d_2/vars/0"] = np.zeros((3, 3, 4, 5), "float32")
    with pytest.raises(ModelError, match=r"The weights of layer 'conv2d\w*' \(Conv2D\) are not in"):
        load_model(tmp_path / "net.json", weights=tmp_path / "net.weights.h5")
