"""Files that are damaged, absurd or no files at all: one line, at once, in little memory."""

from __future__ import annotations

import io
import json
import os
import zipfile
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import pytest
from fuzzing.corrupted_files import save_originals, try_seed

from edgeprune.errors import ModelError
from edgeprune.loading import load_model

pytestmark = pytest.mark.usefixtures("one_legacy_process")
NUM_CORRUPTIONS = 42


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("originals")
    save_originals(folder)
    return folder


def test_corrupted_files_open_as_what_they_are_or_are_refused_in_one_line(
    originals: Path, tmp_path: Path
) -> None:
    """More of them: `python tests/fuzzing/corrupted_files.py`."""
    results = {seed: try_seed(originals, tmp_path, seed) for seed in range(NUM_CORRUPTIONS)}
    assert {seed: result for seed, result in results.items() if result[1]} == {}
    assert len({done.partition(":")[0] for done, _ in results.values()}) > 8


def with_entries(original: Path, path: Path, **changed: Any) -> Path:
    with zipfile.ZipFile(original) as old, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        entries = {name: old.read(name) for name in old.namelist()} | changed
        for name, content in entries.items():
            new.writestr(name, content)
    return path


@pytest.mark.parametrize("name", ["model.weights.h5", "config.json"])
def test_an_archive_that_unpacks_to_something_absurd_is_not_unpacked(
    name: str, originals: Path, tmp_path: Path
) -> None:
    size = 2**28
    path = with_entries(originals / "new.keras", tmp_path / "bomb.keras", **{name: bytes(size)})
    assert path.stat().st_size < size / 500

    with pytest.raises(
        ModelError, match=rf"holds '{name}', which would unpack from [\d,]+ to {size:,} bytes: no"
    ):
        load_model(path)


def test_a_configuration_of_more_than_a_text_is_not_read(originals: Path, tmp_path: Path) -> None:
    text = np.random.default_rng(0).bytes(65 * 2**20)
    path = tmp_path / "long.keras"
    with zipfile.ZipFile(originals / "new.keras") as old, zipfile.ZipFile(path, "w") as new:
        new.writestr("model.weights.h5", old.read("model.weights.h5"))
        new.writestr("config.json", text)
    with pytest.raises(ModelError, match=r"holds 'config.json' with 68,157,440 bytes: more than"):
        load_model(path)


@pytest.mark.parametrize("inside", [True, False])
def test_weights_that_are_declared_but_not_stored_are_not_read(
    inside: bool, originals: Path, tmp_path: Path
) -> None:
    content = io.BytesIO(zipfile.ZipFile(originals / "new.keras").read("model.weights.h5"))
    if not inside:
        content = io.BytesIO((originals / "new.h5").read_bytes())
    with h5py.File(content, "r+") as file:
        file.create_dataset("more", (2**20, 2**14), "f4", chunks=(64, 64), compression=9)
    path = tmp_path / ("bomb.keras" if inside else "bomb.h5")
    if inside:
        with_entries(originals / "new.keras", path, **{"model.weights.h5": content.getvalue()})
    else:
        path.write_bytes(content.getvalue())

    with pytest.raises(ModelError, match=r"holds 'more', which would unpack from 0 to 68,719,476"):
        load_model(path)


@pytest.mark.parametrize("name", ["new.json", "old.h5", "new.keras"])
def test_a_configuration_cannot_ask_for_more_weights_than_the_file_can_hold(
    name: str, originals: Path, tmp_path: Path
) -> None:
    def widen(text: str) -> str:
        config = json.loads(text)
        dense = next(e for e in config["config"]["layers"] if e["class_name"] == "Dense")
        dense["config"]["units"] = 10**9
        return json.dumps(config)

    path = tmp_path / name
    path.write_bytes((originals / name).read_bytes())
    if path.suffix == ".json":
        path.write_text(widen(path.read_text()))
    elif path.suffix == ".keras":
        text = widen(zipfile.ZipFile(path).read("config.json").decode())
        with_entries(originals / name, path, **{"config.json": text})
    else:
        with h5py.File(path, "r+") as file:
            file.attrs["model_config"] = widen(file.attrs["model_config"])
    weights = originals / "new.weights.h5" if path.suffix == ".json" else None

    with pytest.raises(
        ModelError, match=r"Layer 'head' asks for weights of shape \(64, 1000000000\); '.*' has "
    ):
        load_model(path, weights=weights)
    assert "bounded" not in keras.Layer.add_weight.__qualname__


