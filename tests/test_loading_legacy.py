from __future__ import annotations

import atexit
import functools
import json
import logging
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from edgeprune.errors import ModelError
from edgeprune.loading import load_model
from edgeprune.loading.legacy_models import open_legacy
from edgeprune.loading.references import LegacyProcess, Reference
from edgeprune.loading.sources import read_source

L = tf_keras.layers


@functools.cache
def shared_process() -> LegacyProcess:
    """Start tf_keras once for all tests of old files: its import takes seconds."""
    process = LegacyProcess()
    atexit.register(process.__exit__, None, None, None)
    return process


@pytest.fixture
def legacy() -> LegacyProcess:
    return shared_process()


def opened(
    path: Path, legacy: Any, weights: Path | None = None, **custom_objects: Any
) -> keras.Model:
    return open_legacy(read_source(path, weights), custom_objects, legacy)


def randomised(model: Any) -> Any:
    generator = np.random.default_rng(1)
    for weight in model.weights:
        if not weight.dtype.is_floating:
            continue
        values = generator.normal(0, 0.4, weight.shape)
        weight.assign(np.abs(values) + 0.3 if "variance" in weight.name else values)
    return model


def samples_for(model: Any) -> list[np.ndarray]:
    generator = np.random.default_rng(2)
    return [
        generator.uniform(0, 1, (3, *(size or 24 for size in x.shape[1:]))).astype("float32")
        for x in model.inputs
    ]


def difference(model: keras.Model, expected: Any) -> float:
    """Largest difference of outputs on fresh samples, relative to the largest output."""
    samples = samples_for(expected)
    arguments = samples if len(samples) > 1 else samples[0]
    ours = keras.tree.flatten(model(arguments, training=False))
    theirs = tf.nest.flatten(expected(arguments, training=False))
    assert [tuple(x.shape) for x in ours] == [tuple(x.shape) for x in theirs]
    return max(
        float(np.max(np.abs(np.asarray(a) - np.asarray(b))) / np.max(np.abs(b)))
        for a, b in zip(ours, theirs, strict=True)
    )


def block(name: str, trainable: bool = True) -> Any:
    x = tf_keras.Input((8, 8, 3))
    y = L.BatchNormalization(name="norm")(L.Conv2D(3, 3, padding="same", name="conv")(x))
    model = tf_keras.Model(x, L.LeakyReLU(0.1)(y), name=name)
    model.trainable = trainable
    return model


def plain_layers() -> Any:
    return tf_keras.Sequential(
        [
            L.Conv2D(4, 3, input_shape=(8, 8, 3), activation=tf.nn.relu6, kernel_regularizer="l2"),
            L.SeparableConv2D(5, 3, depth_multiplier=2, activation="swish"),
            L.DepthwiseConv2D(3, dilation_rate=2, padding="same"),
            L.BatchNormalization(),
            L.Conv2DTranspose(3, 3, strides=2, padding="same"),
            L.UpSampling2D(2, interpolation="bilinear"),
            L.LayerNormalization(),
            L.PReLU(shared_axes=[1, 2]),
            L.ThresholdedReLU(0.2),
            L.SpatialDropout2D(0.2),
            L.Flatten(),
            L.Dense(3),
        ]
    )


def nested_shared_and_frozen_blocks() -> Any:
    left, right = tf_keras.Input((8, 8, 3), name="left"), tf_keras.Input((8, 8, 3), name="right")
    shared, frozen = block("shared_block"), block("frozen_block", trainable=False)
    convolution = L.Conv2D(3, 3, padding="same", name="shared_convolution")
    x = tf_keras.Input((8, 8, 3))
    partly_frozen = block("innermost", trainable=False)(L.Conv2D(3, 1)(x))
    two_outputs = tf_keras.Model(x, [L.Conv2D(4, 1)(partly_frozen), L.GlobalMaxPooling2D()(x)])
    total = L.Add()(
        [shared(left), shared(right), frozen(convolution(left)), convolution(convolution(right))]
    )
    features, maxima = two_outputs(total)
    features = L.GlobalAveragePooling2D()(features)
    return tf_keras.Model([left, right], [L.Dense(3)(features), L.Dense(2)(maxima)])


