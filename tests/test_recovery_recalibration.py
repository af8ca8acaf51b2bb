from __future__ import annotations

import keras
import networks
import numpy as np
import pytest
from keras import layers
from small_models import Recorder

from edgeprune.recovery import recalibrate
from edgeprune.recovery.batches import bytes_per_sample, make_batches
from edgeprune.recovery.intercepts import add_constant, give_biases
from edgeprune.scoring.consumers import find_consumers
from edgeprune.support.progress import showing
from edgeprune.surgery.channel_removal import remove_channels
from edgeprune.surgery.plan import Plan
from edgeprune.tracing.graph import build_graph
from edgeprune.tracing.groups import find_groups
from edgeprune.tracing.replica import operations_by_path


def images(model: keras.Model, samples: int = 30) -> np.ndarray:
    shape = (samples, *model.inputs[0].shape[1:])
    return 2 + np.random.default_rng(7).normal(size=shape).astype(np.float32)


# BatchNorm recalibration.


@pytest.mark.parametrize("batch_size", [7, 100])
def test_moving_statistics_become_those_of_what_each_layer_now_sees(
    monkeypatch, batch_size
) -> None:
    monkeypatch.setattr("edgeprune.recovery.batches.BATCH_SIZE", batch_size)
    model = networks.randomize(networks.build_residual_network())
    x = images(model)
    found = recalibrate(model, x)
    for name in ("stem_norm", "inner_norm"):
        layer = found.get_layer(name)
        seen = np.asarray(keras.Model(found.input, layer.input)(x), np.float64)
        np.testing.assert_allclose(layer.moving_mean, seen.mean((0, 1, 2)), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(layer.moving_variance, seen.var((0, 1, 2)), rtol=1e-3)
        given = np.asarray(layer(seen))
        shift = np.asarray(layer.beta)
        np.testing.assert_allclose(given.mean((0, 1, 2)), shift, atol=1e-3)


def test_only_moving_statistics_change_and_only_in_the_copy() -> None:
    model = networks.randomize(networks.build_residual_network())
    before = [weight.copy() for weight in model.get_weights()]
    found = recalibrate(model, images(model))
    assert all(map(np.array_equal, before, model.get_weights()))
    for old, new in zip(model.weights, found.weights, strict=True):
        assert np.array_equal(old, new) != ("moving" in old.path)


def test_channels_first_and_a_normalised_layer_called_twice() -> None:
    inputs = keras.Input((3, 6, 5))
    norm = layers.BatchNormalization(axis=1, name="norm")
    model = networks.randomize(keras.Model(inputs, norm(layers.ReLU()(norm(inputs)))))
    x = images(model)
    layer = recalibrate(model, x).get_layer("norm")
    np.testing.assert_allclose(layer.moving_mean, x.mean((0, 2, 3)), rtol=1e-4)
    np.testing.assert_allclose(layer.moving_variance, x.var((0, 2, 3)), rtol=1e-3)


def test_a_model_without_normalization_comes_back_equal() -> None:
    model = networks.randomize(networks.build_nested_network())
    found = recalibrate(model, images(model))
    assert found is not model
    assert all(map(np.array_equal, model.get_weights(), found.get_weights()))


def test_every_call_is_told() -> None:
    model = networks.build_residual_network()
    recorder = Recorder()
    with showing(recorder):
        recalibrate(model, images(model))
    calls = len(build_graph(model).calls)
    assert recorder.stages == [["BatchNorm recalibration", calls, calls]]


# Where constants go.


def build_chain() -> keras.Model:
    """Consumers with a bias, with BatchNorm, with BatchNorm behind an activation, with nothing."""
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, name="biased")(inputs)
    x = layers.Conv2D(4, 1, use_bias=False, name="normalized")(x)
    x = layers.BatchNormalization(name="norm")(x)
    x = layers.Conv2D(4, 1, use_bias=False, activation="relu", name="bent")(x)
    x = layers.BatchNormalization(name="late_norm")(x)
    x = layers.SeparableConv2D(5, 3, use_bias=False, name="bare")(x)
    x = layers.Dense(3, use_bias=False, name="dense")(layers.GlobalAveragePooling2D()(x))
    return networks.randomize(keras.Model(inputs, x))


