from __future__ import annotations

import keras
import networks
import numpy as np
import pytest
from keras import layers

from edgeprune.recovery.folds import Replacement, fold, replace_channels
from edgeprune.scoring.collection import collect_statistics
from edgeprune.scoring.sums import Moments
from edgeprune.surgery.channel_removal import remove_channels
from edgeprune.surgery.plan import Plan
from edgeprune.tracing.groups import find_groups

EVERYWHERE = 10_000


def images(model: keras.Model, samples: int = 40) -> np.ndarray:
    shape = (samples, *model.inputs[0].shape[1:])
    return np.random.default_rng(7).normal(size=shape).astype(np.float32)


def fold_channels(
    model: keras.Model, keep: dict, x: np.ndarray, replacement: Replacement = "least_squares"
) -> keras.Model:
    groups, plan = find_groups(model), Plan(keep)
    statistics = collect_statistics(groups, x, positions=EVERYWHERE)
    return fold(remove_channels(model, plan, groups=groups), groups, plan, statistics, replacement)


def copy_depthwise(model: keras.Model, source: int, target: int) -> None:
    """Let a depthwise kernel treat two channels alike, its bias included."""
    for layer in model.layers:
        if isinstance(layer, layers.DepthwiseConv2D | layers.SeparableConv2D):
            separable = isinstance(layer, layers.SeparableConv2D)
            variables = [layer.depthwise_kernel] if separable else [layer.kernel, layer.bias]
            for variable in variables:
                values = variable.numpy()
                by_channel = values.reshape(*values.shape[: max(values.ndim - 2, 0)], 6, -1)
                by_channel[..., target, :] = by_channel[..., source, :]
                variable.assign(by_channel.reshape(values.shape))


def error(model: keras.Model, other: keras.Model, x: np.ndarray) -> float:
    """Largest difference of the outputs, as a fraction of their spread."""
    one, two = np.asarray(model(x)), np.asarray(other(x))
    assert one.shape == two.shape
    return float(np.abs(one - two).max() / one.std())


def copy_filter(layer: keras.Layer, weights: np.ndarray, target: int, bias: float = 0) -> None:
    """Let a layer's output channel be a combination of its others: `sum weights[i] channel i`."""
    kernel, *rest = layer.get_weights()
    kernel[..., target] = kernel @ weights
    if rest:
        rest[0][target] = rest[0] @ weights + bias
    layer.set_weights([kernel, *rest])


# Consumers: what follows a convolution 'writer' of 6 channels, up to its consumer 'consumer'.


def convolution(x, **options):
    return layers.Conv2D(5, 3, name="consumer", **options)(x)


def flattened(x):
    return layers.Dense(5, name="consumer")(layers.Flatten()(x))


def separable(x):
    return layers.SeparableConv2D(5, 3, depth_multiplier=2, name="consumer")(x)


def behind_depthwise(x):
    x = layers.DepthwiseConv2D(3, depth_multiplier=2, name="depthwise")(x)
    return layers.Conv2D(5, 1, name="consumer")(x)


CONSUMERS = {
    "conv": convolution,
    "same": lambda x: convolution(x, padding="same"),
    "strided": lambda x: convolution(x, padding="same", strides=2),
    "dilated": lambda x: convolution(x, padding="same", dilation_rate=2),
    "no bias": lambda x: convolution(x, use_bias=False),
    "grouped": lambda x: layers.Conv2D(4, 3, groups=2, padding="same", name="consumer")(x),
    "separable": separable,
    "depthwise": behind_depthwise,
    "flatten": flattened,
    "pooled": lambda x: layers.Dense(5, name="consumer")(layers.GlobalAveragePooling2D()(x)),
}
every_consumer = pytest.mark.parametrize("name", CONSUMERS)


def build(name: str, activation: str | None = "relu") -> keras.Model:
    inputs = keras.Input((9, 8, 3))
    x = layers.Conv2D(6, 3, activation=activation, name="writer")(inputs)
    return networks.randomize(keras.Model(inputs, CONSUMERS[name](x), name="net"))


@every_consumer
def test_a_channel_that_is_there_twice_is_folded_away(name) -> None:
    model = build(name)
    if name == "grouped":  # channels 0 and 3 go together, and so do 2 and 5
        for source, target in ((0, 2), (3, 5)):
            copy_filter(model.get_layer("writer"), np.eye(6)[source], target)
        keep: tuple[int, ...] = (0, 1)
    else:
        copy_filter(model.get_layer("writer"), np.eye(6)[1], 4)
        copy_depthwise(model, 1, 4)
        keep = (0, 1, 2, 3, 5)
    x = images(model)
    folded = fold_channels(model, {"writer": keep}, x)
    assert error(model, folded, x) < 2e-3
    assert error(model, fold_channels(model, {"writer": keep}, x, "mean"), x) > 0.1


