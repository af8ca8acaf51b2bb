"""What the user says about a model file besides its path: sizes of the input, code of their own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tf_keras
from keras import layers, ops
from specialists import run_command

from edgeprune.errors import ModelError
from edgeprune.loading import ModelFile, load_model


def convolutional(*shape: int | None, form: str = "functional") -> keras.Model:
    """Of a fixed batch, or open sizes; nested, and called at two sizes, where that is asked for."""
    x = keras.Input(batch_shape=shape, name="image")
    y = layers.BatchNormalization()(layers.Conv2D(16, 3, activation="relu")(x))
    if form != "functional":
        a = keras.Input((None, None, 16))
        inner = keras.Model(a, layers.GlobalAveragePooling2D()(layers.Conv2D(8, 3)(a)))
        y = layers.Add()(
            [inner(y), inner(layers.MaxPooling2D()(y))] if form == "twice" else [inner(y)] * 2
        )
    else:
        y = layers.GlobalAveragePooling2D()(layers.Conv2D(8, 3)(y))
    model = keras.Model(x, layers.Dense(3, activation="softmax")(y), name="net")
    random = np.random.default_rng(1)
    model.set_weights([random.uniform(0.1, 1, w.shape) for w in model.get_weights()])
    return model


@pytest.mark.parametrize("form", ["functional", "nested", "twice"])
@pytest.mark.parametrize("shape", [(4, 12, 12, 1), (None, None, None, 1), (8, None, 12, 1)])
def test_a_fixed_batch_is_opened_and_open_sizes_are_set(shape: Any, form: str) -> None:
    original = convolutional(*shape, form=form)
    size = (12, 12)

    model = load_model(original, input_size=size)

    assert model.inputs[0].shape == (None, 12, 12, 1)
    assert (model.inputs[0].name, model.name) == (original.inputs[0].name, original.name)
    x = np.random.default_rng(0).random((8, 12, 12, 1), "float32")
    expected = original.predict(x, verbose=0, batch_size=shape[0] or 8)
    np.testing.assert_allclose(model(x), expected, atol=1e-6)
    assert original.inputs[0].shape == shape


def test_a_file_with_a_fixed_batch_is_opened_for_any(tmp_path: Path) -> None:
    convolutional(4, 12, 12, 1).save(tmp_path / "net.keras")
    assert load_model(tmp_path / "net.keras").inputs[0].shape == (None, 12, 12, 1)
    convolutional(1, 12, 12, 1).save(tmp_path / "one.keras")
    assert load_model(tmp_path / "one.keras").inputs[0].shape == (1, 12, 12, 1)


def mixing(x: Any) -> Any:
    return ops.mean(ops.reshape(x, (4, -1, 2)), axis=1)  # right for four samples only


def rolling(x: Any) -> Any:
    return ops.mean(x + ops.roll(x, 1, axis=0), axis=(1, 2))  # mixes the samples of a batch


@pytest.mark.parametrize("function", [mixing, rolling])
def test_a_model_that_needs_its_batch_keeps_it(function: Any, tmp_path: Path) -> None:
    x = keras.Input(batch_shape=(4, 6, 6, 2))
    keras.Model(x, layers.Dense(2)(function(x))).save(tmp_path / "net.keras")
    assert load_model(tmp_path / "net.keras").inputs[0].shape == (4, 6, 6, 2)
    with pytest.raises(ModelError, match=r"cannot be rebuilt for inputs of shape \(None, 6, 6, 2"):
        load_model(tmp_path / "net.keras", input_size=(6, 6))


def test_a_state_between_batches_needs_its_batch(tmp_path: Path) -> None:
    x = keras.Input(batch_shape=(4, 5, 3))
    keras.Model(x, layers.LSTM(4, stateful=True)(x)).save(tmp_path / "net.keras")
    assert load_model(tmp_path / "net.keras").inputs[0].shape == (4, 5, 3)
    with pytest.raises(ModelError, match="one of its layers keeps a state between batches"):
        load_model(tmp_path / "net.keras", input_size=(5,))


@pytest.mark.parametrize(
    ("shape", "size", "message"),
    [
        ((None, 12, 12, 1), (16, 16), "16x16 differs from the size that .* trained with, 12x12"),
        ((None, None, 12, 1), (12, 16), "12x16 differs from the size .* with, anyx12. Leave it"),
        ((None, None, None, 1), (16,), r"--input-size 16 does not fit .* expected 2 sizes between"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(shape: Any, size: Any, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        load_model(convolutional(*shape), input_size=size)


def test_an_input_without_open_sizes_stays_beside_one_with() -> None:
    image, numbers = keras.Input((None, None, 3), name="image"), keras.Input((5,), name="numbers")
    y = layers.GlobalAveragePooling2D()(layers.Conv2D(4, 3)(image))
    original = keras.Model([image, numbers], layers.Dense(2)(layers.Concatenate()([y, numbers])))
    model = load_model(original, input_size=(9, 8))
    assert [tuple(x.shape) for x in model.inputs] == [(None, 9, 8, 3), (None, 5)]


def test_a_length_of_a_sequence_and_an_old_file(tmp_path: Path) -> None:
    x = tf_keras.Input((None, 4))
    y = tf_keras.layers.GlobalMaxPooling1D()(tf_keras.layers.Conv1D(3, 3)(x))
    old = tf_keras.Model(x, tf_keras.layers.Dense(2)(y))
    old.save(tmp_path / "old.h5")

    model = load_model(ModelFile(tmp_path / "old.h5", input_size=(20,)))

    samples = np.random.default_rng(0).random((3, 20, 4), "float32")
    assert model.inputs[0].shape == (None, 20, 4)
    np.testing.assert_allclose(model(samples), old(samples), atol=1e-6)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    convolutional(None, None, None, 1).save("open.keras")
    convolutional(4, 12, 12, 1).save("four.keras")
    x = np.random.default_rng(0).random((60, 12, 12, 1), "float32")
    np.savez("data.npz", x=x, y=np.arange(60) % 3)
    return tmp_path


def test_every_command_takes_the_size(place: Path) -> None:
    answer = run_command("inspect", "open.keras", "--json")
    assert json.loads(answer.out)["macs"] is None
    answer = run_command("inspect", "open.keras", "--input-size", "12x12", "--json")
    macs = 10 * 10 * 16 * 9 + 8 * 8 * 8 * 16 * 9 + 8 * 3
    assert json.loads(answer.out)["macs"] == macs
    words = ["--input-size", "12x12", "--quiet"]
    assert run_command("convert", "open.keras", "--data", "data.npz", *words).code == 0
    pruning = ["--data", "data.npz", "--recovery", "none", "--recalibrate", "off"]
    assert run_command("prune", "open.keras", *pruning, *words, "--out", "s.keras").code == 0
    assert keras.models.load_model("s.keras").inputs[0].shape == (None, 12, 12, 1)
    assert run_command("build", "four.keras", *pruning, "--no-bench", *words).code == 0
    assert run_command("convert", "four.keras", "--quantize", "float32", "--quiet").code == 0
    for wrong in ("12", "12x", "0x12", "12x12x12", "-3x4", "axb", "\u0661\u0662x9"):
        answer = run_command("inspect", "open.keras", "--input-size", wrong)
        assert answer.code == 2 and len(answer.error.strip().splitlines()) == 1, answer


OWN = """
import keras

