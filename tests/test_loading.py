from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import pytest
from keras import ops

from edgeprune.errors import ModelError
from edgeprune.loading import load_model


def small_model() -> keras.Model:
    x = keras.Input((8, 8, 3), name="image")
    y = keras.layers.Conv2D(4, 3, name="convolution")(x)
    y = keras.layers.BatchNormalization(name="norm")(y)
    y = keras.layers.GlobalAveragePooling2D(name="pool")(ops.relu(y * 2 + 1))
    return keras.Model(x, keras.layers.Dense(2, name="head")(y), name="small")


@pytest.fixture
def model() -> keras.Model:
    return small_model()


def assert_same(first: keras.Model, second: keras.Model) -> None:
    x = np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype("float32")
    np.testing.assert_array_equal(first(x), second(x))
    assert [layer.name for layer in first.layers] == [layer.name for layer in second.layers]
    assert first.inputs[0].name == second.inputs[0].name


def refusal(*arguments: Any, **keywords: Any) -> str:
    with pytest.raises(ModelError) as caught:
        load_model(*arguments, **keywords)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_a_keras_model_passes_through_untouched(model: keras.Model) -> None:
    assert load_model(model) is model


@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")
@pytest.mark.parametrize("suffix", ["keras", "h5", "hdf5"])
def test_files_of_keras_3_open_with_their_names(
    suffix: str, model: keras.Model, tmp_path: Path
) -> None:
    model.compile("adam", "mse")
    model.save(tmp_path / f"model.{suffix}")

    opened = load_model(tmp_path / f"model.{suffix}")

    assert_same(opened, model)
    assert not opened.compiled


def test_the_contents_count_not_the_name(model: keras.Model, tmp_path: Path) -> None:
    model.save(tmp_path / "model.keras")
    os.rename(tmp_path / "model.keras", tmp_path / "archive.h5")
    model.save(tmp_path / "model.h5")
    os.rename(tmp_path / "model.h5", tmp_path / "hdf5.keras")

    assert_same(load_model(tmp_path / "archive.h5"), model)
    assert_same(load_model(str(tmp_path / "hdf5.keras")), model)


@pytest.mark.parametrize("weights", ["model.weights.h5", "plain.h5", "model.keras", "model.h5"])
def test_an_architecture_opens_with_weights_of_any_kind(
    weights: str, model: keras.Model, tmp_path: Path
) -> None:
    (tmp_path / "net.json").write_text(model.to_json())
    model.save(tmp_path / "model.keras")
    model.save(tmp_path / "model.h5")
    for name in ("plain.weights.h5", "model.weights.h5"):
        model.save_weights(tmp_path / name)
    os.rename(tmp_path / "plain.weights.h5", tmp_path / "plain.h5")

    assert_same(load_model(tmp_path / "net.json", weights=tmp_path / weights), model)


def test_weights_replace_those_of_a_whole_model(model: keras.Model, tmp_path: Path) -> None:
    model.save(tmp_path / "model.keras")
    model.set_weights([weight + 0.5 for weight in model.get_weights()])
    model.save_weights(tmp_path / "later.weights.h5")

    assert_same(load_model(tmp_path / "model.keras", weights=tmp_path / "later.weights.h5"), model)


@keras.saving.register_keras_serializable("tests")
class Subclassed(keras.Model):
    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.convolution = keras.layers.Conv2D(4, 3, name="convolution")
        self.drop = keras.layers.Dropout(0.5)
        self.head = keras.layers.Dense(2, name="head")

    def call(self, x: Any, training: bool | None = None) -> Any:
        features = self.drop(self.convolution(x), training=training)
        return self.head(ops.mean(features, axis=(1, 2)))


class Branching(Subclassed):
    def call(self, x: Any) -> Any:
        pool = ops.mean if float(ops.sum(x)) > 0 else ops.max
        return self.head(pool(self.convolution(x), axis=(1, 2)))


class WithSpareLayer(Subclassed):
    def build(self, shape: Any) -> None:
        self.spare = keras.layers.Dense(3)
        self.spare.build((None, 5))