def recurrent_layers_with_the_old_hard_sigmoid() -> Any:
    frames = tf_keras.Input((4, 8, 8, 1))
    x = tf_keras.Input((8, 8, 1))
    encoder = tf_keras.Model(x, L.Flatten()(L.BatchNormalization()(L.Conv2D(2, 5)(x))))
    y = L.TimeDistributed(encoder)(frames)
    y = L.TimeDistributed(L.Dense(5, activation="hard_sigmoid"))(y)
    y = L.Bidirectional(L.LSTM(4, recurrent_activation="hard_sigmoid", return_sequences=True))(y)
    y = L.GRU(3, reset_after=False, recurrent_activation="hard_sigmoid", return_sequences=True)(y)
    y, state = L.GRU(3, recurrent_activation="hard_sigmoid", return_state=True)(y)
    return tf_keras.Model(frames, L.Activation("hard_sigmoid")(L.Dense(4)(y) + L.Dense(4)(state)))


def separable_layers_with_the_old_hard_sigmoid() -> Any:
    return tf_keras.Sequential(
        [
            L.SeparableConv2D(4, 3, activation="hard_sigmoid", input_shape=(8, 8, 3)),
            L.DepthwiseConv2D(3, activation="hard_sigmoid"),
            L.Activation("hard_sigmoid"),
            L.Flatten(),
            L.Dense(3),
        ]
    )


def calls_into_tensorflow() -> Any:
    x = tf_keras.Input((8, 8, 4))
    d = L.Conv2D(4, 3, padding="same", name="first/convolution")(x)
    d = L.Conv2D(4, 3, padding="same", name="first_convolution")(d)
    y = tf.nn.relu6(d + 3.0) * (1 / 6.0)
    y = (1.0 - y) * d + d / 2.0
    first, _ = tf.split(tf.concat([y, d], axis=-1), [3, 5], axis=-1)
    y = tf.image.resize(first, (16, 16))[:, ::2, 1:, :]
    y = tf.pad(y, [[0, 0], [1, 1], [0, 0], [0, 0]])
    y = tf.nn.l2_normalize(tf.reduce_mean(y, [1, 2], keepdims=True), -1)
    y = tf.reshape(tf.squeeze(tf.tile(y, [1, 2, 1, 1]), 2), (-1, 6))
    y = tf.transpose(tf.stack([y, tf.nn.softmax(y)], 1), [0, 2, 1])
    y = tf.matmul(y, tf.sqrt(tf.abs(-y) ** 2), transpose_b=True)
    y = tf.math.maximum(tf.clip_by_value(tf.cast(y, tf.float32), 0.0, 1.0), 0.1)
    return tf_keras.Model(x, tf.sigmoid(tf.math.add(y, y)))


def preprocessing_and_attention() -> Any:
    x = tf_keras.Input((None, None, 3))
    y = L.Rescaling(1 / 127.5, -1)(x)
    y = L.Resizing(24, 24)(y)
    y = L.Normalization()(y)
    y = L.RandomFlip()(L.GaussianNoise(0.1)(y))
    y = L.Reshape((9, 8))(L.Conv2D(8, 3, strides=8, padding="same")(y))
    y = L.MultiHeadAttention(2, 3)(y, y)
    y = L.SpatialDropout1D(0.2)(L.Conv1D(3, 1)(L.Permute((2, 1))(y)))
    return tf_keras.Model(x, L.Flatten()(L.Dot(axes=-1)([y, y])))


def initial_states() -> Any:
    x = tf_keras.Input((7, 2))
    sequence, *states = L.LSTM(4, return_state=True, return_sequences=True)(x)
    return tf_keras.Model(x, L.LSTM(4)(sequence, initial_state=states))


