"""Files as Keras 1.2 wrote them, made by hand: their weights and words are those of Keras 1."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import pytest
from test_loading_legacy import shared_process

from edgeprune.errors import ModelError
from edgeprune.loading.keras1 import upgrade_configuration
from edgeprune.loading.legacy_models import open_legacy
from edgeprune.loading.references import LegacyProcess
from edgeprune.loading.sources import read_source

GENERATOR = np.random.default_rng(3)


@pytest.fixture
def legacy() -> LegacyProcess:
    return shared_process()


def random(*shape: int) -> np.ndarray:
    return GENERATOR.normal(0, 0.5, shape).astype("float32")


def write(path: Path, config: dict[str, Any], weights: dict[str, list[np.ndarray]]) -> Path:
    with h5py.File(path, "w") as file:
        file.attrs["keras_version"] = b"1.2.2"
        file.attrs["model_config"] = json.dumps(config).encode()
        group = file.create_group("model_weights")
        group.attrs["layer_names"] = [name.encode() for name in weights]
        for name, arrays in weights.items():
            layer = group.create_group(name)
            names = [f"{name}_{index}" for index in range(len(arrays))]
            layer.attrs["weight_names"] = [item.encode() for item in names]
            for item, array in zip(names, arrays, strict=True):
                layer.create_dataset(item, data=array)
    return path


def opened(path: Path, legacy: LegacyProcess) -> keras.Model:
    return open_legacy(read_source(path, None), {}, legacy)


def layer(class_name: str, **config: Any) -> dict[str, Any]:
    return {"class_name": class_name, "config": config}


def test_a_sequential_model_of_keras_1_computes_what_its_weights_say(
    tmp_path: Path, legacy: LegacyProcess
) -> None:
    kernel, bias, head = random(3, 3, 2, 4), random(4), random(36, 3)
    gamma, beta, mean, variance = random(4), random(4), random(4), np.abs(random(4)) + 0.5
    common = {"W_regularizer": None, "b_regularizer": None, "trainable": True}
    config = {
        "class_name": "Sequential",
        "config": [
            layer(
                "Convolution2D",
                name="convolution2d_1",
                batch_input_shape=[None, 8, 8, 2],
                input_dtype="float32",
                nb_filter=4,
                nb_row=3,
                nb_col=3,
                subsample=[1, 1],
                border_mode="valid",
                dim_ordering="tf",
                init="glorot_uniform",
                activation="linear",
                bias=True,
                **{**common, "W_regularizer": {"name": "WeightRegularizer", "l1": 0.0, "l2": 0.1}},
            ),
            layer(
                "BatchNormalization",
                name="batchnormalization_1",
                mode=0,
                axis=-1,
                momentum=0.99,
                epsilon=1e-5,
                gamma_regularizer=None,
                trainable=True,
            ),
            layer("Activation", name="activation_1", activation="relu", trainable=True),
            layer(
                "MaxPooling2D",
                name="maxpooling2d_1",
                pool_size=[2, 2],
                strides=[2, 2],
                border_mode="valid",
                dim_ordering="tf",
                trainable=True,
            ),
            layer("Dropout", name="dropout_1", p=0.25, trainable=True),
            layer("Flatten", name="flatten_1", trainable=True),
            layer(
                "Dense",
                name="dense_1",
                output_dim=3,
                init="glorot_uniform",
                activation="softmax",
                bias=False,
                input_dim=None,
                **common,
            ),
        ],
    }
    weights = {
        "convolution2d_1": [kernel, bias],
        "batchnormalization_1": [gamma, beta, mean, variance],
        "dense_1": [head],
    }
    model = opened(write(tmp_path / "model.h5", config, weights), legacy)

    images = random(5, 8, 8, 2)
    windows = np.lib.stride_tricks.sliding_window_view(images, (3, 3), axis=(1, 2))
    features = np.einsum("nhwcij,ijco->nhwo", windows, kernel) + bias
    features = np.maximum((features - mean) / np.sqrt(variance + 1e-5) * gamma + beta, 0)
    pooled = features.reshape(5, 3, 2, 3, 2, 4).max(axis=(2, 4)).reshape(5, -1)
    logits = np.exp(pooled @ head)
    np.testing.assert_allclose(
        model(images), logits / logits.sum(axis=1, keepdims=True), rtol=1e-4, atol=1e-6
    )
    assert model.inputs[0].name == "convolution2d_1_input"
    assert model.layers[0].kernel_regularizer.l2 == pytest.approx(0.1)


def test_branches_merged_in_keras_1_become_a_concatenation(
    tmp_path: Path, legacy: LegacyProcess
) -> None:
    left, right = [random(4, 2), random(2)], [random(4, 3), random(3)]

    def dense(name: str, units: int) -> dict[str, Any]:
        entry = layer("Dense", name=name, output_dim=units, activation="tanh", bias=True)
        return {**entry, "name": name, "inbound_nodes": [[["input_1", 0, 0]]]}

    config = {
        "class_name": "Model",
        "config": {
            "name": "model_1",
            "layers": [
                {
                    **layer("InputLayer", batch_input_shape=[None, 4], input_dtype="float32"),
                    "name": "input_1",
                    "inbound_nodes": [],
                },
                dense("left", 2),
                dense("right", 3),
                {
                    **layer(
                        "Merge", name="merge_1", mode="concat", concat_axis=-1, mode_type="raw"
                    ),
                    "name": "merge_1",
                    "inbound_nodes": [[["left", 0, 0], ["right", 0, 0]]],
                },
            ],
            "input_layers": [["input_1", 0, 0]],
            "output_layers": [["merge_1", 0, 0]],
        },
    }
    path = write(tmp_path / "model.h5", config, {"left": left, "right": right})

    x = random(3, 4)
    expected = np.tanh(np.concatenate([x @ left[0] + left[1], x @ right[0] + right[1]], axis=1))
    np.testing.assert_allclose(opened(path, legacy)(x), expected, rtol=1e-5, atol=1e-6)


def test_the_twelve_arrays_of_a_keras_1_lstm_are_joined(
    tmp_path: Path, legacy: LegacyProcess
) -> None:
    units = 3
    gates = {gate: [random(2, units), random(units, units), random(units)] for gate in "icfo"}
    config = {
        "class_name": "Sequential",
        "config": [
            layer(
                "LSTM",
                name="lstm_1",
                batch_input_shape=[None, 5, 2],
                output_dim=units,
                init="glorot_uniform",
                inner_init="orthogonal",
                forget_bias_init="one",
                activation="tanh",
                inner_activation="hard_sigmoid",
                consume_less="cpu",
                dropout_U=0.0,
                dropout_W=0.0,
                return_sequences=False,
                go_backwards=False,
                stateful=False,
                unroll=False,
            )
        ],
    }
    weights = {"lstm_1": [array for gate in "icfo" for array in gates[gate]]}
    model = opened(write(tmp_path / "model.h5", config, weights), legacy)

    def sums(gate: str, x: np.ndarray, h: np.ndarray) -> np.ndarray:
        kernel, recurrent_kernel, bias = gates[gate]
        return x @ kernel + h @ recurrent_kernel + bias

    def hard_sigmoid(x: np.ndarray) -> np.ndarray:
        return np.clip(0.2 * x + 0.5, 0, 1)

    sequence = random(4, 5, 2)
    h = c = np.zeros((4, units), "float32")
    for x in sequence.swapaxes(0, 1):
        i, f, o = (hard_sigmoid(sums(gate, x, h)) for gate in "ifo")
        c = f * c + i * np.tanh(sums("c", x, h))
        h = o * np.tanh(c)
    np.testing.assert_allclose(model(sequence), h, rtol=1e-4, atol=1e-6)


def test_an_lstm_for_nvidia_gpus_becomes_a_plain_one(tmp_path: Path, legacy: LegacyProcess) -> None:
    plain = keras.Sequential([keras.Input((5, 2)), keras.layers.LSTM(3, name="memory")])
    kernel, recurrent_kernel, bias = (random(*weight.shape) for weight in plain.weights)
    plain.set_weights([kernel, recurrent_kernel, bias])
    config = {
        "class_name": "Sequential",
        "config": [
            layer(
                "CuDNNLSTM", name="memory", batch_input_shape=[None, 5, 2], units=3, trainable=True
            )
        ],
    }
    per_gate = [gate.T.reshape(gate.shape) for gate in np.split(kernel, 4, axis=1)]
    weights = [
        np.concatenate(per_gate, axis=1),
        np.concatenate([gate.T for gate in np.split(recurrent_kernel, 4, axis=1)], axis=1),
        np.concatenate([0.3 * bias, 0.7 * bias]),
    ]
    path = write(tmp_path / "model.h5", config, {"memory": weights})
    with h5py.File(path, "r+") as file:
        file.attrs["keras_version"] = file["model_weights"].attrs["keras_version"] = "2.2.4"

    x = random(4, 5, 2)
    np.testing.assert_allclose(opened(path, legacy)(x), plain(x), rtol=1e-5, atol=1e-6)


def test_words_of_keras_1_become_those_of_keras_2() -> None:
    entries = [
        layer(
            "Convolution1D", name="a", nb_filter=4, filter_length=3, subsample_length=2, bias=True
        ),
        layer("MaxPooling1D", name="b", pool_length=2, stride=2, border_mode="same"),
        layer("UpSampling1D", name="c", length=3),
        layer("AtrousConvolution2D", name="d", nb_filter=1, nb_row=1, nb_col=2, atrous_rate=[2, 2]),
        layer(
            "TimeDistributedDense", name="e", output_dim=5, W_constraint={"name": "MaxNorm", "m": 2}
        ),
        layer("Embedding", name="f", input_dim=9, output_dim=3, dropout=0.1, init="uniform"),
    ]
    upgraded = upgrade_configuration({"class_name": "Sequential", "config": entries})["config"]

    assert [entry["class_name"] for entry in upgraded] == [
        "Conv1D",
        "MaxPooling1D",
        "UpSampling1D",
        "Conv2D",
        "TimeDistributed",
        "Embedding",
    ]
    assert upgraded[0]["config"] == {
        "name": "a",
        "filters": 4,
        "kernel_size": 3,
        "strides": 2,
        "use_bias": True,
    }
    assert upgraded[1]["config"] == {"name": "b", "pool_size": 2, "strides": 2, "padding": "same"}
    assert upgraded[2]["config"] == {"name": "c", "size": 3}
    assert upgraded[3]["config"]["kernel_size"] == [1, 2]
    assert upgraded[4]["config"]["layer"]["config"]["kernel_constraint"] == {
        "class_name": "MaxNorm",
        "config": {"max_value": 2},
    }
    assert upgraded[5]["config"] == {"name": "f", "input_dim": 9, "output_dim": 3}


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (
            layer("Merge", name="join", mode="cos"),
            r"Layer 'join' \(Merge\) joins by 'cos' in the way of Keras 1, which no later version "
            r"can. Rebuild the model with the layers Add, Multiply, Concatenate or Dot",
        ),
        (
            layer("Merge", name="join", mode="sum", layers=[{}]),
            r"Layer 'join' \(Merge\) joins branches of a Sequential model in the way of Keras 1",
        ),
        (
            layer("BatchNormalization", name="norm", mode=1),
            r"Layer 'norm' \(BatchNormalization\) normalises each sample by itself \(mode 1 of",
        ),
    ],
)
def test_what_later_versions_cannot_express_is_refused(entry: Any, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        upgrade_configuration({"class_name": "Sequential", "config": [entry]})