def test_a_subclassed_model_is_traced_into_its_graph(tmp_path: Path) -> None:
    model = Subclassed(name="mine")
    x = np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype("float32")
    expected = model(x)
    model.save(tmp_path / "model.keras")

    for graph in (load_model(model), load_model(tmp_path / "model.keras")):
        assert [layer.name for layer in graph.layers if layer.weights] == ["convolution", "head"]
        np.testing.assert_array_equal(graph(x), expected)
    assert load_model(model).name == "mine"


class Counting(Subclassed):
    calls = 0

    def call(self, x: Any) -> Any:
        self.calls += 1
        return self.calls * super().call(x)


def test_a_graph_that_computes_something_else_is_refused() -> None:
    model = Counting()
    model(np.ones((1, 8, 8, 3), "float32"))

    assert re.match(
        rf"Model '{model.name}' \(Counting\) is written as a class; the graph of its layers "
        r"differs from it by \d.\de[+-]\d\d of the largest output \(allowed: 1e-05\), so its "
        r"call\(\) does "
        r"more than the graph shows\. Build keras\.Model\(inputs, outputs\) from",
        refusal(model),
    )


def test_what_cannot_be_traced_says_how_to_get_a_graph() -> None:
    model = Branching()
    model(np.ones((1, 8, 8, 3), "float32"))
    way_out = (
        "Build keras.Model(inputs, outputs) from keras.Input and its layers, copy the weights with "
        "set_weights(model.get_weights()), and give that model."
    )
    assert re.fullmatch(
        rf"Model '{model.name}' \(Branching\) is written as a class whose call\(\) cannot be "
        rf"followed with symbolic inputs: .+\. {re.escape(way_out)}",
        refusal(model),
    )
    model = WithSpareLayer()
    model(np.ones((1, 8, 8, 3), "float32"))
    assert refusal(model) == (
        f"Model '{model.name}' (WithSpareLayer) is written as a class with weights (2) that the "
        f"graph of its layers does not reach. {way_out}"
    )


@pytest.mark.parametrize("make", [Subclassed, lambda: keras.Sequential([keras.layers.Dense(1)])])
def test_models_without_an_input_shape_are_refused(make: Any) -> None:
    model = make()

    assert refusal(model) == (
        f"Model '{model.name}' ({type(model).__name__}) has no input shape yet, so its layers have "
        "no weights. Call it once on a sample, or begin it with keras.Input(shape)."
    )


def test_other_objects_are_no_models() -> None:
    assert refusal(3) == (
        "load_model() takes the path of a model or a Keras model; it got builtins.int."
    )
    assert refusal(small_model(), weights="x.h5") == (
        "'weights' goes with the path of an architecture, not with a model."
    )


EXPECTED = "expected a Keras model: .keras, .h5, .hdf5, architecture .json or a SavedModel folder."


@pytest.mark.parametrize(
    ("name", "content", "description"),
    [
        ("model.h5", b"just some text", "text"),
        ("model.h5", b"\x89PNG\r\n\x1a\n\0\0\0", "a PNG image"),
        ("model.keras", b"\xff\xd8\xff\xe0", "a JPEG image"),
        ("model.h5", b"\x00\x01\x02\x03", "binary data of an unknown kind"),
        ("model.h5", b"<!DOCTYPE html>", "an HTML or XML page; was the download successful?"),
        ("model.h5", b"\x80\x04\x95", "a Python pickle, which is code and is never opened"),
        (
            "model.h5",
            b"version https://git-lfs.github.com/spec/v1",
            "a Git LFS pointer; fetch the file itself with git lfs pull",
        ),
        ("model.onnx", b"\x08\x07", "an ONNX model"),
        ("model.pth", b"\x80\x02", "a PyTorch model"),
        ("model.pb", b"\x0a\x0b", "a frozen TensorFlow graph, which has no layers left"),
    ],
)
def test_other_files_are_told_by_their_contents(
    name: str, content: bytes, description: str, tmp_path: Path
) -> None:
    path = tmp_path / name
    path.write_bytes(content)

    assert refusal(path) == f"'{path}' is not a Keras model: it is {description}; {EXPECTED}"


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.h5").touch()
    assert refusal(tmp_path / "model.h5") == f"'{tmp_path / 'model.h5'}' is empty; {EXPECTED}"


