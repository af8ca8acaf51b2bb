"""What a TimeDistributed repeats is followed as a model on steps: written out, it is the oracle."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import networks
import numpy as np
import pytest
from grammar.custom import Residual
from keras import layers, ops

import edgeprune
from edgeprune.scoring.calibration_samples import CalibrationSamples
from edgeprune.scoring.collection import collect_statistics
from edgeprune.scoring.context import PruningContext
from edgeprune.scoring.criteria import CRITERIA
from edgeprune.scoring.method_settings import Settings
from edgeprune.tracing.graph import build_graph, run
from edgeprune.tracing.groups import find_groups
from edgeprune.tracing.replica import duplicate

STEPS, SIZE = 3, (9, 9, 2)


class Block(Residual):
    """A custom layer made of layers, which says what a TimeDistributed asks."""

    def build(self, shape: Any) -> None:
        self.inner.build(shape)
        self.norm.build(shape)

    def compute_output_shape(self, shape: Any) -> Any:
        return shape


def build_inner(*, sequential: bool = False) -> keras.Model:
    """A small CNN with a residual block, or a plain one."""
    if sequential:
        parts = [layers.Conv2D(6, 3, activation="relu", name="first"), layers.MaxPooling2D()]
        parts += [layers.Conv2D(5, 3, name="second"), layers.GlobalAveragePooling2D()]
        return keras.Sequential([keras.Input(SIZE), *parts], name="encoder")
    entrance = keras.Input(SIZE)
    x = layers.Conv2D(6, 3, padding="same", name="first")(entrance)
    x = layers.ReLU()(layers.BatchNormalization()(x))
    y = layers.Conv2D(6, 3, padding="same", name="second")(
        layers.DepthwiseConv2D(3, padding="same")(x)
    )
    x = layers.Add()([x, y]) * 0.5
    return keras.Model(entrance, layers.GlobalAveragePooling2D()(x), name="encoder")


def over_time(
    make: Callable[[], Any], shape: tuple[int | None, ...] = (STEPS, *SIZE)
) -> keras.Model:
    """A network that reads the steps in turn."""
    inputs = keras.Input(shape, name="film")
    x = layers.TimeDistributed(make(), name="steps")(inputs)
    if len(x.shape) > 3:
        x = layers.TimeDistributed(layers.GlobalAveragePooling2D())(x)
    x = layers.LSTM(5, unroll=shape[0] is not None, name="over")(x)
    return keras.Model(inputs, layers.Dense(3, activation="softmax", name="head")(x))


def written_out(model: keras.Model, inner: Any) -> keras.Model:
    """The same network, calling the inner model once per step."""
    inputs = keras.Input(model.input_shape[1:])
    x = ops.stack([inner(inputs[:, step]) for step in range(STEPS)], axis=1)
    for layer in model.layers[2:]:
        x = layer(x)
    return keras.Model(inputs, x)


FILMS = np.random.default_rng(0).normal(size=(16, STEPS, *SIZE)).astype(np.float32)
TARGETS = np.arange(16) % 3


@pytest.mark.parametrize(
    "make",
    [
        build_inner,
        lambda: build_inner(sequential=True),
        lambda: layers.Conv2D(5, 3, activation="relu", name="first"),
        lambda: layers.DepthwiseConv2D(3),
        lambda: layers.SeparableConv2D(5, 3),
        lambda: Block(2),
        lambda: keras.Sequential([build_inner(), layers.Dense(4, activation="relu")]),
        lambda: keras.Sequential([keras.Input(SIZE), layers.TimeDistributed(layers.Conv1D(4, 3))]),
    ],
)
def test_what_is_repeated_is_pruned_exactly(make: Any) -> None:
    model = over_time(make)
    groups = networks.assert_exact(model)
    assert type(duplicate(model).get_layer("steps")) is layers.TimeDistributed
    inputs = networks.random_inputs(model)
    found = run(build_graph(model), [ops.convert_to_tensor(x) for x in inputs])
    np.testing.assert_allclose(found[0], networks.call(model, inputs)[0], atol=1e-5)
    assert any(axis.layer.startswith("steps") for axis in groups.axes)


def test_layers_inside_and_outside_steps_share_their_channels() -> None:
    inner, entrance = build_inner(), keras.Input((2, *SIZE), name="short")
    inputs, single = keras.Input((STEPS, *SIZE), name="film"), keras.Input(SIZE, name="image")
    repeat = layers.TimeDistributed(inner, name="steps")
    dense = layers.Dense(4, name="dense")
    seen = [
        repeat(inputs),
        layers.TimeDistributed(layers.TimeDistributed(dense))(repeat(entrance)[:, None]),
    ]
    x = layers.Concatenate()([layers.Flatten()(one) for one in (*seen, dense(inner(single)))])
    model = keras.Model([inputs, entrance, single], layers.Dense(3, name="head")(x))
    groups = networks.assert_exact(model)
    assert {"steps/first", "dense"} <= {group.name for group in groups.removable}


def test_sequences_of_open_length_are_followed() -> None:
    model = over_time(build_inner, (None, *SIZE))
    groups = networks.assert_exact(model, size=4)
    assert groups["steps/first"] in groups.removable
    assert collect_statistics(groups, FILMS).moments["steps/second"].mean.shape[-1] == 6


def test_statistics_over_steps_are_those_of_the_model_written_out() -> None:
    model = networks.randomize(over_time(build_inner))
    other = written_out(model, model.get_layer("steps").layer)
    options = {"num_classes": 3, "positions": 1000}
    found = collect_statistics(find_groups(model), FILMS, TARGETS, **options).moments
    expected = collect_statistics(find_groups(other), FILMS, TARGETS, **options).moments
    for path in ("first", "second"):
        one, two = found[f"steps/{path}"], expected[f"encoder/{path}"]
        assert one.count == two.count
        np.testing.assert_allclose(one.mean, two.mean, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(one.covariance, two.covariance, rtol=1e-3, atol=1e-5)


def test_every_criterion_scores_channels_inside_steps() -> None:
    model = networks.randomize(over_time(build_inner))
    groups = find_groups(model)
    context = PruningContext(
        groups,
        collect_statistics(groups, FILMS, TARGETS, num_classes=3),
        calibration=CalibrationSamples(groups, FILMS, TARGETS),
        settings=Settings(masks_per_channel=1, mask_samples=8),
    )
    for name, criterion in CRITERIA.items():
        for group in groups.removable:
            scores = criterion(context, group)
            assert scores.shape == (group.width,), name
            assert np.isfinite(scores).all(), name


def test_gradients_by_gates_are_those_of_the_model_written_out() -> None:
    model = networks.randomize(over_time(build_inner))
    other = written_out(model, model.get_layer("steps").layer)
    gradients = []
    for each, name in ((model, "steps/first"), (other, "encoder/first")):
        groups = find_groups(each)
        gradients.append(CalibrationSamples(groups, FILMS, TARGETS).gate_gradients(groups[name]))
    np.testing.assert_allclose(*gradients, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("inner", [build_inner, lambda: build_inner(sequential=True)])
def test_a_model_over_time_meets_its_budget_and_is_converted(inner: Any, tmp_path) -> None:
    model = networks.randomize(over_time(inner))
    pruned = edgeprune.prune(model, (FILMS, TARGETS), budget="macs=50%", step=1, recovery="refit")
    assert pruned.after.macs <= 0.5 * pruned.before.macs
    first = pruned.model.get_layer("steps").layer.get_layer("first")
    assert first.filters < 6
    pruned.model.save(tmp_path / "model.keras")
    loaded = edgeprune.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(loaded(FILMS), pruned.model(FILMS), atol=1e-5)
    assert edgeprune.convert(pruned.model, scheme="float32")