MODELS: list[Callable[[], Any]] = [
    plain_layers,
    nested_shared_and_frozen_blocks,
    recurrent_layers_with_the_old_hard_sigmoid,
    separable_layers_with_the_old_hard_sigmoid,
    calls_into_tensorflow,
    preprocessing_and_attention,
    initial_states,
]


@pytest.mark.parametrize("make", MODELS, ids=lambda make: make.__name__)
def test_a_file_of_keras_2_computes_the_same_in_keras_3(
    make: Callable[[], Any], tmp_path: Path, legacy: LegacyProcess
) -> None:
    path = tmp_path / "model.h5"
    randomised(make()).save(path)

    model = opened(path, legacy)

    assert difference(model, tf_keras.models.load_model(path)) < 1e-5
    assert not model.compiled


def test_an_opened_model_is_a_plain_keras_model(tmp_path: Path, legacy: LegacyProcess) -> None:
    randomised(calls_into_tensorflow()).save(tmp_path / "old.h5")
    model = opened(tmp_path / "old.h5", legacy)

    model.save(tmp_path / "new.keras")
    again = keras.models.load_model(tmp_path / "new.keras")

    sample = samples_for(model)[0]
    np.testing.assert_array_equal(again(sample), model(sample))


def test_names_are_kept_and_slashes_give_way_to_names_that_stay_unique(
    tmp_path: Path, legacy: LegacyProcess
) -> None:
    calls_into_tensorflow().save(tmp_path / "model.h5")

    names = [layer.name for layer in opened(tmp_path / "model.h5", legacy).layers]

    assert "first_convolution" in names
    assert "first_convolution_1" in names
    assert not [name for name in names if "/" in name]


def test_operations_do_not_take_the_names_of_layers(tmp_path: Path, legacy: LegacyProcess) -> None:
    x = tf_keras.Input((4,))
    y = tf.nn.relu(tf.math.add(L.Dense(3)(x), 1.0))
    tf_keras.Model(x, L.Add(name="add")([L.ReLU(name="relu")(y), y])).save(tmp_path / "model.h5")
    keras.backend.clear_session()  # the next operation is called "add", too

    names = [operation.name for operation in opened(tmp_path / "model.h5", legacy).operations]

    assert {"add", "relu"} < set(names)
    assert sum(name.startswith(("tf.math.add", "tf.nn.relu")) for name in names) == 2


def test_inputs_and_outputs_keep_their_names(tmp_path: Path, legacy: LegacyProcess) -> None:
    original = nested_shared_and_frozen_blocks()
    original.save(tmp_path / "model.h5")

    model = opened(tmp_path / "model.h5", legacy)

    assert [x.name for x in model.inputs] == ["left", "right"]
    assert model.output_names == original.output_names
    assert [layer.name for layer in model.layers] == [layer.name for layer in original.layers]


def saved_model(model: Any, folder: Path) -> tuple[Path, None]:
    model.save(folder / "saved")
    return folder / "saved", None


def archive(model: Any, folder: Path) -> tuple[Path, None]:
    model.save(folder / "model.keras")
    return folder / "model.keras", None


def compiled_archive(model: Any, folder: Path) -> tuple[Path, None]:
    model.compile("adam", loss="mse", metrics=[lambda truth, found: found])
    return archive(model, folder)


def misnamed_hdf5(model: Any, folder: Path) -> tuple[Path, None]:
    model.save(folder / "model.h5")
    return (folder / "model.h5").rename(folder / "model.keras"), None


def architecture_and_hdf5(model: Any, folder: Path) -> tuple[Path, Path]:
    (folder / "model.json").write_text(model.to_json())
    model.save_weights(folder / "weights.h5")
    return folder / "model.json", folder / "weights.h5"


def twice_encoded_architecture_and_whole_model(model: Any, folder: Path) -> tuple[Path, Path]:
    (folder / "model.json").write_text(json.dumps(model.to_json()))
    model.save(folder / "model.h5")
    return folder / "model.json", folder / "model.h5"


