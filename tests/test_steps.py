"""`keras.ops` nodes, operators and layers without weights: followed, rewritten, or locked."""

from __future__ import annotations

import re

import keras
import networks
import numpy as np
import pytest
from keras import layers, ops
from test_rules import around

from edgeprune.tracing.groups import find_groups

POSITIVE = np.array([0.5, 1.5, 2.0, 2.5, 3.0, 3.5], np.float32)

FOLLOWED = {
    "x * 2": lambda x: x * 2,
    "x + y": lambda x: x + layers.Conv2D(6, 1)(x),
    "vector * map": lambda x: ops.mean(x, axis=(1, 2), keepdims=True) * x,
    "1 - x": lambda x: 1 - x,
    "-x / 2": lambda x: -x / 2,
    "constant by channel": lambda x: x * POSITIVE,
    "constant by position": lambda x: x * np.arange(6, dtype=np.float32).reshape(6, 1, 1),
    "clip": lambda x: ops.clip(x, -1.0, 0.5),
    "where": lambda x: ops.where(x > 0, x, layers.Conv2D(6, 1)(x)),
    "relu": ops.relu,
    "hard_sigmoid": lambda x: x * ops.hard_sigmoid(x),
    "cast": lambda x: ops.cast(ops.cast(x, "float64"), "float32"),
    "power": lambda x: ops.power(ops.abs(x) + 1.0, 0.5),
    "spatial mean": lambda x: ops.mean(x, axis=(1, 2)),
    "spatial max": lambda x: ops.max(x, axis=[1, 2], keepdims=True),
    "variance over height": lambda x: ops.var(x, axis=1),
    "softmax over height": lambda x: ops.softmax(x, axis=1),
    "transpose there and back": lambda x: ops.transpose(
        ops.transpose(x, (0, 3, 1, 2)), (0, 2, 3, 1)
    ),
    "reshape": lambda x: ops.reshape(x, (-1, 36, 6)),
    "reshape with batch": lambda x: ops.reshape(ops.reshape(x, (-1, 6)), (-1, 6, 6, 6)),
    "reshape and back": lambda x: ops.reshape(ops.reshape(x, (-1, 216)), (-1, 6, 6, 6)),
    "channel shuffle": lambda x: ops.reshape(
        ops.swapaxes(ops.reshape(x, (-1, 6, 6, 2, 3)), 3, 4), (-1, 6, 6, 6)
    ),
    "split in equal parts": lambda x: ops.concatenate(ops.split(x, 3, axis=-1)[::-1], axis=-1),
    "split at positions": lambda x: ops.split(x, [1, 4], axis=3)[1],
    "split and add": lambda x: ops.add(*ops.split(x, 2, axis=-1)),
    "split with an empty part": lambda x: ops.split(x, [6], axis=-1)[0],
    "split over height": lambda x: ops.split(x, 2, axis=1)[0],
    "slice": lambda x: x[..., 2:],
    "slice of height": lambda x: x[:, 1:-1, ::2, :],
    "one channel": lambda x: x[..., 3:4] * x,
    "index": lambda x: x[:, :, :, 4],
    "negative bounds": lambda x: x[..., -4:-1],
    "every second channel": lambda x: x[:, :, :, 1::2],
    "reversed": lambda x: x[..., ::-1],
    "new axis": lambda x: x[:, None, ..., :3],
    "ops.slice": lambda x: ops.slice(x, [0, 1, 0, 1], [-1, 4, 6, 4]),
    "take": lambda x: ops.take(x, [5, 0, 3, -2], axis=-1),
    "take with repetition": lambda x: ops.take(x, np.array([1, 1, 4]), axis=-1),
    "take rows": lambda x: ops.take(x, [0, 2], axis=1),
    "pad positions": lambda x: ops.pad(x, ((0, 0), (1, 2), (0, 1), (0, 0))),
    "pad channels": lambda x: ops.pad(x, ((0, 0), (0, 0), (0, 0), (1, 2))) + layers.Conv2D(9, 1)(x),
    "stack": lambda x: ops.stack([x, layers.Conv2D(6, 1)(x)], axis=1),
    "stack last": lambda x: ops.stack([x, x * 2], axis=-1),
    "concatenate": lambda x: ops.concatenate([x, x * 2], axis=-1),
    "tile": lambda x: ops.tile(x, (1, 2, 1, 2)),
    "repeat": lambda x: ops.repeat(x, 2, axis=-1),
    "expand and squeeze": lambda x: ops.squeeze(ops.expand_dims(x, 1), 1),
    "moveaxis": lambda x: ops.moveaxis(x, -1, 1),
    "unstack height": lambda x: ops.unstack(x, 6, 1)[2],
    "resize": lambda x: ops.image.resize(x, (4, 4)),
    "max_pool": lambda x: ops.max_pool(x, 2, 2),
    "depth to space": lambda x: ops.depth_to_space(layers.Conv2D(12, 1, name="wide")(x), 2),
    "space to depth": lambda x: ops.space_to_depth(x, 2),
    "cumsum over height": lambda x: ops.cumsum(x, axis=1),
    "roll height": lambda x: ops.roll(x, 1, axis=1),
    "Lambda": lambda x: layers.Lambda(lambda v: v * v + 1.0)(x),
    "Lambda over positions": lambda x: layers.Lambda(
        lambda v: v - ops.max(v, axis=(1, 2), keepdims=True)
    )(x),
    "einsum of two maps": lambda x: ops.einsum("bhwc,bhwc->bc", x, layers.Conv2D(6, 1)(x)),
    "attention values": lambda x: layers.Attention()(
        [layers.Dense(4)(x[:, 0]), x[:, 0], layers.Dense(4)(x[:, 0])]
    ),
}