def test_names_that_are_there_twice_are_told(originals: Path, tmp_path: Path) -> None:
    path = tmp_path / "twice.keras"
    path.write_bytes((originals / "new.keras").read_bytes())
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(path, "a") as archive:
        archive.writestr("config.json", "{}")
    with pytest.raises(ModelError, match=r"holds 2 entries named 'config.json', so which one"):
        load_model(path)


@pytest.mark.parametrize("depth", [140, 300, 900, 100_000])
def test_deep_nesting_is_one_line(depth: int, tmp_path: Path) -> None:
    text = '{"class_name": "Sequential", "config": {"layers": ' + "[" * depth + "]" * depth + "}}"
    (tmp_path / "deep.json").write_text(text)
    (tmp_path / "w.h5").write_bytes(b"")
    with pytest.raises(ModelError, match=r"nests|recursion|is empty"):
        load_model(tmp_path / "deep.json", weights=tmp_path / "w.h5")


def test_models_in_models_are_not_too_deep(tmp_path: Path) -> None:
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)], name="m0")
    for number in range(1, 12):
        model = keras.Sequential([keras.Input((3,)), model], name=f"m{number}")
    model.save(tmp_path / "deep.keras")
    x = np.ones((1, 3), "float32")
    np.testing.assert_array_equal(load_model(tmp_path / "deep.keras")(x), model(x))


def test_what_never_ends_is_no_model(originals: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.keras")
    for path in ("/dev/zero", tmp_path / "pipe.keras"):
        with pytest.raises(ModelError, match="it is no file but a folder, a pipe or a device"):
            load_model(path)
        with pytest.raises(ModelError, match="it is no file but a folder, a pipe or a device"):
            load_model(originals / "new.json", weights=path)


@pytest.mark.parametrize("zeros", [16, 200])
def test_a_heap_over_which_hdf5_never_gets_is_refused(
    zeros: int, originals: Path, tmp_path: Path
) -> None:
    content = bytearray((originals / "old.h5").read_bytes())
    start = content.rfind(b"GCOL") + 16
    content[start : start + zeros] = bytes(zeros)
    (tmp_path / "model.h5").write_bytes(content)
    with pytest.raises(ModelError, match="is a damaged HDF5 file: a text has no length"):
        load_model(tmp_path / "model.h5")


@pytest.mark.parametrize(
    ("entry", "attribute", "value"),
    [
        ("/", "model_config", 3),
        ("/", "model_config", np.zeros(4)),
        ("/", "model_config", h5py.Empty("f4")),
        ("/", "keras_version", np.zeros(2)),
        ("/", "backend", b"\xff\xfe"),
        ("model_weights", "layer_names", 2.5),
        ("model_weights", "layer_names", [b"no such layer"]),
        ("model_weights/head", "weight_names", [3.5, 4.5]),
    ],
)
def test_attributes_of_odd_types_are_one_line(
    entry: str, attribute: str, value: Any, originals: Path, tmp_path: Path
) -> None:
    path = tmp_path / "odd.h5"
    path.write_bytes((originals / "new.h5").read_bytes())
    with h5py.File(path, "r+") as file:
        file[entry].attrs[attribute] = value
    try:
        opened = load_model(path)
    except ModelError as error:
        assert "\n" not in str(error) and 30 < len(str(error)) < 1000
        return
    original = load_model(originals / "new.h5")
    x = np.ones((1, *original.input_shape[1:]), "float32")
    np.testing.assert_array_equal(opened(x), original(x))
