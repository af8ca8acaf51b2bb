from __future__ import annotations

import keras
import networks
import numpy as np
import pytest
from keras import layers

from edgeprune.tracing.replica import duplicate, operations_by_path, replace_softmax

BUILDERS = [
    networks.build_residual_network,
    networks.build_mobile_network,
    networks.build_nested_network,
]


@pytest.mark.parametrize("build", BUILDERS)
def test_a_duplicate_is_equal_in_config_and_weights_and_shares_nothing(build) -> None:
    model = networks.randomize(build())
    copy = duplicate(model)
    assert copy.get_config() == model.get_config()
    assert all(map(np.array_equal, copy.get_weights(), model.get_weights()))
    for weight in copy.weights:
        weight.assign(weight * 0)
    assert all(np.any(weight) for weight in model.get_weights())


def test_a_duplicate_leaves_the_original_with_its_own_connections() -> None:
    model = networks.build_nested_network()
    before = [len(layer._inbound_nodes) for layer in model._flatten_layers()]
    duplicate(model)
    assert [len(layer._inbound_nodes) for layer in model._flatten_layers()] == before


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_logits_come_from_the_same_layer_without_its_activation(activation) -> None:
    inputs = keras.Input((4,), name="x")
    model = keras.Model(inputs, layers.Dense(3, activation=activation, name="head")(inputs))
    networks.randomize(model)
    (x,) = networks.random_inputs(model)
    (logits,) = networks.call(replace_softmax(model), [x])
    expected = getattr(keras.activations, activation)(keras.ops.convert_to_tensor(logits))
    np.testing.assert_allclose(expected, networks.call(model, [x])[0], rtol=1e-5)


def test_softmax_as_a_layer_of_its_own_becomes_linear_and_keeps_its_name() -> None:
    inputs = keras.Input((4,))
    model = keras.Model(inputs, layers.Softmax(name="probabilities")(layers.Dense(3)(inputs)))
    logits = replace_softmax(model)
    assert logits.output_names == ["probabilities"]
    (x,) = networks.random_inputs(model)
    assert np.abs(networks.call(logits, [x])[0].sum(-1) - 1).min() > 1e-3


def test_an_inner_softmax_stays() -> None:
    inputs = keras.Input((4,))
    model = keras.Model(
        inputs, layers.Dense(2)(layers.Dense(3, activation="softmax", name="inner")(inputs))
    )
    assert replace_softmax(model).get_layer("inner").activation is keras.activations.softmax


def test_operations_are_found_by_path_in_nested_models() -> None:
    model = networks.build_nested_network()
    found = operations_by_path(model)
    assert found["encoder/block/first"] is model.get_layer("encoder").get_layer("block").layers[0]
    assert "encoder" not in found and "encoder/block" not in found