@pytest.mark.parametrize("name", sorted(set(CONSUMERS) - {"grouped", "separable", "depthwise"}))
def test_a_combination_of_other_channels_is_folded_away(name) -> None:
    model = build(name, activation=None)
    copy_filter(model.get_layer("writer"), np.array([0.5, -1, 0, 2, 0, 0.3]), 4)
    x = images(model)
    folded = fold_channels(model, {"writer": (0, 1, 2, 3, 5)}, x)
    assert error(model, folded, x) < 5e-3


@pytest.mark.parametrize("replacement", ["mean", "least_squares"])
@pytest.mark.parametrize("name", ["conv", "no bias", "separable", "depthwise", "flatten", "pooled"])
def test_a_constant_channel_is_folded_into_the_bias(name, replacement) -> None:
    model = build(name)
    writer = model.get_layer("writer")
    kernel, bias = writer.get_weights()
    kernel[..., 2], bias[2] = 0, 3.0
    writer.set_weights([kernel, bias])
    x = images(model)
    folded = fold_channels(model, {"writer": (0, 1, 3, 4, 5)}, x, replacement)
    assert error(model, folded, x) < 1e-4


@pytest.mark.parametrize("name", ["same", "strided", "dilated"])
def test_under_padding_the_constant_is_the_best_single_one(name) -> None:
    model = build(name)
    writer = model.get_layer("writer")
    kernel, bias = writer.get_weights()
    kernel[..., 2], bias[2] = 0, 3.0
    writer.set_weights([kernel, bias])
    x = images(model)
    folded = fold_channels(model, {"writer": (0, 1, 3, 4, 5)}, x, "mean")
    rest = np.asarray(model(x)) - np.asarray(folded(x))
    np.testing.assert_allclose(rest.mean((0, 1, 2)), 0, atol=1e-4)
    assert np.abs(rest).max() > 1e-2


def test_the_mean_fold_is_the_model_with_the_channel_at_its_mean() -> None:
    model = build("conv")
    x = images(model)
    folded = fold_channels(model, {"writer": (0, 1, 3, 4, 5)}, x, "mean")
    seen = np.array(model.get_layer("writer")(x))
    seen[..., 2] = seen[..., 2].mean()
    np.testing.assert_allclose(folded(x), model.get_layer("consumer")(seen), rtol=1e-3, atol=1e-4)


def test_the_replacement_is_what_regression_finds() -> None:
    generator = np.random.default_rng(0)
    rows = generator.normal(size=(500, 4)) @ generator.normal(size=(4, 6)) + generator.normal(
        size=6
    )
    rows += 0.3 * generator.normal(size=rows.shape)
    zeros = np.zeros((1, 6))
    moments = Moments(500, rows.sum(0)[None], rows.T @ rows, np.array([500.0]), zeros, zeros)
    kept = np.array([True, False, True, True, False, True])
    transfer, offset = replace_channels(moments, kept, "least_squares")
    design = np.column_stack([rows[:, kept], np.ones(500)])
    expected, *_ = np.linalg.lstsq(design, rows[:, ~kept], rcond=None)
    np.testing.assert_allclose(transfer, expected[:-1], rtol=0.02, atol=0.01)
    np.testing.assert_allclose(offset[0], expected[-1], rtol=0.02, atol=0.02)
    transfer, offset = replace_channels(moments, kept, "mean")
    assert not transfer.any()
    np.testing.assert_allclose(offset[0], rows[:, ~kept].mean(0))


