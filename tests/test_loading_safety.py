from __future__ import annotations

import io
import json
import os
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import pytest
import tf_keras

from edgeprune.errors import ModelError
from edgeprune.loading import load_model
from edgeprune.loading.safety import rewrite_configuration

NEVER_RUNS = r"holds? Python code, which edgeprune never runs\."


def bomb(path: Path) -> Callable[[Any], Any]:
    """A function that leaves a file behind when it runs, as the bytecode of a lambda."""
    name = str(path)
    return lambda x: (open(name, "w").close(), x)[1]


def old_hdf5(planted: Path, path: Path) -> None:
    tf_keras.Sequential(
        [tf_keras.layers.Lambda(bomb(planted), name="trap", input_shape=(2,))]
    ).save(path)


def old_hdf5_nested(planted: Path, path: Path) -> None:
    x = tf_keras.Input((2,))
    inner = tf_keras.Model(x, tf_keras.layers.Lambda(bomb(planted), name="trap")(x))
    tf_keras.Sequential(
        [tf_keras.layers.TimeDistributed(inner, input_shape=(3, 2)), tf_keras.layers.Dense(1)]
    ).save(path)


def new_archive(planted: Path, path: Path) -> None:
    keras.Sequential(
        [keras.Input((2,)), keras.layers.Lambda(bomb(planted), output_shape=(2,), name="trap")]
    ).save(path)


def new_hdf5(planted: Path, path: Path) -> None:
    new_archive(planted, path)


@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")
@pytest.mark.parametrize(
    ("save", "name", "open_unsafely"),
    [
        (old_hdf5, "model.h5", lambda path: tf_keras.models.load_model(path, safe_mode=True)),
        (old_hdf5_nested, "model.h5", tf_keras.models.load_model),
        (new_archive, "model.keras", lambda path: keras.models.load_model(path, safe_mode=False)),
        (new_hdf5, "model.h5", lambda path: keras.models.load_model(path, safe_mode=False)),
    ],
    ids=["old_hdf5", "old_hdf5_nested", "new_archive", "new_hdf5"],
)
def test_planted_bytecode_does_not_run(
    save: Any, name: str, open_unsafely: Any, tmp_path: Path
) -> None:
    planted = tmp_path / "planted"
    save(planted, tmp_path / name)
    planted.unlink(missing_ok=True)
    model = open_unsafely(tmp_path / name)
    model(np.zeros((1, *model.input_shape[1:]), "float32"))
    assert planted.exists(), "the trap does not work, so the test would prove nothing"
    planted.unlink()

    with pytest.raises(ModelError, match=rf"Layer 'trap' \(Lambda\) of '{name}' {NEVER_RUNS}"):
        load_model(tmp_path / name)

    assert not planted.exists()


def test_the_real_files_with_lambda_layers_are_refused_by_name(shared_data: Path) -> None:
    folder = shared_data / "legacy_models"

    with pytest.raises(
        ModelError,
        match=r"^Layer 'pred_a' \(Lambda\) of 'ssrnet_lambda.json' holds Python code, which "
        r"edgeprune never runs\. Say what each computes, --custom pred_a=module:name or "
        r"load_model\(..., custom_objects="
        r"\{'pred_a': Keras layer or function of tensors\}\), or rebuild the model with Keras "
        r"layers in their place and save it again\.$",
    ):
        load_model(folder / "ssrnet_lambda.json", weights=folder / "ssrnet_lambda.h5")
    with pytest.raises(
        ModelError,
        match=r"^Layers 'lambda', 'lambda_1', 'lambda_2', 'lambda_3', 'lambda_4' \(Lambda\) of "
        rf"'slimnet_lambda.h5' {NEVER_RUNS}",
    ):
        load_model(folder / "slimnet_lambda.h5")


@pytest.fixture
def base(tmp_path: Path) -> Path:
    path = tmp_path / "base.keras"
    layers = [keras.layers.Dense(3, name="head"), keras.layers.Activation("relu", name="gate")]
    keras.Sequential([keras.Input((4,)), *layers]).save(path)
    return path