@pytest.mark.parametrize("name", FOLLOWED)
def test_an_operation_is_followed_exactly(name) -> None:
    model = around(FOLLOWED[name])
    groups = networks.assert_exact(model)
    written = [group for group in groups if "before" in group.layers("writes")]
    assert any(not group.locked for group in written), [group.locked for group in written]


MIXING = {
    "computed positions": (
        lambda x: ops.take(x, ops.expand_dims(ops.argmax(x[0, 0, 0]), 0), axis=-1),
        "selects positions by a tensor",
    ),
    "table of positions": (
        lambda x: ops.take(x, [[0, 1], [2, 3]], axis=-1),
        "selects positions by a table",
    ),
    "flattened with the batch": (lambda x: ops.reshape(ops.ravel(x), (-1, 6)), "needs sizes"),
    "sliced at computed positions": (
        lambda x: ops.slice(x, (0, 0, 0, ops.cast(ops.max(x), "int32")), (1, 6, 6, 2)),
        "slices at computed positions",
    ),
    "mean of channels": (lambda x: ops.mean(x, axis=-1), "mixed with other channels by 'mean"),
    "softmax": (ops.softmax, "normalised over by softmax"),
    "argmax": (lambda x: ops.cast(ops.argmax(x, axis=-1), "float32"), "mixed with other channels"),
    "sort": (lambda x: ops.sort(x, axis=-1), "mixed with other channels by 'sort"),
    "cumsum": (lambda x: ops.cumsum(x, axis=-1), "mixed with other channels by 'cumsum"),
    "matmul": (lambda x: ops.matmul(x, np.ones((6, 2), np.float32)), "mixed with other channels"),
    "roll": (lambda x: ops.roll(x, 1, axis=-1), "'roll.*' depends on the number or the position"),
    "made with an array": (
        lambda x: ops.clip(x, -1.0, POSITIVE),
        "'clip.*' was made with an array",
    ),
    "width of the tensor": (
        lambda x: layers.Lambda(lambda v: v / v.shape[-1])(x),
        "depends on the number or the position of channels",
    ),
    "backwards": (lambda x: x[..., 4:1:-2], "takes channels backwards"),
    "reflected": (
        lambda x: ops.pad(x, ((0, 0), (0, 0), (0, 0), (1, 1)), mode="reflect"),
        "repeats channels at the border",
    ),
    "random": (
        lambda x: layers.Lambda(lambda v: v + keras.random.normal(ops.shape(v)))(x),
        "is random",
    ),
    "unequal repetition": (
        lambda x: ops.repeat(x, (1, 2, 1, 1, 1, 1), axis=-1),
        "repeats positions unequally often",
    ),
    "one tensor of each channel": (
        lambda x: ops.add(*ops.unstack(x, 6, axis=-1)[:2]),
        "makes a tensor of each channel",
    ),
    "spatial gate": (
        lambda x: x * layers.Conv2D(1, 1, name="gate")(layers.Conv2D(4, 1)(x)),
        None,
    ),
}


@pytest.mark.parametrize("name", MIXING)
def test_what_mixes_channels_locks_them_and_says_so(name) -> None:
    connect, reason = MIXING[name]
    model = around(connect)
    networks.randomize(model)
    groups = find_groups(model)
    if reason is None:
        reason = "one channel that is broadcast over the channels of another tensor"
        assert groups["gate"].locked == (reason,)
        assert not groups["before"].locked
        return
    written = [group for group in groups if "before" in group.layers("writes")]
    assert all(group.locked for group in written)
    assert re.search(reason, "; ".join(written[0].locked))
    if "random" not in name:
        networks.assert_exact(model, seeds=[0])