def test_one_channel_in_place_of_another_is_the_best_single_regression_or_copy() -> None:
    generator = np.random.default_rng(1)
    rows = generator.normal(size=(400, 3)) @ generator.normal(size=(3, 6)) + 2
    rows += 0.5 * generator.normal(size=rows.shape)
    zeros = np.zeros((1, 6))
    moments = Moments(400, rows.sum(0)[None], rows.T @ rows, np.array([400.0]), zeros, zeros)
    kept = np.array([True, False, True, True, False, True])
    names = np.nonzero(kept)[0]
    lost = {}
    for replacement in ("mean", "correlated", "affine", "least_squares"):
        transfer, offset = replace_channels(moments, kept, replacement)
        found = rows[:, kept] @ transfer + offset
        lost[replacement] = np.square(rows[:, ~kept] - found).mean(axis=0)
        np.testing.assert_allclose(found.mean(axis=0), rows[:, ~kept].mean(axis=0))
        if replacement in {"correlated", "affine"}:
            for column, removed in enumerate(np.nonzero(~kept)[0]):
                one = names[transfer[:, column] != 0]
                by_channel = np.array(
                    [np.corrcoef(rows[:, removed], rows[:, k])[0, 1] for k in names]
                )
                if replacement == "correlated":
                    assert one.tolist() == [names[by_channel.argmax()]]
                    assert transfer[:, column].max() == 1
                else:
                    assert one.tolist() == [names[np.abs(by_channel).argmax()]]
                    slope, _ = np.polyfit(rows[:, one[0]], rows[:, removed], 1)
                    assert transfer[:, column].sum() == pytest.approx(slope)
    assert (lost["least_squares"] <= lost["affine"]).all()
    assert (lost["affine"] <= np.minimum(lost["mean"], lost["correlated"]) + 1e-9).all()


def test_a_channel_that_goes_against_all_others_is_not_copied() -> None:
    rows = np.array([[1.0, -1.0], [2.0, -2.0], [3.0, -3.0]])
    zeros = np.zeros((1, 2))
    moments = Moments(3, rows.sum(0)[None], rows.T @ rows, np.array([3.0]), zeros, zeros)
    kept = np.array([True, False])
    assert not replace_channels(moments, kept, "correlated")[0].any()
    assert replace_channels(moments, kept, "affine")[0].item() == pytest.approx(-1)


@pytest.mark.parametrize("replacement", ["correlated", "affine", "least_squares"])
@pytest.mark.parametrize("name", ["conv", "same", "strided", "no bias", "pooled"])
def test_a_channel_that_is_there_twice_leaves_by_any_of_the_folds(name, replacement) -> None:
    model = build(name)
    copy_filter(model.get_layer("writer"), np.eye(6)[1], 4)
    x = images(model)
    folded = fold_channels(model, {"writer": (0, 1, 2, 3, 5)}, x, replacement)
    assert error(model, folded, x) < 5e-3


@pytest.mark.parametrize("replacement", ["mean", "correlated", "affine", "least_squares"])
def test_dead_and_constant_channels_are_no_trouble(replacement) -> None:
    model = build("conv")
    writer = model.get_layer("writer")
    kernel, bias = writer.get_weights()
    kernel[..., :3], bias[:3] = 0, (0, 2, -1)
    writer.set_weights([kernel, bias])
    x = images(model)
    folded = fold_channels(model, {"writer": (0, 3, 4, 5)}, x, replacement)
    assert error(model, folded, x) < 1e-4


def test_normalization_takes_the_constant_of_a_layer_without_bias() -> None:
    inputs = keras.Input((9, 8, 3))
    x = layers.Conv2D(6, 3, activation="relu", name="writer")(inputs)
    x = layers.Conv2D(5, 3, use_bias=False, name="consumer")(x)
    x = layers.BatchNormalization(name="norm", scale=False)(x)
    model = networks.randomize(keras.Model(inputs, layers.ReLU()(x)))
    writer = model.get_layer("writer")
    kernel, bias = writer.get_weights()
    kernel[..., 2], bias[2] = 0, 3.0
    writer.set_weights([kernel, bias])
    x = images(model)
    folded = fold_channels(model, {"writer": (0, 1, 3, 4, 5)}, x, "mean")
    assert not folded.get_layer("consumer").use_bias
    assert error(model, folded, x) < 1e-4


def test_every_consumer_of_a_group_gets_its_own_fold() -> None:
    model = networks.randomize(networks.build_residual_network())
    for name in ("stem", "outer"):
        kernel, bias = model.get_layer(name).get_weights()
        kernel[..., 3], bias[3] = kernel[..., 1], bias[1]
        model.get_layer(name).set_weights([kernel, bias])
    norm = model.get_layer("stem_norm")
    norm.set_weights([np.where(np.arange(8) == 3, w[1], w) for w in norm.get_weights()])
    x = images(model)
    keep = {"stem": tuple(c for c in range(8) if c != 3)}
    assert error(model, fold_channels(model, keep, x), x) < 5e-3
    assert error(model, remove_channels(model, Plan(keep)), x) > 0.05