def test_a_missing_path_suggests_names_that_are_there(model: keras.Model, tmp_path: Path) -> None:
    model.save(tmp_path / "resnet.keras")
    model.save(tmp_path / "mobile.keras")

    assert refusal(tmp_path / "resnett.keras") == (
        f"There is no model at '{tmp_path / 'resnett.keras'}'. Did you mean 'resnet.keras'?"
    )
    assert refusal(tmp_path / "resnet.h5").endswith("Did you mean 'resnet.keras'?")
    assert refusal(tmp_path / "x").endswith("The folder holds 'mobile.keras' or 'resnet.keras'.")
    assert refusal(tmp_path / "no" / "x.h5").endswith(f"'{tmp_path / 'no'}' does not exist either.")


def test_a_tflite_file_is_not_the_model_it_came_from(tmp_path: Path) -> None:
    for name in ("model.tflite", "model.h5"):
        (tmp_path / name).write_bytes(b"\x1c\0\0\0TFL3\0\0")
        assert refusal(tmp_path / name) == (
            f"'{tmp_path / name}' is a .tflite file, in which layers are fused and weights frozen; "
            "give the Keras model it was converted from."
        )


def test_damaged_files_are_told_from_wrong_ones(model: keras.Model, tmp_path: Path) -> None:
    for name in ("model.keras", "model.h5"):
        model.save(tmp_path / name)
        content = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(content[: len(content) // 2])

    assert re.search(
        r"'.*model.keras' is a damaged archive: it starts as a .keras file but its end is missing "
        r"after [\d,]+ bytes. Copy or download it again.",
        refusal(tmp_path / "model.keras"),
    )
    assert re.search(
        r"'.*model.h5' is a damaged HDF5 file \([\d,]+ bytes are there\): .*truncated file.* Copy "
        r"or download it again.",
        refusal(tmp_path / "model.h5"),
    )


def test_other_archives_are_refused(tmp_path: Path) -> None:
    import zipfile

    for member, description in (
        ("archive/data.pkl", "a PyTorch model"),
        ("readme.txt", "a zip archive without the config.json of a Keras model"),
    ):
        with zipfile.ZipFile(tmp_path / "model.keras", "w") as archive:
            archive.writestr(member, b"content")
        assert f"it is {description};" in refusal(tmp_path / "model.keras")


def test_a_folder_that_is_no_saved_model_lists_the_models_in_it(
    model: keras.Model, tmp_path: Path
) -> None:
    text = f"'{tmp_path}' is a folder without saved_model.pb, so it is no SavedModel; {EXPECTED}"
    assert refusal(tmp_path) == text
    model.save(tmp_path / "model.keras")
    assert refusal(tmp_path) == f"{text} It holds 'model.keras': give one of them."


@pytest.mark.parametrize(
    "given", ["net", "net.index", "net.data-00000-of-00001", "checkpoint", "."]
)
def test_a_checkpoint_has_no_architecture(given: str, tmp_path: Path) -> None:
    for name in ("net.index", "net.data-00000-of-00001", "checkpoint"):
        (tmp_path / name).write_bytes(b"content")

    assert refusal(tmp_path / given) == (
        f"'{tmp_path / given}' is a TensorFlow checkpoint: weights without an architecture. Build "
        "the model in the program that made it, load the checkpoint there with "
        "model.load_weights(...), then save the Keras model with model.save('model.keras') in the "
        "program that made it."
    )


def test_weights_alone_ask_for_the_architecture(model: keras.Model, tmp_path: Path) -> None:
    weights, architecture = tmp_path / "net.weights.h5", tmp_path / "net.json"
    model.save_weights(weights)
    expected = (
        f"'{weights}' holds only weights, without an architecture. Give the architecture too, as "
        f"model.to_json() writes it: load_model('{architecture}', weights='{weights}')."
    )

    assert refusal(weights) == expected
    architecture.write_text(model.to_json())
    assert refusal(weights) == expected
    assert refusal(architecture) == (
        f"'{architecture}' is an architecture without weights. Give them too: "
        f"load_model('{architecture}', weights='{weights}')."
    )


def test_hdf5_files_of_other_programs_are_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "table.h5", "w") as file:
        file["table"] = np.zeros(3)

    assert re.search(
        r"'.*table.h5' is an HDF5 file but not a Keras model: it has no model_config and no layers",
        refusal(tmp_path / "table.h5"),
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"answer": 42}', "is JSON but not the architecture of a Keras model, as model.to_json"),
        ('{"class_name": "Model", "conf', "holds a configuration that is no valid JSON: Untermin"),
        ("[" * 100_000, "it is text"),
        ('{"class_name":' + "[" * 100_000, "holds a configuration that is no valid JSON: maximum"),
        ('{"modelTopology": {}}', "is a TensorFlow.js model; convert it first: tensorflowjs_conv"),
    ],
)
def test_other_json_is_refused(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "net.json").write_text(text)

    assert message in refusal(tmp_path / "net.json", weights=tmp_path / "net.json")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_no_numbers_are_named(
    value: float, model: keras.Model, tmp_path: Path
) -> None:
    layer = model.get_layer("convolution")
    kernel, bias = layer.get_weights()
    kernel[0, 0, 0, :2] = value
    layer.set_weights([kernel, bias])
    model.save(tmp_path / "model.keras")

    expected = (
        "Weight 'kernel' of layer 'convolution' in '{}' has 2 values out of 108 that are NaN or "
        "infinite: training diverged or the file is damaged. Give an earlier checkpoint."
    )
    assert refusal(tmp_path / "model.keras") == expected.format("model.keras")
    assert refusal(model) == expected.format("small")