def edited(
    base: Path,
    change: Callable[[list[dict[str, Any]]], None] = lambda layers: None,
    **members: bytes | None,
) -> Path:
    """Copy an archive with its configuration changed, and members replaced or (None) left out."""
    path = base.with_name("edited.keras")
    with zipfile.ZipFile(base) as source, zipfile.ZipFile(path, "w") as target:
        contents = {name: source.read(name) for name in source.namelist()}
        config = json.loads(contents["config.json"])
        change(config["config"]["layers"])
        contents["config.json"] = json.dumps(config).encode()
        for name, content in {**contents, **members}.items():
            if content is not None:
                target.writestr(name, content)
    return path


def activation(value: Any) -> Callable[[list[dict[str, Any]]], None]:
    return lambda layers: layers[2]["config"].update(activation=value)


def extra_layer(class_name: str, module: str, /, **config: Any) -> Callable[[list[Any]], None]:
    entry = {"class_name": class_name, "module": module, "registered_name": class_name}
    return lambda layers: layers.append({**entry, "config": {"name": "extra", **config}})


def function(module: str, name: str) -> dict[str, Any]:
    return {"class_name": "function", "module": module, "config": name, "registered_name": name}


UNSAFE = [
    (
        activation(function("keras.utils", "get_file")),
        r"Layer 'gate' \(Activation\) of 'edited.keras' uses the function 'get_file', which Keras "
        r"does not have. Hand it over, --custom module:get_file or load_model\(..., "
        r"custom_objects=\{'get_file': function\}\).",
    ),
    (
        activation(function("keras.config", "enable_unsafe_deserialization")),
        "uses the function 'enable_unsafe_deserialization'",
    ),
    (activation(function("os", "system")), r"'system' \(module 'os'\)"),
    (activation(function("planted", "relu")), r"uses 'relu' \(module 'planted'\)"),
    (activation(function("keras_of_mine.x", "relu")), r"\(module 'keras_of_mine.x'\)"),
    (activation({"class_name": "__tuple__", "module": "planted", "items": []}), "'planted'"),
    (extra_layer("TensorShape", "planted", items=[1]), r"is 'TensorShape' \(module 'planted'\)"),
    (extra_layer("Dense", "tensorflow.python.debug", units=3), "'tensorflow.python.debug'"),
    (activation(function("builtins", "exec")), "uses the function 'exec'"),
    (activation("exec"), "uses the function 'exec'"),
    (
        activation({"class_name": "__lambda__", "config": {"value": "4wEAAA=="}}),
        rf"Layer 'gate' \(Activation\) of 'edited.keras' {NEVER_RUNS} Rebuild the model with Keras",
    ),
    (
        extra_layer("Popen", "subprocess", args=["touch", "x"]),
        r"Layer 'extra' of 'edited.keras' is 'Popen' \(module 'subprocess'\), which Keras does not "
        r"have. Hand it over, --custom module:Popen or load_model\(..., custom_objects=\{'Popen': "
        r"Popen\}\), or rebuild it",
    ),
    (extra_layer("Conv2D", "os.path"), r"Layer 'extra' .* is 'Conv2D' \(module 'os.path'\)"),
    (
        extra_layer("TorchModuleWrapper", "keras.layers", module="gASVAA=="),
        r"Layer 'extra' \(TorchModuleWrapper\) of 'edited.keras' wraps a program of another "
        r"framework, which edgeprune never runs. Rebuild it with Keras layers",
    ),
    (extra_layer("TFSMLayer", "keras.layers", filepath="/tmp"), r"\(TFSMLayer\) .* wraps a progr"),
    (
        extra_layer("StringLookup", "keras.layers", vocabulary="/etc/passwd"),
        r"Layer 'extra' \(StringLookup\) of 'edited.keras' asks to read the file '/etc/passwd', "
        r"which edgeprune does not do.",
    ),
]


@pytest.mark.parametrize(("change", "message"), UNSAFE)
def test_names_that_lead_outside_keras_are_refused(change: Any, message: str, base: Path) -> None:
    with pytest.raises(ModelError, match=message):
        load_model(edited(base, change))


def test_classes_that_the_user_hands_over_pass(base: Path) -> None:
    class Twice(keras.layers.Layer):
        def call(self, x: Any) -> Any:
            return 2 * x

    path = edited(base, extra_layer("Twice", "lab"))

    doubled = load_model(path, custom_objects={"Twice": Twice})

    x = np.ones((1, 4), "float32")
    np.testing.assert_allclose(doubled(x), 2 * load_model(base)(x))


