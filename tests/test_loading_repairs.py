from __future__ import annotations

from typing import Any

import keras
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeprune.errors import ModelError
from edgeprune.loading.architectures import build_architecture
from edgeprune.loading.repairs import plain, repair_layer, unique_names
from edgeprune.loading.safety import rewrite_configuration


@given(st.lists(st.text(alphabet="ab/_1", min_size=1, max_size=6), unique=True))
def test_repaired_names_have_no_slash_and_stay_unique(names: list[str]) -> None:
    renamed = unique_names(names)

    assert list(renamed) == names
    assert len(set(renamed.values())) == len(names)
    assert not [name for name in renamed.values() if "/" in name]
    assert all(new == old for old, new in renamed.items() if "/" not in old)


def test_typed_json_becomes_plain() -> None:
    shape = {
        "class_name": "TensorShape",
        "items": [None, {"class_name": "__tuple__", "items": [3]}],
    }
    assert plain({"shape": shape, "alpha": {"type": "ndarray", "value": 0.1}}) == {
        "shape": [None, [3]],
        "alpha": 0.1,
    }


@pytest.mark.parametrize(
    ("class_name", "layer_class", "config", "expected"),
    [
        (
            "DepthwiseConv2D",
            keras.layers.DepthwiseConv2D,
            {"kernel_size": [3, 3], "groups": 1, "kernel_regularizer": None, "filters": None},
            {"kernel_size": [3, 3]},
        ),
        ("LeakyReLU", keras.layers.LeakyReLU, {"alpha": 0.1}, {"negative_slope": 0.1}),
        (
            "BatchNormalizationV1",
            keras.layers.BatchNormalization,
            {"axis": [3], "fused": True, "virtual_batch_size": None},
            {"axis": 3},
        ),
        (
            "Dense",
            keras.layers.Dense,
            {"units": 2, "dtype": {"class_name": "Policy", "config": {"name": "mixed_float16"}}},
            {"units": 2, "dtype": "mixed_float16"},
        ),
        (
            "Dense",
            keras.layers.Dense,
            {"activation": "softmax_v2", "kernel_initializer": {"class_name": "Unheard"}},
            {"activation": "softmax", "kernel_initializer": "zeros"},
        ),
        ("GRU", keras.layers.GRU, {"units": 2}, {"units": 2, "reset_after": False}),
        ("GRU", keras.layers.GRU, {"reset_after": True}, {"reset_after": True}),
    ],
)
def test_settings_of_keras_2_become_those_of_keras_3(
    class_name: str, layer_class: type, config: dict[str, Any], expected: dict[str, Any]
) -> None:
    assert repair_layer(class_name, config, layer_class) == expected


@pytest.mark.parametrize(
    ("layer_class", "config", "setting"),
    [
        (keras.layers.DepthwiseConv2D, {"groups": 4}, "groups=4"),
        (keras.layers.LSTM, {"time_major": True}, "time_major=True"),
        (keras.layers.Dense, {"sparsity": 0.5}, "sparsity=0.5"),
    ],
)
def test_settings_are_never_dropped_in_silence(
    layer_class: type, config: dict[str, Any], setting: str
) -> None:
    with pytest.raises(
        ModelError,
        match=rf"Layer 'x' \({layer_class.__name__}\) has the setting {setting}, which Keras 3 "
        r"cannot express\. Rebuild the layer and save the model again\.",
    ):
        repair_layer(layer_class.__name__, {"name": "x", **config}, layer_class)


def entry(class_name: str, name: str, inputs: list[str], **config: Any) -> dict[str, Any]:
    nodes = [[[item, 0, 0, {}] for item in inputs]] if inputs else []
    return {
        "class_name": class_name,
        "name": name,
        "config": {"name": name, **config},
        "inbound_nodes": nodes,
    }


def functional(*layers: dict[str, Any], output: str) -> dict[str, Any]:
    image = entry("InputLayer", "image", [], batch_input_shape=[None, 4], dtype="float32")
    return {
        "class_name": "Model",
        "config": {
            "name": "model",
            "layers": [image, *layers],
            "input_layers": [["image", 0, 0]],
            "output_layers": [[output, 0, 0]],
        },
    }