def test_a_layer_called_twice_is_folded_once_for_both_calls() -> None:
    inputs = keras.Input((8, 8, 3))
    enter = layers.Conv2D(6, 1, name="enter")
    shared = layers.Conv2D(6, 3, padding="same", use_bias=False, name="shared")
    x = layers.ReLU()(enter(inputs))
    x = layers.ReLU()(shared(x))
    x = layers.ReLU()(shared(x))
    outputs = layers.Dense(3, name="head")(layers.GlobalAveragePooling2D()(x))
    model = networks.randomize(keras.Model(inputs, outputs))
    for name in ("enter", "shared"):
        copy_filter(model.get_layer(name), np.eye(6)[0], 5)
    x = images(model)
    keep = {"enter": (0, 1, 2, 3, 4)}
    folded = fold_channels(model, keep, x)
    assert error(model, folded, x) < 5e-3
    assert error(model, remove_channels(model, Plan(keep)), x) > 0.05


def test_a_reader_of_several_groups_replaces_from_all_that_it_keeps() -> None:
    inputs = keras.Input((8, 8, 3))
    left = layers.Conv2D(4, 3, name="left")(inputs)
    right = layers.Conv2D(4, 3, name="right")(inputs)
    x = layers.Concatenate()([left, right])
    model = networks.randomize(keras.Model(inputs, layers.Conv2D(5, 3, name="consumer")(x)))
    kernel, bias = model.get_layer("right").get_weights()
    from_left, bias_left = model.get_layer("left").get_weights()
    kernel[..., 1], bias[1] = from_left[..., 2], bias_left[2]
    model.get_layer("right").set_weights([kernel, bias])
    x = images(model)
    folded = fold_channels(model, {"right": (0, 2, 3)}, x)
    assert error(model, folded, x) < 2e-3


def test_a_map_flattened_beside_a_vector_is_folded_position_by_position() -> None:
    inputs = keras.Input((5, 5, 3))
    x = layers.Conv2D(4, 3, activation="relu", name="writer")(inputs)
    vector = layers.Dense(3, name="vector")(layers.GlobalMaxPooling2D()(inputs))
    x = layers.Concatenate()([vector, layers.Flatten()(x)])
    model = networks.randomize(keras.Model(inputs, layers.Dense(4, name="consumer")(x)))
    copy_filter(model.get_layer("writer"), np.eye(4)[0], 3)
    x = images(model, 200)
    keep = {"writer": (0, 1, 2), "vector": (0, 2)}
    reduced = {"writer": (0, 1, 2)}
    assert error(model, fold_channels(model, reduced, x), x) < 5e-3
    assert fold_channels(model, keep, x).output_shape == (None, 4)


@pytest.mark.parametrize("replacement", ["mean", "least_squares"])
def test_nothing_is_changed_in_place_and_shapes_stay(replacement) -> None:
    model = networks.randomize(networks.build_mobile_network())
    groups = find_groups(model)
    plan = networks.random_plan(groups)
    smaller = remove_channels(model, plan)
    x = images(model)
    statistics = collect_statistics(groups, x)
    before = [[w.copy() for w in net.get_weights()] for net in (model, smaller)]
    folded = fold(smaller, groups, plan, statistics, replacement)
    assert folded.output_shape == model.output_shape
    assert [layer.name for layer in folded.layers] == [layer.name for layer in model.layers]
    for net, weights in zip((model, smaller), before, strict=True):
        assert all(map(np.array_equal, weights, net.get_weights()))


def test_specialists_are_folded_as_well() -> None:
    model = networks.randomize(networks.build_residual_network())
    copy_filter(model.get_layer("last"), np.eye(12)[0], 7)
    groups = find_groups(model)
    plan = Plan({"last": tuple(c for c in range(12) if c != 7)}, classes=(4, 0, 2))
    x = images(model)
    statistics = collect_statistics(groups, x, positions=EVERYWHERE)
    folded = fold(remove_channels(model, plan), groups, plan, statistics)
    shares = np.asarray(model(x))[:, [4, 0, 2]]
    np.testing.assert_allclose(
        folded(x), shares / shares.sum(-1, keepdims=True), rtol=1e-2, atol=1e-4
    )


def test_half_precision_is_folded() -> None:
    policy = keras.DTypePolicy("mixed_float16")
    inputs = keras.Input((9, 8, 3))
    x = layers.Conv2D(6, 3, activation="relu", dtype=policy, name="writer")(inputs)
    x = layers.SeparableConv2D(5, 3, dtype=policy, name="consumer")(x)
    model = networks.randomize(keras.Model(inputs, x))
    copy_filter(model.get_layer("writer"), np.eye(6)[1], 4)
    copy_depthwise(model, 1, 4)
    x = images(model)
    folded = fold_channels(model, {"writer": (0, 1, 2, 3, 5)}, x)
    assert error(model, folded, x) < 1e-2