def test_a_layer_inside_one_of_the_users_own_is_still_judged(base: Path) -> None:
    class Twice(keras.layers.Layer):
        pass

    config = {"vocabulary": "/etc/passwd"}
    inner = {"class_name": "StringLookup", "module": "keras.layers", "config": config}
    path = edited(base, extra_layer("Twice", "lab", inner=inner, vocabulary="own.txt"))
    with pytest.raises(ModelError, match="asks to read the file '/etc/passwd'"):
        load_model(path, custom_objects={"Twice": Twice})


def test_a_lambda_layer_of_an_archive_is_replaced_by_a_layer(tmp_path: Path) -> None:
    model = keras.Sequential(
        [keras.Input((2,)), keras.layers.Lambda(lambda x: 3 * x, output_shape=(2,), name="triple")]
    )
    model.save(tmp_path / "model.keras")

    replaced = load_model(
        tmp_path / "model.keras", custom_objects={"triple": keras.layers.Rescaling(3.0)}
    )

    np.testing.assert_allclose(replaced(np.ones((1, 2))), [[3.0, 3.0]])
    assert replaced.layers[0].name == "triple"
    with pytest.raises(ModelError, match=r"custom_objects\['triple'\] is a function; a Lambda lay"):
        load_model(tmp_path / "model.keras", custom_objects={"triple": lambda x: 3 * x})


def test_training_settings_are_left_out_at_every_depth(base: Path) -> None:
    def trap(layers: list[dict[str, Any]]) -> None:
        layers[1]["compile_config"] = {"optimizer": function("os", "system")}

    assert not load_model(edited(base, trap)).compiled


@pytest.mark.parametrize(
    "function_name", ["io.write_file", "numpy_function", "py_function", "image.decode_image"]
)
def test_calls_into_tensorflow_pass_by_name_only(function_name: str) -> None:
    entry = {
        "class_name": "TFOpLambda",
        "name": "call",
        "config": {"name": "call", "function": function_name},
    }
    model = {"class_name": "Functional", "config": {"name": "m", "layers": [entry]}}

    with pytest.raises(
        ModelError,
        match=rf"Layer 'call' \(TFOpLambda\) of 'x.h5' calls TensorFlow's '{function_name}', for "
        r"which edgeprune knows no Keras counterpart.",
    ):
        rewrite_configuration(model, "x.h5", 2, {})


def test_the_marshalled_merge_of_keras_1_is_refused() -> None:
    merge = {
        "class_name": "Merge",
        "config": {"name": "join", "mode": "4w==", "mode_type": "lambda"},
    }

    with pytest.raises(ModelError, match=rf"Layer 'join' \(Merge\) of 'x.h5' {NEVER_RUNS}"):
        rewrite_configuration({"class_name": "Sequential", "config": [merge]}, "x.h5", 2, {})


def external_link(weights: h5py.Group) -> None:
    weights["0"] = h5py.ExternalLink("/etc/other.h5", "/a")


def soft_link(weights: h5py.Group) -> None:
    weights["0"] = h5py.SoftLink("/layers/dense/vars/1")


def external_data(weights: h5py.Group) -> None:
    weights.create_dataset("0", (4, 3), "f4", external=[("/etc/passwd", 0, 48)])


def virtual_data(weights: h5py.Group) -> None:
    layout = h5py.VirtualLayout((4, 3), "f4")
    layout[:] = h5py.VirtualSource("/etc/other.h5", "d", shape=(4, 3))
    weights.create_virtual_dataset("0", layout)


@pytest.mark.parametrize(
    ("plant", "target"),
    [
        (external_link, "/etc/other.h5"),
        (soft_link, "/layers/dense/vars/1"),
        (external_data, "/etc/passwd"),
        (virtual_data, "other files"),
    ],
)
def test_weights_outside_the_file_are_not_read(
    plant: Callable[[h5py.Group], None], target: str, base: Path
) -> None:
    content = io.BytesIO(zipfile.ZipFile(base).read("model.weights.h5"))
    with h5py.File(content, "r+") as file:
        del file["layers/dense/vars/0"]
        plant(file["layers/dense/vars"])

    with pytest.raises(
        ModelError,
        match=rf"'edited.keras' takes 'layers/dense/vars/0' from elsewhere \('{target}'\), which "
        r"edgeprune does not follow.",
    ):
        load_model(edited(base, **{"model.weights.h5": content.getvalue()}))