def architecture_and_weights_store(model: Any, folder: Path) -> tuple[Path, Path]:
    (folder / "model.json").write_text(model.to_json())
    model.save_weights(folder / "model.weights.h5")
    return folder / "model.json", folder / "model.weights.h5"


def architecture_and_misnamed_hdf5(model: Any, folder: Path) -> tuple[Path, Path]:
    path, weights = architecture_and_hdf5(model, folder)
    return path, weights.rename(folder / "model.weights.h5")


def architecture_and_checkpoint(model: Any, folder: Path) -> tuple[Path, Path]:
    (folder / "model.json").write_text(model.to_json())
    model.save_weights(folder / "checkpoint_of_model")
    return folder / "model.json", folder / "checkpoint_of_model"


CONTAINERS = [
    saved_model,
    archive,
    compiled_archive,
    misnamed_hdf5,
    architecture_and_hdf5,
    twice_encoded_architecture_and_whole_model,
    architecture_and_weights_store,
    architecture_and_misnamed_hdf5,
    architecture_and_checkpoint,
]


@pytest.mark.parametrize("save", CONTAINERS, ids=lambda save: save.__name__)
@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")
def test_every_container_of_keras_2_opens(
    save: Callable[[Any, Path], Any], tmp_path: Path, legacy: LegacyProcess
) -> None:
    original = randomised(plain_layers())
    path, weights = save(original, tmp_path)

    assert difference(opened(path, legacy, weights), original) < 1e-5


def test_a_model_of_tf_keras_is_taken_from_memory() -> None:
    original = randomised(nested_shared_and_frozen_blocks())

    model = load_model(original)

    assert isinstance(model, keras.Model)
    assert difference(model, original) < 1e-5


def rewritten(path: Path, change: Callable[[dict[str, Any]], Any]) -> Path:
    """Change the configuration inside an HDF5 file."""
    with h5py.File(path, "r+") as file:
        config = json.loads(file.attrs["model_config"])
        file.attrs["model_config"] = json.dumps(change(config) or config)
    return path


def test_a_sequential_model_in_list_form_and_without_input_opens(
    tmp_path: Path, legacy: LegacyProcess
) -> None:
    original = randomised(plain_layers())
    original.save(tmp_path / "model.h5")

    def as_keras_2_0(config: dict[str, Any]) -> dict[str, Any]:
        layers = config["config"]["layers"][1:]
        layers[0]["config"]["batch_input_shape"] = [None, 8, 8, 3]
        return {**config, "config": layers}

    model = opened(rewritten(tmp_path / "model.h5", as_keras_2_0), legacy)

    assert difference(model, original) < 1e-5
    assert model.inputs[0].name == f"{model.layers[0].name}_input"


def test_without_tf_keras_a_file_opens_and_the_user_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class WithoutTfKeras:
        def open(self, *_: Any, **__: Any) -> Reference:
            return Reference(problem="No module named 'tf_keras'")

    original = randomised(plain_layers())
    original.save(tmp_path / "model.h5")

    with caplog.at_level(logging.WARNING, logger="edgeprune"):
        model = opened(tmp_path / "model.h5", WithoutTfKeras())

    assert difference(model, original) < 1e-5
    assert caplog.messages[-1] == (
        "'model.h5' was opened but could not be compared with tf_keras: No module named 'tf_keras'."
    )


def test_a_custom_layer_opens_with_the_class_the_user_hands_over(
    tmp_path: Path, legacy: LegacyProcess
) -> None:
    class Twice(tf_keras.layers.Layer):
        def call(self, x: Any) -> Any:
            return 2 * x

    class TwiceInKeras3(keras.layers.Layer):
        def call(self, x: Any) -> Any:
            return 2 * x

    original = tf_keras.Sequential([L.Dense(3, input_shape=(4,)), Twice(), L.Dense(2)])
    randomised(original).save(tmp_path / "model.h5")

    assert difference(opened(tmp_path / "model.h5", legacy, Twice=TwiceInKeras3), original) < 1e-5


