from __future__ import annotations

import dataclasses

import keras
import networks
import numpy as np
import pytest
from keras import layers
from small_models import Recorder

from edgeprune.errors import DataError
from edgeprune.scoring.collection import _Collector, collect_statistics
from edgeprune.scoring.sums import Moments, Spread, Statistics
from edgeprune.support.progress import showing
from edgeprune.tracing.groups import find_groups

EVERYWHERE = 10_000
"""More positions than any map here has."""


def inputs_of(model: keras.Model, name: str, x: np.ndarray) -> np.ndarray:
    return np.asarray(keras.Model(model.input, model.get_layer(name).input)(x), np.float64)


def outputs_of(model: keras.Model, name: str, x: np.ndarray) -> np.ndarray:
    return np.asarray(keras.Model(model.input, model.get_layer(name).output)(x), np.float64)


@pytest.fixture(scope="module")
def residual():
    model = networks.randomize(networks.build_residual_network())
    x = np.random.default_rng(0).normal(size=(10, 8, 8, 3)).astype(np.float32)
    return model, find_groups(model), x


CONSUMERS = ["stem", "inner", "outer", "last", "head"]


@pytest.mark.parametrize("name", CONSUMERS)
def test_sums_are_those_of_the_activations_brought_home(residual, name) -> None:
    model, groups, x = residual
    targets = np.array([0, 1, 2, 0, 1, 0, 0, 2, 2, 2])
    found = collect_statistics(
        groups, x, targets, num_classes=4, positions=EVERYWHERE, batch_size=4
    ).moments[name]
    seen = inputs_of(model, name, x)
    rows = seen.reshape(-1, seen.shape[-1])
    assert found.count == len(rows)
    np.testing.assert_allclose(found.total, rows.sum(0)[None], rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(found.gram, rows.T @ rows, rtol=1e-5, atol=1e-3)
    np.testing.assert_allclose(found.mean, rows.mean(0)[None], rtol=1e-5, atol=1e-6)
    covariance = np.cov(rows.T, bias=True)
    np.testing.assert_allclose(found.covariance, covariance, rtol=1e-4, atol=1e-5)
    pooled = seen.reshape(len(x), -1, seen.shape[-1]).mean(1)
    one_hot = np.eye(4)[targets]
    assert found.class_count.tolist() == [4, 2, 4, 0]
    np.testing.assert_allclose(found.class_total, one_hot.T @ pooled, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.class_squares, one_hot.T @ pooled**2, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "destination"),
    [("stem", "stem"), ("inner", "inner_norm"), ("outer", "add"), ("last", "last")],
)
def test_landing_variance_is_that_of_the_tensor_where_the_output_lands(
    residual, name, destination
) -> None:
    model, groups, x = residual
    found = (
        collect_statistics(groups, x, positions=EVERYWHERE, batch_size=3).moments[name].destination
    )
    rows = outputs_of(model, destination, x).reshape(-1, len(found.total))
    assert found.count == len(rows)
    np.testing.assert_allclose(found.variance, rows.var(0), rtol=1e-4)


def test_few_samples_give_more_positions_and_many_fewer() -> None:
    model = keras.Sequential(
        [
            keras.Input((12, 12, 1)),
            keras.layers.Conv2D(96, 1, name="wide"),
            keras.layers.Conv2D(2, 1, name="consumer"),
        ]
    )
    groups = find_groups(model)
    x = np.random.default_rng(0).normal(size=(64, 12, 12, 1)).astype(np.float32)

    def sampled(count: int) -> float:
        return collect_statistics(groups, x[:count]).moments["consumer"].count / count

    assert [sampled(count) for count in (4, 32, 64)] == [64, 24, 16]


def test_an_output_bent_by_its_own_activation_lands_nowhere(residual) -> None:
    _, groups, x = residual
    assert collect_statistics(groups, x).moments["head"].destination.count == 0


def test_shards_add_up_to_the_statistics_of_everything(residual) -> None:
    _, groups, x = residual
    targets = np.arange(10) % 3

    def collect(part: slice) -> Statistics:
        return collect_statistics(
            groups, x[part], targets[part], num_classes=3, positions=EVERYWHERE
        )

    added, whole = collect(slice(6)) + collect(slice(6, None)), collect(slice(None))
    assert added.moments.keys() == whole.moments.keys()
    for name, expected in whole.moments.items():
        found = added.moments[name]
        assert (found.count, found.destination.count) == (
            expected.count,
            expected.destination.count,
        )
        for entry in ("total", "gram", "class_count", "class_total", "class_squares"):
            np.testing.assert_allclose(
                getattr(found, entry), getattr(expected, entry), rtol=1e-5, atol=1e-3
            )
        np.testing.assert_allclose(
            found.destination.squares, expected.destination.squares, rtol=1e-5
        )