@keras.saving.register_keras_serializable("lab")
class Registered(keras.layers.Layer):
    def call(self, x):
        return x + 3

class Twice(keras.layers.Layer):
    def call(self, x):
        return 2 * x

def bent(x):
    return keras.ops.relu(x) * 0.5

class Triple(keras.layers.Layer):
    def call(self, x):
        return 3 * x
number = 3
"""


def test_code_of_the_users_own_is_imported_because_the_user_names_it(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (place / "own_layers.py").write_text(OWN)
    monkeypatch.syspath_prepend(place)
    import own_layers  # type: ignore[import-not-found]

    def build(kit: Any, *extra: Any) -> Any:
        x = kit.Input((6,))
        y = kit.layers.Dense(8, activation=own_layers.bent)(x)
        for layer in extra:
            y = layer(y)
        return kit.Model(x, kit.layers.Dense(3)(y))

    build(keras, own_layers.Twice(), own_layers.Registered()).save("own.keras")
    build(tf_keras).save("own.h5")
    layer = keras.layers.Lambda(lambda x: 3 * x, output_shape=(8,), name="triple")
    build(keras, layer).save("lambda.keras")
    bent = ["--custom", "own_layers:bent"]
    twice = ["--custom", "own_layers:Twice"]
    for name, words in [
        ("own.keras", [*bent, *twice, "--custom", "lab>Registered=own_layers:Registered"]),
        ("own.h5", bent),
    ]:
        answer = run_command("inspect", name, *words, "--json")
        assert answer.code == 0, answer.error
    answer = run_command("inspect", "own.keras", *bent)
    assert "Hand it over, --custom module:Twice or load_model(" in answer.error
    answer = run_command("inspect", "lambda.keras", *bent)
    assert answer.code == 2 and "--custom triple=module:name" in answer.error
    for wrong, message in [
        ("own_layers:Twic", "'own_layers' has no function or class 'Twic'. Did you mean 'Twice'?"),
        ("own_layers:number", "'own_layers' has no function or class 'number'."),
        ("nowhere:X", "importing 'nowhere' failed (ModuleNotFoundError: No module named"),
        ("X", "expected module:Name, such as my_layers:Swish."),
    ]:
        answer = run_command("inspect", "own.keras", "--custom", wrong)
        assert answer.code == 2 and message in answer.error
        assert len(answer.error.strip().splitlines()) == 1


def third_party(kit: Any) -> dict[str, Any]:
    """What packages define, by the names that files have for it."""
    base = kit.layers

    class FixedDropout(base.Dropout):
        pass

    class Swish(base.Layer):
        def call(self, x: Any) -> Any:
            return x * kit.activations.sigmoid(x)

    class HSwish(base.Layer):
        def call(self, x: Any) -> Any:
            return x * kit.activations.relu(x + 3, max_value=6.0) / 6

    def hard_swish(x: Any) -> Any:
        return x * kit.activations.relu(x + 3, max_value=6.0) / 6

    class DropConnect(base.Layer):
        def __init__(self, drop_connect_rate: float = 0.0, **settings: Any) -> None:
            super().__init__(**settings)
            self.drop_connect_rate = drop_connect_rate

        def call(self, x: Any, training: Any = None) -> Any:
            return x

        def get_config(self) -> dict[str, Any]:
            return {**super().get_config(), "drop_connect_rate": self.drop_connect_rate}

    layers_of = [FixedDropout(0.3, noise_shape=(None, 1, 1, 1)), Swish(), HSwish()]
    return {"layers": [*layers_of, DropConnect(0.2)], "function": hard_swish}


@pytest.mark.parametrize("name", ["net.keras", "net.h5", "old.h5"])
def test_layers_of_common_packages_need_no_code(name: str, tmp_path: Path) -> None:
    kit = tf_keras if name.startswith("old") else keras
    made = third_party(kit)
    x = kit.Input((6, 6, 2))
    y = kit.layers.Conv2D(4, 3, activation=made["function"])(x)
    for layer in made["layers"]:
        y = layer(y)
    model = kit.Model(x, kit.layers.Dense(3)(kit.layers.Flatten()(y)))
    model.save(tmp_path / name)
    samples = np.random.default_rng(0).normal(size=(4, 6, 6, 2)).astype("float32") * 3

    opened = load_model(tmp_path / name)

    np.testing.assert_allclose(opened(samples), model(samples), atol=1e-5)
    assert {type(layer).__module__.split(".")[0] for layer in opened.layers} == {"keras"}


def test_a_variant_of_a_known_layer_is_not_taken_for_it(tmp_path: Path) -> None:
    class Swish(keras.layers.Layer):
        def __init__(self, beta: float = 2.0, **settings: Any) -> None:
            super().__init__(**settings)
            self.beta = beta

        def call(self, x: Any) -> Any:
            return x * ops.sigmoid(self.beta * x)

        def get_config(self) -> dict[str, Any]:
            return {**super().get_config(), "beta": self.beta}

    keras.Sequential([keras.Input((3,)), layers.Dense(2), Swish()]).save(tmp_path / "net.keras")
    with pytest.raises(ModelError, match="'Swish'"):
        load_model(tmp_path / "net.keras")