@pytest.mark.parametrize(
    "replacement", [keras.layers.Rescaling(3.0), lambda x: 3.0 * x], ids=["layer", "function"]
)
def test_a_lambda_layer_is_replaced_by_what_the_user_says(
    replacement: Any, tmp_path: Path, legacy: LegacyProcess
) -> None:
    x = tf_keras.Input((4,))
    triple = L.Lambda(lambda x: 3.0 * x, name="triple")
    original = randomised(tf_keras.Model(x, triple(L.Dense(3)(x))))
    original.save(tmp_path / "model.h5")

    assert difference(opened(tmp_path / "model.h5", legacy, triple=replacement), original) < 1e-5


def test_a_saved_model_for_inference_is_refused(tmp_path: Path, legacy: LegacyProcess) -> None:
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.export(tmp_path / "exported", verbose=False)

    with pytest.raises(
        ModelError,
        match=r"exported' is a SavedModel that was exported for inference: a graph without the "
        r"layers of a Keras model. To get one, save the Keras model with "
        r"model.save\('model.keras'\) in the program that made it.",
    ):
        opened(tmp_path / "exported", legacy)


class Subclassed(tf_keras.Model):
    def __init__(self) -> None:
        super().__init__()
        self.head = L.Dense(2)

    def call(self, x: Any) -> Any:
        return self.head(x)


def test_a_subclassed_saved_model_is_refused(tmp_path: Path, legacy: LegacyProcess) -> None:
    model = Subclassed()
    model(np.zeros((1, 3), "float32"))
    model.save(tmp_path / "saved")

    with pytest.raises(
        ModelError,
        match=r"saved' is a model written as a class \('Subclassed'\), which does not say what it "
        r"computes. In the program that made it, build Model\(inputs, outputs\) from Input and its "
        r"layers, and give that model.",
    ):
        opened(tmp_path / "saved", legacy)


def test_a_subclassed_model_of_tf_keras_is_refused() -> None:
    model = Subclassed()
    model(np.zeros((1, 3), "float32"))

    with pytest.raises(ModelError, match=r"of tf_keras is a model written as a class \('Subcl"):
        load_model(model)


def test_weights_of_another_model_are_refused(tmp_path: Path, legacy: LegacyProcess) -> None:
    x = tf_keras.Input((4,))
    (tmp_path / "net.json").write_text(tf_keras.Model(x, L.Dense(3, name="head")(x)).to_json())
    x = tf_keras.Input((5,))
    other = tf_keras.Model(x, L.Dense(3, name="head")(x))
    other.save_weights(tmp_path / "other.h5")
    two = tf_keras.Model(x, L.Dense(3)(L.Dense(3)(x)))
    two.save_weights(tmp_path / "two.h5")

    with pytest.raises(
        ModelError,
        match=r"The weights of layer 'head' \(Dense\) have the shapes \(5, 3\), \(3,\), the "
        r"architecture needs \(4, 3\), \(3,\): they belong to different models.",
    ):
        opened(tmp_path / "net.json", legacy, tmp_path / "other.h5")
    with pytest.raises(ModelError, match="The architecture has 1 layers with weights, the file ha"):
        opened(tmp_path / "net.json", legacy, tmp_path / "two.h5")


def test_a_process_that_does_not_answer_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeprune.loading.references.ANSWER_SECONDS", 0.2)
    with LegacyProcess() as process:
        os.kill(process._process.pid, signal.SIGSTOP)
        found = process.saved_model(Path("anything"))
    assert found == {"problem": "the process that runs tf_keras took 0.2 s"}


def test_the_process_is_gone_after_loading(tmp_path: Path) -> None:
    original = randomised(plain_layers())
    original.save(tmp_path / "model.h5")
    processes = []

    class Watched(LegacyProcess):
        def __init__(self) -> None:
            super().__init__()
            processes.append(self._process)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("edgeprune.loading.models.LegacyProcess", Watched)
        model = load_model(str(tmp_path / "model.h5"))

    assert difference(model, original) < 1e-5
    assert [process.poll() is None for process in processes] == [False]
