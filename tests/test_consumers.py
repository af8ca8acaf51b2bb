from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers, ops

from edgeprune.scoring import consumers as consumer
from edgeprune.scoring.consumer_kinds import (
    CONSUMERS,
    count_places,
    kernel_matrix,
    take_patches,
    tap_coverage,
)
from edgeprune.scoring.consumers import find_consumers
from edgeprune.tracing.groups import find_groups

pytestmark = pytest.mark.usefixtures("channels_first")
LAYERS = [
    (layers.Conv2D(4, 3), (8, 7, 6)),
    (layers.Conv2D(4, 3, padding="same"), (8, 7, 6)),
    (layers.Conv2D(4, (2, 3), strides=2, padding="same"), (8, 7, 6)),
    (layers.Conv2D(4, (4, 1), strides=(3, 2), padding="same", use_bias=False), (8, 7, 6)),
    (layers.Conv2D(4, 3, dilation_rate=(2, 1), padding="same"), (8, 7, 6)),
    (layers.Conv2D(4, 2, dilation_rate=3), (8, 7, 6)),
    (layers.Conv2D(4, 1, strides=2, padding="same"), (7, 7, 6)),
    (layers.Conv2D(6, 3, padding="same", groups=3), (8, 7, 6)),
    (layers.Conv2D(4, 3, padding="same", data_format="channels_first"), (6, 8, 7)),
    (layers.Conv1D(4, 3, dilation_rate=2, padding="causal"), (9, 5)),
    (layers.Conv1D(4, 4, strides=2, padding="same", groups=2), (9, 6)),
    (layers.Conv3D(4, 2, strides=2, padding="same"), (5, 4, 3, 2)),
    (layers.SeparableConv2D(4, 3, padding="same", strides=2, depth_multiplier=2), (8, 7, 6)),
    (layers.SeparableConv2D(4, 3, data_format="channels_first"), (6, 8, 7)),
    (layers.SeparableConv1D(4, 3, padding="same", depth_multiplier=2), (9, 5)),
    (layers.Dense(4), (6,)),
    (layers.Dense(4), (5, 6)),
]


def ids(case: object) -> str:
    return case.name if isinstance(case, keras.Layer) else ""


def build(layer: keras.Layer, shape: tuple[int, ...]) -> tuple[keras.Layer, np.ndarray]:
    """Return a fresh copy of a layer with random weights, biases included, and inputs for it."""
    generator = np.random.default_rng(0)
    copy = type(layer).from_config(layer.get_config())
    copy.build((None, *shape))
    copy.set_weights([generator.normal(size=weight.shape) for weight in copy.weights])
    return copy, generator.normal(size=(3, *shape)).astype(np.float32)


def by_xla(layer: keras.Layer, x: object) -> object:
    """Call a layer: XLA convolves channels first on every CPU."""
    import tensorflow as tf

    return tf.function(layer, jit_compile=True)(x)


def last(layer: keras.Layer, x: object) -> np.ndarray:
    first = getattr(layer, "data_format", None) == "channels_first"
    return np.moveaxis(np.asarray(x), 1, -1) if first else np.asarray(x)