@keras.saving.register_keras_serializable("test_operations")
class Shuffle(keras.layers.Layer):
    """A channel shuffle as people write it: a layer without weights and without config."""

    def __init__(self, groups, **kwargs):
        super().__init__(**kwargs)
        self.groups = groups

    def call(self, x):
        _, height, width, channels = x.shape
        x = ops.reshape(x, (-1, height, width, self.groups, channels // self.groups))
        x = ops.transpose(x, (0, 1, 2, 4, 3))
        return ops.reshape(x, (-1, height, width, channels))


def test_a_channel_shuffle_inside_a_custom_layer_ties_channels_of_equal_rank() -> None:
    groups = networks.assert_exact(around(Shuffle(2)))
    assert [group.width for group in groups if "before" in group.layers("writes")] == [3]


def test_an_operation_on_positions_of_a_fixed_size_is_tried_on_that_size() -> None:
    """Smaller tensors do not fit the constant inside, or would hide what it does."""
    weights = np.random.default_rng(0).normal(size=(9, 9, 1)).astype(np.float32)
    groups = networks.assert_exact(
        around(layers.Lambda(lambda v: v * weights), (9, 9, 3)), seeds=[0]
    )
    assert not groups["before"].locked
    flat = layers.Lambda(lambda v: ops.reshape(v, (-1, 9 * 9 * 6)), output_shape=(486,))
    groups = find_groups(around(flat, (9, 9, 3)))
    (reason,) = groups["before"].locked
    assert "depends on the number or the position of channels" in reason


@pytest.mark.parametrize(
    ("function", "dtype"),
    [
        (lambda v: ops.where(v, 1.0, 0.5), "bool"),
        (lambda v: ops.cast(ops.max(v, axis=(1, 2)) * 2 + 1, "float32"), "int32"),
    ],
)
def test_whole_numbers_and_truth_values_are_followed(function, dtype) -> None:
    def convert(x):
        return layers.Lambda(function)(ops.cast(x > 0, dtype))

    assert not networks.assert_exact(around(convert), seeds=[0])["before"].locked


def test_an_operation_that_cannot_be_run_locks_with_the_error() -> None:
    class Broken(keras.layers.Layer):
        def call(self, x):
            if not isinstance(x, keras.KerasTensor) and hasattr(x, "numpy"):
                raise RuntimeError("only on a Tuesday")
            return x

    (reason,) = find_groups(around(Broken(name="broken")))["before"].locked
    assert reason.startswith("'broken' could not be tried out (")
    assert "only on a Tuesday" in reason


def test_an_operation_that_is_too_large_locks(monkeypatch) -> None:
    monkeypatch.setattr("edgeprune.tracing.rules.probing.LARGEST", 100)
    (reason,) = find_groups(around(layers.Lambda(lambda v: v + 1, name="large")))["before"].locked
    assert reason == "'large' is too large to be tried out"


def test_positions_moved_into_the_batch_and_back_are_followed() -> None:
    def fold(x):
        x = layers.Lambda(lambda v: ops.reshape(v, (-1, v.shape[-1])))(x)
        x = layers.Dense(5, name="dense")(x)
        return layers.Lambda(lambda v: ops.reshape(v, (-1, 36, v.shape[-1])))(x)

    groups = networks.assert_exact(around(fold), seeds=[0])
    assert not groups["before"].locked and not groups["dense"].locked


def test_tensors_of_one_number_per_sample_are_followed() -> None:
    def weigh(x):
        return x * ops.mean(x)

    networks.assert_exact(around(weigh), seeds=[0])


def test_parts_of_a_tensor_never_become_empty() -> None:
    """Both halves are read by one layer; without care a plan could remove all of one half."""

    def halves(x):
        first, second = ops.split(x, 2, axis=-1)
        return ops.concatenate([ops.relu(first), ops.sigmoid(second)], axis=-1)

    model = networks.randomize(around(halves))
    groups = find_groups(model)
    written = [group for group in groups if "before" in group.layers("writes")]
    assert [group.width for group in written] == [3, 3]
    networks.assert_exact(model, seeds=range(6))


def test_an_operation_on_sizes_that_are_not_known_is_tried_on_an_example() -> None:
    def shrink(x):
        return ops.transpose(x[:, ::2] - ops.mean(x, axis=(1, 2), keepdims=True), (0, 2, 1, 3))

    groups = networks.assert_exact(around(shrink, (None, None, 3)))
    assert not groups["before"].locked


def test_a_fixed_batch_is_respected() -> None:
    inputs = keras.Input(batch_shape=(1, 6, 6, 3))
    x = layers.Conv2D(6, 1, name="before")(inputs)
    x = ops.broadcast_to(ops.max(x, axis=1, keepdims=True), (1, 6, 6, 6))
    x = ops.concatenate([x, ops.ones((1, 6, 6, 2))], axis=-1)
    groups = networks.assert_exact(keras.Model(inputs, layers.Conv2D(3, 3)(x)))
    assert not groups["before"].locked


def test_slim_operations_survive_saving(tmp_path) -> None:
    inputs = keras.Input((6, 6, 3))
    x = layers.Conv2D(6, 1)(inputs)
    for name in ("constant by channel", "split at positions", "channel shuffle", "take", "slice"):
        x = FOLLOWED[name](layers.Conv2D(6, 1)(x))
    x = ops.pad(x, ((0, 0), (0, 0), (0, 0), (1, 2)))
    model = networks.randomize(keras.Model(inputs, layers.Dense(3)(layers.Flatten()(x))))
    small = networks.remove_channels(model, networks.random_plan(find_groups(model)))
    small.save(tmp_path / "small.keras")
    reopened = keras.models.load_model(tmp_path / "small.keras")
    data = networks.random_inputs(model)
    np.testing.assert_array_equal(networks.call(small, data)[0], networks.call(reopened, data)[0])