def recurrent_network() -> keras.Model:
    steps = keras.Input((6, 4))
    x = layers.LSTM(8, return_sequences=True)(layers.Dense(6, activation="relu")(steps))
    x = layers.Dense(5, activation="relu")(layers.Bidirectional(layers.GRU(4))(x))
    return networks.randomize(keras.Model(steps, layers.Dense(3)(x)))


@pytest.mark.parametrize("recurrent", [False, True])
def test_a_compiled_pass_gives_what_the_layers_give_one_by_one(
    residual, recurrent, monkeypatch
) -> None:
    _, groups, x = residual
    threshold = "edgeprune.scoring.collection.COMPILED_FROM"
    if recurrent:  # where compiling pays sooner
        groups, x = find_groups(recurrent_network()), x[:, :6, 0, :1] * np.ones(4, np.float32)
        threshold = "edgeprune.scoring.collection.RECURRENT_FROM"
        monkeypatch.setattr(threshold, 99)
    targets = np.arange(10) % 3
    options = {"num_classes": 3, "positions": 9, "batch_size": 3, "seed": 5}
    expected = collect_statistics(groups, x, targets, **options)
    run_layers, started = _Collector._sum_up, []

    def count(self, batch, one_hot, choose):
        started.append(len(started))
        return run_layers(self, batch, one_hot, choose)

    monkeypatch.setattr(_Collector, "_sum_up", count)
    monkeypatch.setattr(threshold, 2)
    found = collect_statistics(groups, x, targets, **options)
    assert len(started) == 3  # first batch, one trace for two batches, last batch
    assert found.moments.keys() == expected.moments.keys()
    for name, moments in found.moments.items():
        other = expected.moments[name]
        assert (moments.count, moments.destination.count) == (other.count, other.destination.count)
        for entry in ("total", "gram", "class_count", "class_total", "class_squares"):
            np.testing.assert_allclose(
                getattr(moments, entry), getattr(other, entry), rtol=1e-4, atol=1e-4
            )
        for entry in ("total", "squares"):
            np.testing.assert_allclose(
                getattr(moments.destination, entry),
                getattr(other.destination, entry),
                rtol=1e-4,
                atol=1e-4,
            )


def test_consumers_of_one_tensor_share_what_they_see() -> None:
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(6, 3, padding="same", name="stem")(inputs)
    branches = [
        layers.Conv2D(4, 3, padding="same", name="wide")(x),
        layers.Conv2D(4, 1, name="narrow")(x),
        layers.SeparableConv2D(4, 3, padding="same", name="filtered")(x),
    ]
    outputs = layers.GlobalAveragePooling2D()(layers.Concatenate()(branches))
    model = networks.randomize(keras.Model(inputs, outputs))
    x = np.random.default_rng(0).normal(size=(5, 8, 8, 3)).astype(np.float32)
    found = collect_statistics(find_groups(model), x, positions=7).moments
    np.testing.assert_array_equal(found["wide"].gram, found["narrow"].gram)
    assert not np.allclose(found["wide"].gram, found["filtered"].gram)
    assert found["wide"].count == found["filtered"].count == 35


def test_statistics_travel_through_a_file_exactly(residual, tmp_path) -> None:
    _, groups, x = residual
    saved = collect_statistics(groups, x, np.arange(10) % 2, num_classes=2)
    saved.save(tmp_path / "shard.npz")
    loaded = Statistics.load(tmp_path / "shard.npz")
    assert list(loaded.moments) == list(saved.moments)
    for name, expected in saved.moments.items():
        found = loaded.moments[name]
        for one, other in ((found, expected), (found.destination, expected.destination)):
            for entry in dataclasses.fields(one):
                if entry.name != "destination":
                    value, wanted = getattr(one, entry.name), getattr(other, entry.name)
                    assert type(value) is type(wanted)
                    np.testing.assert_array_equal(value, wanted)
    doubled = loaded + saved
    assert doubled.moments["stem"].count == 2 * saved.moments["stem"].count


def test_a_file_with_something_else_in_it_is_refused(tmp_path) -> None:
    with pytest.raises(DataError, match=r"There are no statistics at '.*none.npz'"):
        Statistics.load(tmp_path / "none.npz")
    (tmp_path / "text.npz").write_text("text")
    np.savez(tmp_path / "other.npz", x=np.zeros(2))
    np.savez(tmp_path / "pickled.npz", format=np.array([{}], dtype=object))
    np.save(tmp_path / "array.npz.npy", np.zeros(2))
    (tmp_path / "array.npz.npy").rename(tmp_path / "array.npz")
    for name in ("text", "other", "pickled", "array"):
        with pytest.raises(DataError, match=rf"'.*{name}.npz' holds no statistics. Expected an "):
            Statistics.load(tmp_path / f"{name}.npz")