def test_biases_are_given_only_where_nothing_else_takes_a_constant() -> None:
    model = build_chain()
    consumers = find_consumers(find_groups(model))
    given = give_biases(model, consumers)
    names = [consumer.path for consumer in consumers]
    assert {name: given.get_layer(name).use_bias for name in names} == {
        "biased": True, "normalized": False, "bent": True, "bare": True, "dense": True,
    }  # fmt: skip
    x = images(model)
    np.testing.assert_array_equal(given(x), model(x))
    assert not model.get_layer("bare").use_bias
    again = give_biases(given, consumers)
    np.testing.assert_array_equal(again(x), model(x))
    only = give_biases(model, [consumer for consumer in consumers if consumer.path == "bare"])
    assert [only.get_layer(name).use_bias for name in names] == [True, False, False, True, False]


@pytest.mark.parametrize("name", ["biased", "normalized", "bent", "bare", "dense"])
def test_a_constant_is_added_before_the_activation(name) -> None:
    model = build_chain()
    consumers = {consumer.path: consumer for consumer in find_consumers(find_groups(model))}
    given = give_biases(model, consumers.values())
    constant = np.linspace(-1, 1, given.get_layer(name).output.shape[-1])
    add_constant(operations_by_path(given), consumers[name], constant)
    add_constant(operations_by_path(given), consumers[name], constant)
    x = images(model)
    bend = given.get_layer(name).activation
    layer = model.get_layer(name)
    plain = type(layer).from_config(layer.get_config() | {"activation": "linear"})
    plain.build(layer.input.shape)
    plain.set_weights(layer.get_weights())
    seen = keras.Model(model.input, layer.input)(x)
    expected = bend(np.asarray(plain(seen)) + 2 * constant)
    if name == "normalized":
        found = keras.Model(given.input, given.get_layer("norm").output)(x)
        expected = model.get_layer("norm")(expected)
    else:
        found = keras.Model(given.input, given.get_layer(name).output)(x)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)


def test_nested_layers_get_biases_too() -> None:
    block = keras.Sequential(
        [keras.Input((8, 8, 4)), layers.Conv2D(6, 1, use_bias=False, name="conv")], name="block"
    )
    inputs = keras.Input((8, 8, 4))
    model = networks.randomize(keras.Model(inputs, layers.GlobalMaxPooling2D()(block(inputs))))
    given = give_biases(model, find_consumers(find_groups(model)))
    assert given.get_layer("block").get_layer("conv").use_bias
    x = images(model)
    np.testing.assert_array_equal(given(x), model(x))


def test_biases_are_given_to_slim_models() -> None:
    model = build_chain()
    groups = find_groups(model)
    smaller = remove_channels(model, Plan({"bent": (0, 3), "bare": (1, 2, 4)}))
    given = give_biases(smaller, find_consumers(groups))
    x = images(model)
    np.testing.assert_array_equal(given(x), smaller(x))
    assert given.get_layer("bare").bias.shape == (3,)


# Batches.


def test_batches_hold_all_samples_in_order_when_they_fit() -> None:
    model = networks.build_residual_network()
    x = images(model, 600)
    batches = make_batches(build_graph(model), x)
    assert [len(batch) for batch in batches] == [256, 256, 88]
    np.testing.assert_array_equal(np.concatenate(batches), x)


def test_samples_that_do_not_fit_are_left_out_all_over_the_array(monkeypatch) -> None:
    model = networks.build_residual_network()
    graph = build_graph(model)
    monkeypatch.setattr("edgeprune.recovery.batches.MEMORY", 40 * bytes_per_sample(graph))
    x = images(model, 600)
    (batch,) = make_batches(graph, x, models=2)
    places = [int(np.nonzero((x == sample).all((1, 2, 3)))[0][0]) for sample in np.asarray(batch)]
    assert len(set(places)) == 20
    assert (places[0], places[-1]) == (0, 599)
    assert max(np.diff(places)) < 40


def test_a_few_samples_are_always_there(monkeypatch) -> None:
    monkeypatch.setattr("edgeprune.recovery.batches.MEMORY", 1)
    model = networks.build_residual_network()
    (batch,) = make_batches(build_graph(model), images(model, 50))
    assert len(batch) == 16


def test_the_tensors_alive_at_once_are_counted() -> None:
    inputs = keras.Input((4, 4, 2))
    wide = layers.Conv2D(8, 1)(inputs)
    x = layers.Add()([layers.Conv2D(8, 1)(wide), wide])
    model = keras.Model(inputs, layers.GlobalMaxPooling2D()(x))
    # The wide map, its convolution and their sum, before the first two are let go.
    assert bytes_per_sample(build_graph(model)) == 4 * 3 * 4 * 4 * 8