def split_groups(patches: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Multiply patches with the kernel of a grouped convolution, group by group."""
    groups = patches.shape[-1] // kernel.shape[1]
    pairs = zip(np.split(patches, groups, -1), np.split(kernel, groups, -1), strict=True)
    return np.concatenate([np.einsum("ntc,tco->no", x, w) for x, w in pairs], axis=-1)


@pytest.mark.parametrize(("layer", "shape"), LAYERS, ids=ids)
def test_patches_times_the_kernel_are_the_output(layer, shape) -> None:
    layer, x = build(layer, shape)
    outputs = last(layer, by_xla(layer, x))
    expected = outputs.reshape(-1, outputs.shape[-1])
    total = count_places(layer, ops.convert_to_tensor(x))
    assert total == len(expected)
    places = np.random.default_rng(1).permutation(total)[: total // 2 + 1]
    patches = np.asarray(take_patches(layer, ops.convert_to_tensor(x), places))
    found = split_groups(patches, kernel_matrix(layer))
    if layer.use_bias:
        found = found + np.asarray(layer.bias)
    np.testing.assert_allclose(found, expected[places], rtol=1e-4, atol=1e-4)


def test_every_kind_of_reader_is_tried_above() -> None:
    assert {type(layer) for layer, _ in LAYERS} == set(CONSUMERS)


SLIDING = [(layer, shape) for layer, shape in LAYERS if CONSUMERS[type(layer)].slides]


@pytest.mark.parametrize(("layer", "shape"), SLIDING, ids=ids)
def test_coverage_is_what_one_tap_finds_of_a_map_of_ones(layer, shape) -> None:
    layer, _ = build(layer, shape)
    ones = np.ones((1, *shape), np.float32)
    coverage = tap_coverage(layer, (None, *shape))
    kernel = np.zeros(layer.kernel.shape, np.float32)
    taps = kernel.reshape(-1, *kernel.shape[-2:])
    assert len(coverage) == len(taps)
    for tap, share in enumerate(coverage):
        taps[:] = 0
        taps[tap, 0] = 1
        layer.set_weights([kernel, *(np.zeros(weight.shape) for weight in layer.weights[1:])])
        assert share == pytest.approx(float(np.mean(by_xla(layer, ones))))


def test_coverage_is_whole_without_padding_and_where_sizes_are_not_known() -> None:
    same, _ = build(layers.Conv2D(4, 3, padding="same"), (8, 7, 6))
    assert (tap_coverage(same, (None, None, None, 6)) == 1).all()
    rows = tap_coverage(same, (None, 4, None, 6)).reshape(3, 3)
    np.testing.assert_allclose(rows, np.repeat([[0.75], [1], [0.75]], 3, axis=1))
    separable, _ = build(layers.SeparableConv2D(4, 3, padding="same"), (8, 7, 6))
    assert tap_coverage(separable, (None, 8, 7, 6)).tolist() == [1]


def consumers_of(model: keras.Model) -> dict:
    return {found.path: found for found in find_consumers(find_groups(model))}


def flat_model() -> keras.Model:
    """A map of 2 x 3 positions and 4 channels, flattened."""
    inputs = keras.Input((2, 3, 5))
    x = layers.Flatten()(layers.Conv2D(4, 1, name="conv")(inputs))
    return keras.Model(inputs, layers.Dense(2, name="head")(x))


def test_a_flattened_map_has_one_column_per_channel_and_a_slot_per_position() -> None:
    head = consumers_of(flat_model())["head"]
    assert head.channels[:, 1].tolist() == [0, 1, 2, 3]
    np.testing.assert_array_equal(head.slots, np.arange(24).reshape(6, 4))


def test_the_rows_of_a_flattened_map_are_its_positions() -> None:
    head = consumers_of(flat_model())["head"]
    maps = np.random.default_rng(0).normal(size=(3, 6, 4)).astype(np.float32)
    flat = ops.convert_to_tensor(maps.reshape(3, 24))
    np.testing.assert_array_equal(head.rows(flat, 2, np.random.default_rng(0)), maps)


def test_multiplied_channels_have_a_column_each() -> None:
    inputs = keras.Input((6, 6, 3))
    x = layers.Conv2D(4, 1, name="conv")(inputs)
    x = layers.SeparableConv2D(5, 3, depth_multiplier=2, name="separable")(x)
    model = keras.Model(inputs, layers.GlobalMaxPooling2D()(x))
    separable = consumers_of(model)["separable"]
    assert separable.channels[:, 1].tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    columns, channels = separable.columns(find_groups(model).index["conv"])
    assert (columns.tolist(), channels.tolist()) == ([[0, 2, 4, 6], [1, 3, 5, 7]], [0, 1, 2, 3])
    maps = np.random.default_rng(0).normal(size=(2, 6, 6, 4)).astype(np.float32)
    seen = layers.DepthwiseConv2D(3, depth_multiplier=2, use_bias=False)
    seen.build(maps.shape)
    seen.set_weights([separable.layer.depthwise_kernel])
    expected = np.asarray(seen(maps)).reshape(2, 16, 8)
    found = separable.rows(ops.convert_to_tensor(maps), 16, np.random.default_rng(0))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def joined_model(*, flatten: bool) -> keras.Model:
    inputs = keras.Input((2, 2, 3), name="image")
    left = layers.Conv2D(4, 1, name="left")(inputs)
    right = layers.Conv2D(2, 1, name="right")(inputs)
    left = layers.Flatten()(left) if flatten else layers.GlobalMaxPooling2D()(left)
    right = layers.GlobalMaxPooling2D()(right)
    x = layers.Concatenate()([right, left])
    return keras.Model(inputs, layers.Dense(3, name="head")(x))


def test_a_reader_of_joined_tensors_has_columns_of_each_group() -> None:
    model = joined_model(flatten=False)
    groups = find_groups(model)
    head = consumers_of(model)["head"]
    columns, channels = head.columns(groups.index["left"])
    assert (columns.tolist(), channels.tolist()) == ([[2, 3, 4, 5]], [0, 1, 2, 3])
    columns, channels = head.columns(groups.index["right"])
    assert (columns.tolist(), channels.tolist()) == ([[0, 1]], [0, 1])
    assert head.columns(groups.index["head"])[1].size == 0


def test_channels_held_unequally_often_have_a_column_per_position() -> None:
    model = joined_model(flatten=True)
    groups = find_groups(model)
    head = consumers_of(model)["head"]
    np.testing.assert_array_equal(head.slots, np.arange(18)[None])
    columns, channels = head.columns(groups.index["left"])
    np.testing.assert_array_equal(columns, 2 + np.arange(16).reshape(4, 4))
    assert channels.tolist() == [0, 1, 2, 3]
    assert head.columns(groups.index["right"])[0].tolist() == [[0, 1]]


def test_kept_columns_follow_the_ranks_of_the_plan() -> None:
    model = joined_model(flatten=True)
    groups = find_groups(model)
    ranks = [np.arange(group.width) for group in groups]
    ranks[groups.index["left"]] = np.array([-1, 0, -1, 1])
    kept = consumers_of(model)["head"].keeps(ranks)
    assert kept.tolist() == [True, True] + 4 * [False, True, False, True]


def test_sampled_rows_are_rows_of_the_map_at_the_same_places_in_every_sample() -> None:
    inputs = keras.Input((5, 4, 3))
    x = layers.Conv2D(2, 3, name="conv")(inputs)
    conv = consumers_of(keras.Model(inputs, layers.GlobalMaxPooling2D()(x)))["conv"]
    maps = np.random.default_rng(0).normal(size=(3, 5, 4, 3)).astype(np.float32)
    flat = maps.reshape(3, 20, 3)
    rows = np.asarray(conv.rows(ops.convert_to_tensor(maps), 7, np.random.default_rng(0)))
    assert rows.shape == (3, 7, 3)
    places = [int(np.nonzero((flat[0] == row).all(-1))[0][0]) for row in rows[0]]
    assert len(set(places)) == 7
    np.testing.assert_array_equal(rows, flat[:, places])
    other = np.asarray(conv.rows(ops.convert_to_tensor(maps), 7, np.random.default_rng(1)))
    assert not np.array_equal(rows, other)
    whole = np.asarray(conv.rows(ops.convert_to_tensor(maps), 20, np.random.default_rng(0)))
    np.testing.assert_array_equal(whole, flat)


def test_channel_groups_of_a_convolution_count_as_places() -> None:
    inputs = keras.Input((4, 4, 3))
    x = layers.Conv2D(6, 1, name="first")(inputs)
    x = layers.Conv2D(4, 3, groups=2, name="grouped")(x)
    grouped = consumers_of(keras.Model(inputs, layers.GlobalMaxPooling2D()(x)))["grouped"]
    maps = np.random.default_rng(0).normal(size=(2, 4, 4, 6)).astype(np.float32)
    rows = grouped.rows(ops.convert_to_tensor(maps), 1000, np.random.default_rng(0))
    np.testing.assert_array_equal(rows, maps.reshape(2, 32, 3))


def test_layers_with_too_many_channels_are_left_alone(monkeypatch) -> None:
    model = flat_model()
    monkeypatch.setattr(consumer, "MOST_COLUMNS", 4)
    assert list(consumers_of(model)) == ["head"]  # the input of `conv` has 5 channels
    monkeypatch.setattr(consumer, "MOST_COLUMNS", 3)
    assert consumers_of(model) == {}


# Where outputs land.


def landing_of(tail, *, model_outputs=None, **options):
    """Find the destination of a convolution in front of `tail(conv output, input)`."""
    inputs = keras.Input((6, 6, 4))
    conv = layers.Conv2D(4, 3, padding="same", name="conv", **options)(inputs)
    outputs = tail(conv, inputs)
    model = keras.Model(inputs, outputs)
    numbers = {}
    for call in find_groups(model).graph.calls:
        numbers[call.path] = call.outputs[0].number
    return consumers_of(model)["conv"].destination, numbers


def test_a_residual_block_lands_in_the_sum() -> None:
    def tail(x, inputs):
        x = layers.BatchNormalization(name="norm")(x)
        x = layers.Add(name="add")([x, inputs])
        return layers.ReLU(name="relu")(x)

    destination, numbers = landing_of(tail)
    assert destination.tensor == numbers["add"]
    assert destination.normalization.path == "norm"
    assert destination.added == (0,)
    assert destination.rectified


@pytest.mark.parametrize(
    ("end", "rectified"),
    [
        (layers.ReLU(), True),
        (layers.Activation("relu"), True),
        (layers.ReLU(max_value=6), False),
        (layers.ReLU(negative_slope=0.1), False),
        (layers.LeakyReLU(), False),
        (layers.Activation("tanh"), False),
        (layers.MaxPooling2D(), False),
    ],
    ids=ids,
)
def test_only_a_plain_relu_rectifies(end, rectified) -> None:
    destination, numbers = landing_of(lambda x, inputs: end(x))
    assert destination.rectified is rectified
    assert destination.tensor == numbers["conv"]


def test_an_activation_of_the_layer_itself_comes_before_a_normalization() -> None:
    def tail(x, inputs):
        return layers.BatchNormalization(name="norm")(x)

    destination, numbers = landing_of(tail, activation="relu")
    assert (destination.tensor, destination.rectified) == (numbers["conv"], True)
    assert destination.normalization is None
    destination, _ = landing_of(tail, activation="tanh")
    assert (destination.tensor, destination.rectified, destination.normalization) == (
        None,
        False,
        None,
    )


def two_uses(x, inputs):
    return [layers.BatchNormalization(name="norm")(x), layers.MaxPooling2D()(x)]


def also_given_out(x, inputs):
    return [x, layers.BatchNormalization(name="norm")(x)]


def rows_normalized(x, inputs):
    return layers.BatchNormalization(axis=1, name="norm")(x)


def norm_called_twice(x, inputs):
    norm = layers.BatchNormalization(name="norm")
    return layers.Add(name="add")([norm(x), norm(inputs)])


@pytest.mark.parametrize(
    "tail", [two_uses, also_given_out, rows_normalized, norm_called_twice],
)  # fmt: skip
def test_a_normalization_counts_only_if_it_is_for_this_output_alone(tail) -> None:
    destination, numbers = landing_of(tail)
    assert destination.normalization is None
    assert destination.tensor == numbers["conv"]


@pytest.mark.parametrize(
    "tail",
    [
        lambda x, inputs: layers.Add(name="add")([x, x]),
        lambda x, inputs: layers.Add(name="add")([x, layers.Conv2D(4, 6)(inputs)]),
        lambda x, inputs: layers.Subtract(name="add")([x, inputs]),
    ],
    ids=["twice", "broadcast", "difference"],
)
def test_only_a_plain_sum_of_different_tensors_is_a_residual_sum(tail) -> None:
    destination, numbers = landing_of(tail)
    assert (destination.tensor, destination.added) == (numbers["conv"], ())


def test_a_layer_called_twice_is_known_as_shared_and_lands_where_its_first_call_does() -> None:
    inputs = keras.Input((6, 6, 4))
    conv = layers.Conv2D(4, 3, padding="same", name="conv")
    x = layers.BatchNormalization(name="norm")(conv(inputs))
    model = keras.Model(inputs, conv(x))
    found = consumers_of(model)["conv"]
    assert found.shared
    assert found.destination.normalization is None