def test_statistics_of_different_models_or_classes_refuse_to_add(residual) -> None:
    _, groups, x = residual
    one = collect_statistics(groups, x)
    other = networks.randomize(networks.build_mobile_network())
    with pytest.raises(ValueError, match=r"different models cannot be added: .*expand"):
        one + collect_statistics(find_groups(other), x)
    with pytest.raises(ValueError, match=r"or of another size or number of classes: head, inner"):
        one + collect_statistics(groups, x, num_classes=2)


def test_no_samples_are_refused(residual) -> None:
    _, groups, x = residual
    with pytest.raises(ValueError, match="at least one sample"):
        collect_statistics(groups, x[:0])


def test_positions_bound_the_rows_and_the_seed_draws_them(residual) -> None:
    _, groups, x = residual

    def collect(seed: int) -> Moments:
        return collect_statistics(groups, x, positions=9, seed=seed).moments["outer"]

    assert collect(0).count == 9 * len(x)
    np.testing.assert_array_equal(collect(0).gram, collect(0).gram)
    assert not np.array_equal(collect(0).gram, collect(1).gram)


def test_a_layer_called_twice_is_summed_over_its_calls() -> None:
    inputs = keras.Input((6, 6, 4))
    shared = layers.Conv2D(4, 3, padding="same", activation="relu", name="shared")
    outputs = layers.GlobalAveragePooling2D()(shared(shared(inputs)))
    model = networks.randomize(keras.Model(inputs, outputs))
    x = np.random.default_rng(0).normal(size=(5, 6, 6, 4)).astype(np.float32)
    found = collect_statistics(find_groups(model), x, positions=EVERYWHERE).moments["shared"]
    both = np.concatenate([x, np.asarray(shared(x))])
    rows = both.reshape(-1, 4).astype(np.float64)
    assert found.count == len(rows)
    np.testing.assert_allclose(found.gram, rows.T @ rows, rtol=1e-5)
    assert found.class_count.tolist() == [10]
    np.testing.assert_allclose(found.class_total[0], both.mean((1, 2)).sum(0), rtol=1e-4)


def test_positions_of_a_flattened_map_are_rows_about_a_mean_of_their_own() -> None:
    inputs = keras.Input((2, 3, 4))
    outputs = layers.Dense(2, name="head")(layers.Flatten()(layers.ReLU()(inputs)))
    model = keras.Model(inputs, outputs)
    x = np.random.default_rng(0).normal(size=(9, 2, 3, 4)) + np.arange(24).reshape(2, 3, 4)
    found = collect_statistics(find_groups(model), x.astype(np.float32), batch_size=4)
    moments = found.moments["head"]
    rows = np.maximum(x, 0).reshape(9, 6, 4)
    assert moments.count == 54
    np.testing.assert_allclose(moments.mean, rows.mean(0), rtol=1e-5)
    within = (rows - rows.mean(0)).reshape(-1, 4)
    np.testing.assert_allclose(moments.covariance, within.T @ within / 54, atol=1e-4)


def test_half_precision_is_summed_in_float32() -> None:
    policy = keras.DTypePolicy("mixed_float16")
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(6, 3, activation="relu", dtype=policy, name="conv")(inputs)
    x = layers.SeparableConv2D(4, 3, dtype=policy, name="separable")(x)
    model = keras.Model(inputs, layers.GlobalAveragePooling2D(dtype=policy)(x))
    x = 100 + np.random.default_rng(0).normal(size=(4, 8, 8, 3)).astype(np.float32)
    found = collect_statistics(find_groups(model), x, positions=EVERYWHERE).moments
    seen = inputs_of(model, "conv", x).reshape(-1, 3)
    np.testing.assert_allclose(found["conv"].gram, seen.T @ seen, rtol=1e-4)
    assert np.isfinite(found["separable"].gram).all()
    assert found["separable"].gram.max() > 65504  # what float16 can hold


def test_an_empty_spread_is_the_zero_of_addition() -> None:
    spread = Spread(2, np.array([1.0, 3.0]), np.array([5.0, 9.0]))
    added = spread + Spread()
    assert (added.count, added.total.tolist(), added.squares.tolist()) == (2, [1, 3], [5, 9])


def test_every_batch_is_told(residual) -> None:
    _, groups, x = residual
    recorder = Recorder()
    with showing(recorder):
        collect_statistics(groups, x, batch_size=4)
    assert recorder.stages == [["statistics", 3, 3]]


def test_the_model_is_not_changed(residual) -> None:
    model, groups, x = residual
    before = [weight.copy() for weight in model.get_weights()]
    collect_statistics(groups, x)
    assert all(map(np.array_equal, before, model.get_weights()))