def test_a_saved_model_takes_no_other_weights(tmp_path: Path) -> None:
    (tmp_path / "saved_model.pb").touch()

    assert refusal(tmp_path, weights="net.h5") == (
        f"'{tmp_path}' is a SavedModel and holds its own weights; give it alone."
    )


@pytest.mark.parametrize(
    ("values", "expected", "difference"),
    [
        ([1.0, 4.1], [1.0, 4.0], 0.025),
        ([0.0, 0.5], [0.0, 0.0], 0.5),
        ([np.nan, 2.2], [np.nan, 2.0], 0.1),
        ([np.nan, 2.0], [1.0, 2.0], np.inf),
        ([np.inf], [np.nan], 0.0),
        ([1.0], [1.0, 2.0], np.inf),
    ],
)
def test_differences_are_relative_to_the_largest_value(
    values: list[float], expected: list[float], difference: float
) -> None:
    from edgeprune.loading.comparisons import relative_difference

    found = relative_difference(np.array(values), np.array(expected))

    assert found == pytest.approx(difference)


def test_weights_of_another_model_are_refused(model: keras.Model, tmp_path: Path) -> None:
    (tmp_path / "net.json").write_text(model.to_json())
    other = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    other.save_weights(tmp_path / "other.weights.h5")

    assert refusal(tmp_path / "net.json", weights=tmp_path / "other.weights.h5").startswith(
        "Keras cannot load the weights in 'other.weights.h5': "
    )


@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")
def test_models_trained_with_theano_are_refused(model: keras.Model, tmp_path: Path) -> None:
    model.save(tmp_path / "model.h5")
    with h5py.File(tmp_path / "model.h5", "r+") as file:
        file.attrs["backend"] = "theano"

    assert "was trained with Theano, which stores convolution kernels flipped" in refusal(
        tmp_path / "model.h5"
    )


def test_remarks_of_keras_are_silenced_and_other_warnings_are_not(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    class Talkative(keras.layers.Layer):
        @classmethod
        def from_config(cls, config: dict[str, Any]) -> Any:
            warnings.warn("said by the user's layer", stacklevel=1)
            logging.getLogger("tensorflow").warning("said by TensorFlow")
            os.write(2, b"said by C++\n")
            return super().from_config(config)

        def call(self, x: Any) -> Any:
            return x

    model = keras.Sequential([keras.Input((2,)), Talkative(), keras.layers.Dense(1)])
    model.save(tmp_path / "model.keras")
    filters, level = list(warnings.filters), logging.getLogger("tensorflow").level

    with pytest.warns(UserWarning, match="said by the user's layer") as seen:
        load_model(tmp_path / "model.keras", custom_objects={"Talkative": Talkative})

    assert len(seen) == 1
    assert "said by" not in capfd.readouterr().err
    assert (warnings.filters, logging.getLogger("tensorflow").level) == (filters, level)


def test_importing_the_package_loads_no_framework() -> None:
    code = (
        "import sys, edgeprune.loading, edgeprune.loading.legacy_worker;"
        "print({'keras', 'tensorflow', 'tf_keras'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