def test_a_single_output_is_no_list() -> None:
    config = functional(entry("Dense", "head", ["image"], units=2), output="head")
    model = build_architecture(config, 2).model

    assert keras.utils.is_keras_tensor(model(keras.Input((4,))))


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        (
            [entry("LocallyConnected1D", "local", ["image"], filters=2)],
            r"Layer 'local' \(LocallyConnected1D\) cannot be rebuilt: Keras 3 has no such layer",
        ),
        (
            [entry("Conv2D", "local", ["image"], filters=2, kernel_size=3)],
            r"Layer 'local' \(Conv2D\) cannot be rebuilt: .*expected min_ndim=4",
        ),
        (
            [entry("Dense", "local", ["absent"], units=2)],
            r"The configuration is damaged: the inputs of 'local' do not exist",
        ),
        (
            [entry("Dense", "local", ["image"], units=2)] * 2,
            r"The configuration is damaged: two layers are named 'local'",
        ),
        (
            [entry("Net", "local", ["image"]) | {"class_name": "Model"}],
            r"Layer 'local' is a model written as a class \('Model'\), which does not say what",
        ),
    ],
)
def test_what_cannot_be_rebuilt_is_named(layers: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        build_architecture(functional(*layers, output="local"), 2)


def test_a_sequential_model_without_any_input_shape_is_refused() -> None:
    dense = {"class_name": "Dense", "config": {"name": "head", "units": 2}}

    with pytest.raises(ModelError, match="The model has no input shape, so its layers have no wei"):
        build_architecture({"class_name": "Sequential", "config": [dense]}, 2)


def test_a_hard_sigmoid_that_no_weight_can_carry_is_refused() -> None:
    config = functional(entry("LSTM", "memory", ["image"], units=2, activation="hard_sigmoid"),
                        output="memory")  # fmt: skip

    with pytest.raises(ModelError, match=r"Layer 'memory' \(LSTM\) uses the hard sigmoid of Keras"):
        build_architecture(config, 2)


def _spoiled(value: Any, draw: Any) -> Any:
    """Replace one part of a configuration, at a random depth, by something else."""
    if isinstance(value, dict | list) and value and draw(st.integers(0, 5)):
        copy = dict(value) if isinstance(value, dict) else list(value)
        key = draw(st.sampled_from(list(copy) if isinstance(copy, dict) else range(len(copy))))
        copy[key] = _spoiled(copy[key], draw)
        return copy
    return draw(
        st.sampled_from([None, 7, -1, "head", "Dense", [], [None], {}, ["head", 9, 0], 1.5])
    )


@given(st.data())
@settings(max_examples=60)
def test_damaged_configurations_give_one_kind_of_error(data: st.DataObject) -> None:
    config = functional(
        entry("Conv1D", "convolution", ["image"], filters=2, kernel_size=[1], activation="relu"),
        entry("Add", "sum", ["convolution", "convolution"]),
        entry("Dense", "head", ["sum"], units=2),
        output="head",
    )
    config["config"]["layers"][0]["config"]["batch_input_shape"] = [None, 4, 1]
    spoiled = {**config, "config": _spoiled(config["config"], data.draw)}

    try:
        rewrite_configuration(plain(spoiled), "x.h5", 2, {})
        build_architecture(plain(spoiled), 2)
    except ModelError as error:
        assert "\n" not in str(error)


def graph_operation(op: str, inputs: list[str], constants: dict[str, Any], **attr: Any) -> Any:
    node = {"name": op, "op": op, "attr": attr}
    return entry("TensorFlowOpLayer", op, inputs, node_def=node, constants=constants)


def test_graph_operations_of_early_keras_2_compute_the_same() -> None:
    layers = [
        graph_operation("Mul", ["image"], {"1": 2.0}),
        graph_operation("Sub", ["Mul"], {"0": 1.0}),
        graph_operation("Mean", ["Sub"], {"1": [1]}, keep_dims={"b": True}),
        graph_operation("ConcatV2", ["Mean", "image"], {"2": -1}),
        graph_operation("Pack", ["ConcatV2", "ConcatV2"], {}, axis={"i": "1"}),
    ]
    model = build_architecture(functional(*layers, output="Pack"), 2).model

    joined = [[-4.0, 1.0, 2.0, 3.0, 4.0]]  # mean of 1 - 2 x, and x
    assert model(keras.ops.convert_to_tensor([[1.0, 2.0, 3.0, 4.0]])).numpy().tolist() == [
        [joined[0], joined[0]]
    ]