@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")
def test_a_link_in_place_of_all_weights_is_not_followed(tmp_path: Path) -> None:
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    for name in ("model.h5", "other.h5"):
        model.save(tmp_path / name)
    with h5py.File(tmp_path / "model.h5", "r+") as file:
        del file["model_weights"]
        file["model_weights"] = h5py.ExternalLink(str(tmp_path / "other.h5"), "/model_weights")

    with pytest.raises(ModelError, match=r"'model.h5' takes 'model_weights' from elsewhere \("):
        load_model(tmp_path / "model.h5")


def test_a_file_that_contains_itself_is_read_to_its_end(tmp_path: Path) -> None:
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    keras.saving.save_model(model, tmp_path / "model.h5")
    with h5py.File(tmp_path / "model.h5", "r+") as file:
        for name in "ab":
            file["model_weights"][name] = file["/"]

    x = np.ones((1, 4), "float32")
    np.testing.assert_array_equal(load_model(tmp_path / "model.h5")(x), model(x))


@pytest.mark.parametrize("name", ["../escape", "/absolute", "C:\\drive", "folder\\..\\..\\escape"])
def test_archives_that_point_outside_themselves_are_refused(name: str, base: Path) -> None:
    with pytest.raises(ModelError, match=r"which points outside the archive\."):
        load_model(edited(base, **{name: b"content"}))


def test_archives_with_files_for_layers_are_refused(base: Path) -> None:
    with pytest.raises(ModelError, match=r"holds files that its layers read \(assets: vocab"):
        load_model(edited(base, **{"assets/vocabulary.txt": b"content"}))


def test_pickled_arrays_are_not_read(base: Path) -> None:
    content = io.BytesIO()
    np.savez(content, layers=np.array([{"a": 1}], dtype=object), allow_pickle=True)
    members = {"model.weights.h5": None, "model.weights.npz": content.getvalue()}

    with pytest.raises(ModelError, match=r"Keras cannot load the weights in 'edited.keras'"):
        load_model(edited(base, **members))


def _nested(depth: int) -> Iterator[Any]:
    value: Any = {"class_name": "Lambda", "config": {"name": "deep"}}
    for _ in range(depth):
        value = [{"class_name": "Sequential", "config": {"name": "s", "layers": value}}]
    yield value[0] if depth else value


@pytest.mark.parametrize("depth", [0, 1, 7])
def test_code_is_found_at_every_depth(depth: int) -> None:
    (config,) = _nested(depth)

    with pytest.raises(ModelError, match=r"Layer 'deep' \(Lambda\)"):
        rewrite_configuration({"class_name": "Sequential", "config": [config]}, "x.h5", 2, {})


def test_a_module_that_an_old_configuration_names_is_not_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """tf_keras imports what a function or a value names, in a process of its own."""
    (tmp_path / "planted.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    for name in ("random.py", "numpy.py", "tf_keras.py"):
        (tmp_path / name).write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    monkeypatch.chdir(tmp_path)
    old = tf_keras.Sequential([tf_keras.Input((4,)), tf_keras.layers.Dense(3, activation="relu")])
    old.save("old.h5")
    assert np.isfinite(load_model("old.h5")(np.ones((1, 4), "float32"))).all()
    assert not (tmp_path / "ran").exists(), "the working folder is on the path of a process"
    monkeypatch.setenv("PYTHONPATH", f".{os.pathsep}{os.environ.get('PYTHONPATH', '')}{os.pathsep}")
    load_model("old.h5")
    assert not (tmp_path / "ran").exists(), "a relative entry of PYTHONPATH is on its path"
    value = {"class_name": "TensorShape", "module": "planted", "items": [4]}
    for planted in (function("planted", "relu"), value):
        with h5py.File("old.h5", "r+") as file:
            config = json.loads(file.attrs["model_config"])
            config["config"]["layers"][1]["config"]["activation"] = planted
            file.attrs["model_config"] = json.dumps(config)
        with pytest.raises(ModelError, match=r"planted|cannot be rebuilt"):
            load_model("old.h5")
        assert not (tmp_path / "ran").exists()
