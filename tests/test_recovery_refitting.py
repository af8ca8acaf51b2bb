from __future__ import annotations

import keras
import networks
import numpy as np
import pytest
from keras import layers
from small_models import Recorder

from edgeprune.groups import find_groups
from edgeprune.layouts import convolves_channels_first
from edgeprune.plan import Plan
from edgeprune.recovery import RECOVERIES, Loss
from edgeprune.recovery.equations import Equations
from edgeprune.recovery.folds import fold
from edgeprune.recovery.refitting import refit
from edgeprune.statistics import collect_statistics
from edgeprune.surgery import slim

NATIVE = pytest.mark.skipif(
    not convolves_channels_first(), reason="channels first does not run here unless it is moved"
)


def images(model: keras.Model, samples: int = 40) -> np.ndarray:
    shape = (samples, *model.inputs[0].shape[1:])
    return np.random.default_rng(7).normal(size=shape).astype(np.float32)


def refit_channels(model: keras.Model, keep: dict, x: np.ndarray, **options) -> keras.Model:
    groups, plan = find_groups(model), Plan(keep)
    return refit(slim(model, plan, groups=groups), groups, plan, x, **options)


def error(model: keras.Model, other: keras.Model, x: np.ndarray) -> float:
    """Largest difference of the outputs, as a fraction of their spread."""
    one, two = np.asarray(model(x)), np.asarray(other(x))
    assert one.shape == two.shape
    return float(np.abs(one - two).max() / one.std())


def mean_error(model: keras.Model, other: keras.Model, x: np.ndarray) -> float:
    one, two = np.asarray(model(x)), np.asarray(other(x))
    return float(np.square(one - two).mean() / one.var())


def repeat_filter(model: keras.Model, name: str, source: int, target: int) -> None:
    """Let a layer write one channel twice."""
    layer = model.get_layer(name)
    weights = layer.get_weights()
    for weight in weights:
        weight[..., target] = weight[..., source]
    layer.set_weights(weights)


READERS = {
    "conv": lambda x: layers.Conv2D(5, 3, name="reader")(x),
    "same": lambda x: layers.Conv2D(5, 3, padding="same", name="reader")(x),
    "strided": lambda x: layers.Conv2D(5, 3, strides=2, padding="same", name="reader")(x),
    "dilated": lambda x: layers.Conv2D(5, 3, dilation_rate=2, padding="same", name="reader")(x),
    "no bias": lambda x: layers.Conv2D(5, 3, use_bias=False, name="reader")(x),
    "relu": lambda x: layers.Conv2D(5, 3, activation="relu", name="reader")(x),
    "tanh": lambda x: layers.Conv2D(5, 3, activation="tanh", name="reader")(x),
    "separable": lambda x: layers.SeparableConv2D(5, 3, padding="same", name="reader")(x),
    "flatten": lambda x: layers.Dense(5, name="reader")(layers.Flatten()(x)),
    "pooled": lambda x: layers.Dense(5, name="reader")(layers.GlobalAveragePooling2D()(x)),
    "positions": lambda x: layers.Dense(5, name="reader")(x),
}
every_reader = pytest.mark.parametrize("name", READERS)


def build(name: str, *, normalize: bool = False) -> keras.Model:
    inputs = keras.Input((9, 8, 3))
    x = layers.Conv2D(6, 3, activation="relu", name="writer")(inputs)
    x = READERS[name](x)
    if normalize:
        x = layers.BatchNormalization(name="norm")(x)
    return networks.randomize(keras.Model(inputs, x, name="net"))


@every_reader
def test_a_channel_that_is_there_twice_is_not_missed(name) -> None:
    model = build(name)
    repeat_filter(model, "writer", 1, 4)
    if name == "separable":
        kernel = model.get_layer("reader").depthwise_kernel
        values = kernel.numpy()
        values[:, :, 4] = values[:, :, 1]
        kernel.assign(values)
    x = images(model, 250 if name == "flatten" else 60)
    keep = {"writer": (0, 1, 2, 3, 5)}
    assert error(model, slim(model, Plan(keep)), x) > 0.1
    groups, plan = find_groups(model), Plan(keep)
    start = slim(model, plan)
    if name == "relu":  # from far away, what a ReLU leaves free takes many rounds
        start = fold(start, groups, plan, collect_statistics(groups, x))
    assert error(model, refit(start, groups, plan, x, ridge=1e-6), x) < 5e-3


@every_reader
@pytest.mark.parametrize("normalize", [False, True])
def test_a_refit_of_a_fold_with_nothing_to_mend_returns_the_original(name, normalize) -> None:
    """A dead channel goes: every layer behind it is solved, and the solution is what it was."""
    model = build(name, normalize=normalize)
    writer = model.get_layer("writer")
    kernel, bias = writer.get_weights()
    kernel[..., 3], bias[3] = 0, 0
    writer.set_weights([kernel, bias])
    x = images(model)
    keep = {"writer": (0, 1, 2, 4, 5)}
    assert error(model, refit_channels(model, keep, x), x) < 1e-5


@pytest.mark.parametrize("build_network", [networks.build_residual_network,
                                           networks.build_mobile_network])  # fmt: skip
def test_a_refit_at_full_width_is_the_original(build_network) -> None:
    model = networks.randomize(build_network())
    assert error(model, refit_channels(model, {}, images(model)), images(model)) == 0


@every_reader
def test_a_refit_is_no_worse_than_a_fold_and_that_than_the_cut(name) -> None:
    model = build(name, normalize=True)
    groups, plan = find_groups(model), Plan({"writer": (0, 2, 3)})
    x = images(model, 60)
    smaller = slim(model, plan)
    folded = fold(smaller, groups, plan, collect_statistics(groups, x, positions=100))
    recovered = refit(folded, groups, plan, x, ridge=1e-6)
    errors = [mean_error(model, other, x) for other in (smaller, folded, recovered)]
    assert errors[1] < errors[0]
    assert errors[2] < 1.001 * errors[1]
    if name in {"conv", "same", "strided", "dilated", "flatten"}:
        assert errors[2] < 0.98 * errors[1]  # neighbours on the map know of what is missing


def test_a_refit_is_the_least_squares_solution() -> None:
    model = build("conv")
    x = images(model, 60)
    recovered = refit_channels(model, {"writer": (0, 2, 3)}, x, ridge=0)
    seen = np.asarray(recovered.get_layer("writer")(x))
    wanted = np.asarray(model(x)).reshape(-1, 5)
    windows = np.lib.stride_tricks.sliding_window_view(seen, (3, 3), axis=(1, 2))
    patches = np.moveaxis(windows, 3, -1).reshape(len(wanted), -1)
    design = np.column_stack([patches, np.ones(len(patches))])
    solution, *_ = np.linalg.lstsq(design, wanted, rcond=None)
    kernel, bias = recovered.get_layer("reader").get_weights()
    np.testing.assert_allclose(kernel.reshape(27, 5), solution[:-1], atol=1e-3)
    np.testing.assert_allclose(bias, solution[-1], atol=1e-3)


def test_errors_of_earlier_layers_are_mended_by_later_ones() -> None:
    inputs = keras.Input((9, 8, 3))
    x = layers.Conv2D(8, 3, activation="relu", name="first")(inputs)
    x = layers.Conv2D(8, 1, activation="relu", name="second")(x)
    model = networks.randomize(keras.Model(inputs, layers.Conv2D(6, 3, name="third")(x)))
    x = images(model, 100)
    recovered = refit_channels(model, {"first": (0, 1, 2, 3)}, x)
    halfway = keras.models.clone_model(recovered)
    halfway.set_weights(recovered.get_weights())
    halfway.get_layer("third").set_weights(model.get_layer("third").get_weights())
    assert mean_error(model, recovered, x) < 0.95 * mean_error(model, halfway, x)


def build_residual(*, scale: bool = True, use_bias: bool = False, slope: float = 0) -> keras.Model:
    inputs = keras.Input((9, 8, 3))
    x = shortcut = layers.Conv2D(6, 1, activation="relu", name="enter")(inputs)
    bend = "tanh" if slope else "relu"
    x = layers.Conv2D(8, 3, padding="same", activation=bend, name="inner")(x)
    x = layers.Conv2D(6, 3, padding="same", use_bias=use_bias, name="outer")(x)
    x = layers.BatchNormalization(scale=scale, name="norm")(x)
    x = layers.ReLU(negative_slope=slope)(layers.Add(name="add")([shortcut, x]))
    return networks.randomize(keras.Model(inputs, layers.Conv2D(5, 1, name="after")(x)))


@pytest.mark.parametrize("scale", [True, False])
@pytest.mark.parametrize("use_bias", [True, False])
def test_a_solution_behind_normalization_and_a_residual_sum_is_found(scale, use_bias) -> None:
    model = build_residual(scale=scale, use_bias=use_bias, slope=0.2)
    repeat_filter(model, "inner", 1, 4)
    for name in ("enter", "outer", "norm"):
        repeat_filter(model, name, 0, 5)
    x = images(model, 60)
    keep = {"inner": (0, 1, 2, 3, 5, 6, 7), "enter": (0, 1, 2, 3, 4)}
    recovered = refit_channels(model, keep, x, ridge=1e-6)
    assert error(model, slim(model, Plan(keep)), x) > 0.1
    assert error(model, recovered, x) < 5e-3
    assert recovered.get_layer("outer").use_bias is use_bias


@pytest.mark.parametrize("use_bias", [True, False])
def test_a_refit_after_a_fold_counts_constants_once(use_bias) -> None:
    model = build_residual(use_bias=use_bias)
    x = 1 + images(model, 60)
    groups, plan = find_groups(model), Plan({"inner": (0, 1, 4, 5)})
    smaller = slim(model, plan)
    folded = fold(smaller, groups, plan, collect_statistics(groups, x))
    recovered = refit(folded, groups, plan, x)
    errors = [mean_error(model, net, x) for net in (smaller, folded, recovered)]
    assert errors[1] < errors[0]
    assert errors[2] < 0.95 * errors[1]


def test_what_a_relu_drops_need_not_be_matched() -> None:
    generator = np.random.default_rng(0)
    patches = generator.normal(size=(3000, 6)).astype(np.float32)
    wanted = (np.maximum(patches, 0) @ generator.normal(size=(6, 4)) - 1).astype(np.float32)
    found, scale = np.zeros_like(wanted), np.ones(4, np.float32)
    equations = Equations(patches[:, :4], found, wanted, scale)

    def lost(solution: tuple[np.ndarray, np.ndarray]) -> float:
        answer = patches[:, :4] @ solution[0] + solution[1]
        return float(np.square(np.maximum(answer, 0) - np.maximum(wanted, 0)).mean())

    plain, free = (equations.solve(ridge=0, rectified=rectified) for rectified in (False, True))
    assert lost(free) < 0.9 * lost(plain)


@pytest.mark.parametrize("scale", [1.0, -0.3])
def test_equations_without_a_ridge_are_solved_like_least_squares(scale) -> None:
    generator = np.random.default_rng(0)
    patches = (2 + generator.normal(size=(200, 5))).astype(np.float32)
    found, wanted = generator.normal(size=(2, 200, 3)).astype(np.float32)
    equations = Equations(patches, found, wanted, np.full(3, scale, np.float32))
    kernel, constant = equations.solve(ridge=0)
    design = np.column_stack([patches, np.ones(200)])
    expected, *_ = np.linalg.lstsq(design, (wanted - found) / scale, rcond=None)
    np.testing.assert_allclose(np.vstack([kernel, constant]), expected, atol=2e-3)


def test_a_large_ridge_leaves_the_kernel_alone_and_still_moves_the_constant() -> None:
    generator = np.random.default_rng(0)
    patches = generator.normal(size=(200, 5)).astype(np.float32)
    wanted = np.full((200, 2), 3, np.float32)
    equations = Equations(patches, np.zeros_like(wanted), wanted, np.ones(2, np.float32))
    kernel, constant = equations.solve(ridge=1e9)
    np.testing.assert_allclose(kernel, 0, atol=1e-6)
    np.testing.assert_allclose(constant, 3, rtol=1e-4)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_equations_that_are_not_finite_change_nothing(bad) -> None:
    patches, wanted = np.ones((4, 2), np.float32), np.ones((4, 1), np.float32)
    patches[1, 1] = bad
    equations = Equations(patches, np.zeros_like(wanted), wanted, np.ones(1, np.float32))
    kernel, constant = equations.solve(ridge=1e-3, rectified=True)
    assert not kernel.any()
    assert not constant.any()


def test_dead_inputs_are_no_trouble() -> None:
    wanted = np.full((4, 1), 2, np.float32)
    equations = Equations(
        np.zeros((4, 3), np.float32), np.zeros_like(wanted), wanted, np.ones(1, np.float32)
    )
    kernel, constant = equations.solve(ridge=1e-3)
    assert not kernel.any()
    assert constant == pytest.approx(2)


# The whole model.


def lose(model: keras.Model, plan: Plan, x: np.ndarray, **options) -> Loss:
    groups = find_groups(model)
    smaller = slim(model, plan, groups=groups)
    return Loss(smaller, groups, plan, collect_statistics(groups, x), x, **options)


BUILDERS = [
    networks.build_residual_network,
    networks.build_mobile_network,
    networks.build_nested_network,
]


@pytest.mark.parametrize("recovery", RECOVERIES)
@pytest.mark.parametrize("build_network", BUILDERS, ids=lambda build: build.__name__)
def test_recoveries_return_new_models_of_the_slim_ones_shapes(build_network, recovery) -> None:
    model = networks.randomize(build_network())
    plan = networks.random_plan(find_groups(model), share=0.5)
    loss = lose(model, plan, images(model, 20))
    before = [[w.copy() for w in net.get_weights()] for net in (model, loss.smaller)]
    recovered = RECOVERIES[recovery](loss)
    assert recovered.output_shape == model.output_shape
    assert recovered.output_names == model.output_names
    assert [t.name for t in recovered.inputs] == [t.name for t in model.inputs]
    for net, weights in zip((model, loss.smaller), before, strict=True):
        assert all(map(np.array_equal, weights, net.get_weights()))
    assert all(np.isfinite(weight).all() for weight in recovered.get_weights())


def test_the_refit_comes_closer_to_the_original_than_all_folds() -> None:
    model = networks.randomize(networks.build_residual_network())
    plan = networks.random_plan(find_groups(model), share=0.4)
    loss = lose(model, plan, images(model, 200))
    errors = {name: mean_error(model, recover(loss), loss.inputs)
              for name, recover in RECOVERIES.items()}  # fmt: skip
    folds = {name: lost for name, lost in errors.items() if not name.startswith("refit")}
    assert errors["refit"] < min(folds.values())
    assert errors["least_squares"] < errors["none"]


def test_the_refit_is_the_same_under_one_seed() -> None:
    model = networks.randomize(networks.build_residual_network())
    plan = networks.random_plan(find_groups(model), share=0.4)
    one, two, other = (
        RECOVERIES["refit"](lose(model, plan, images(model, 300), seed=seed)).get_weights()
        for seed in (3, 3, 4)
    )
    assert all(map(np.array_equal, one, two))
    assert not all(map(np.array_equal, one, other))


def test_a_refit_mends_a_specialist() -> None:
    model = networks.randomize(networks.build_residual_network())
    groups = find_groups(model)
    plan = Plan(networks.random_plan(groups, share=0.4).keep, classes=(4, 0, 2))
    x = images(model, 100)
    smaller = slim(model, plan)
    recovered = refit(smaller, groups, plan, x)
    shares = np.asarray(model(x))[:, [4, 0, 2]]
    wanted = shares / shares.sum(-1, keepdims=True)
    lost = [float(np.abs(np.asarray(net(x)) - wanted).mean()) for net in (smaller, recovered)]
    assert lost[1] < 0.5 * lost[0]


def test_grouped_and_one_dimensional_convolutions_are_solved() -> None:
    inputs = keras.Input((20, 3))
    x = layers.Conv1D(8, 3, padding="causal", activation="relu", name="writer")(inputs)
    x = layers.Conv1D(8, 3, groups=2, activation="relu", name="grouped")(x)
    model = networks.randomize(keras.Model(inputs, layers.Conv1D(5, 3, name="reader")(x)))
    x = images(model, 200)
    groups = find_groups(model)
    plan = Plan({"writer": (0, 2, 3), "grouped": (0, 1, 3)})
    smaller = slim(model, plan)
    assert smaller.get_layer("grouped").groups == 2
    errors = [mean_error(model, net, x) for net in (smaller, refit(smaller, groups, plan, x))]
    assert errors[1] < 0.5 * errors[0]


@NATIVE
def test_channels_first_is_solved() -> None:
    inputs = keras.Input((3, 9, 8))
    first = {"data_format": "channels_first"}
    x = shortcut = layers.Conv2D(6, 1, name="enter", **first)(inputs)
    x = layers.Conv2D(8, 3, padding="same", activation="relu", name="inner", **first)(x)
    x = layers.Conv2D(6, 3, padding="same", use_bias=False, name="outer", **first)(x)
    x = layers.BatchNormalization(axis=1, name="norm")(x)
    x = layers.ReLU()(layers.Add()([x, shortcut]))
    model = networks.randomize(keras.Model(inputs, x))
    x = images(model, 60)
    groups, plan = find_groups(model), Plan({"inner": (0, 2, 3, 5)})
    smaller = slim(model, plan)
    recovered = refit(smaller, groups, plan, x)
    assert not recovered.get_layer("outer").use_bias
    assert mean_error(model, recovered, x) < 0.7 * mean_error(model, smaller, x)


def test_sizes_that_are_left_open_are_solved_at_every_position() -> None:
    inputs = keras.Input((None, None, 3))
    x = layers.Conv2D(6, 3, activation="relu", name="writer")(inputs)
    model = networks.randomize(keras.Model(inputs, layers.Conv2D(5, 3, name="reader")(x)))
    x = np.random.default_rng(0).normal(size=(30, 9, 8, 3)).astype(np.float32)
    groups, plan = find_groups(model), Plan({"writer": (0, 2, 3, 5)})
    smaller = slim(model, plan)
    recovered = refit(smaller, groups, plan, x)
    assert mean_error(model, recovered, x) < 0.7 * mean_error(model, smaller, x)


def test_a_layer_called_twice_is_solved_for_both_calls() -> None:
    model = networks.randomize(networks.build_nested_network())
    groups = find_groups(model)
    plan = Plan({"encoder/block/first": (0, 1, 3, 4)})
    x = images(model, 100)
    smaller = slim(model, plan)
    recovered = refit(smaller, groups, plan, x)
    assert mean_error(model, recovered, x) < 0.5 * mean_error(model, smaller, x)
    first, second = (
        np.asarray(net.get_layer("encoder").get_layer("block").get_layer("second").kernel)
        for net in (smaller, recovered)
    )
    assert not np.array_equal(first, second)


def test_a_layer_called_twice_loses_a_repeated_channel_without_a_trace() -> None:
    model = networks.randomize(networks.build_nested_network())
    block = model.get_layer("encoder").get_layer("block")
    kernel, bias = block.get_layer("first").get_weights()
    kernel[..., 5], bias[5] = kernel[..., 2], bias[2]
    block.get_layer("first").set_weights([kernel, bias])
    x = images(model, 60)
    keep = {"encoder/block/first": (0, 1, 2, 3, 4)}
    groups, plan = find_groups(model), Plan(keep)
    smaller = slim(model, plan)
    folded = fold(smaller, groups, plan, collect_statistics(groups, x))
    assert error(model, smaller, x) > 0.1
    assert error(model, refit(folded, groups, plan, x), x) < 1e-3


@pytest.mark.parametrize("dimensions", [1, 2])
@pytest.mark.parametrize(
    "data_format", ["channels_last", pytest.param("channels_first", marks=NATIVE)]
)
def test_depthwise_kernels_are_solved_too(dimensions, data_format) -> None:
    """What comes before a depthwise layer is wrong by a factor that only its taps can undo."""
    first = {"data_format": data_format}
    shape = (9, 8)[:dimensions]
    inputs = keras.Input((*shape, 3) if data_format == "channels_last" else (3, *shape))
    conv = getattr(layers, f"Conv{dimensions}D")
    depthwise = getattr(layers, f"DepthwiseConv{dimensions}D")
    x = conv(6, 1, name="writer", **first)(inputs)
    x = conv(5, 1, name="inner", **first)(x)
    x = depthwise(3, padding="same", use_bias=False, name="depthwise", **first)(x)
    model = networks.randomize(keras.Model(inputs, conv(4, 1, name="reader", **first)(x)))
    x = images(model, 100)
    groups, plan = find_groups(model), Plan({"writer": (0, 1, 2, 4)})
    smaller = slim(model, plan)
    recovered = refit(smaller, groups, plan, x)
    before, after = (net.get_layer("depthwise") for net in (smaller, recovered))
    assert not np.array_equal(before.kernel, after.kernel)
    assert after.use_bias
    assert mean_error(model, recovered, x) < 0.7 * mean_error(model, smaller, x)


def test_layers_before_the_first_removed_channel_are_not_solved() -> None:
    model = networks.randomize(networks.build_residual_network())
    recovered = refit_channels(model, {"last": (0, 2, 3)}, images(model))
    for name in ("stem", "inner", "outer"):
        weights = recovered.get_layer(name).get_weights()
        assert all(map(np.array_equal, model.get_layer(name).get_weights(), weights))
    kernel = model.get_layer("last").get_weights()[0]
    np.testing.assert_array_equal(recovered.get_layer("last").kernel, kernel[..., [0, 2, 3]])


@pytest.mark.parametrize("rectified", [False, True])
def test_more_unknowns_than_places_give_the_same_solution(rectified) -> None:
    generator = np.random.default_rng(0)
    patches = (1 + generator.normal(size=(60, 50))).astype(np.float32)
    found, wanted = generator.normal(size=(2, 60, 3)).astype(np.float32)
    scale = np.array([1, -0.3, 2], np.float32)
    few = Equations(patches, found, wanted, scale)
    many = Equations(
        np.repeat(patches, 2, axis=1), found, wanted, scale
    )  # 100 unknowns at 60 places
    kernel, constant = few.solve(ridge=0.02, rectified=rectified)
    # A repeated column shares one coefficient; the penalty of the pair is half as large for it,
    # and the mean square of the patches is the same.
    twice, other = many.solve(ridge=0.04, rectified=rectified)
    np.testing.assert_allclose(twice[::2], twice[1::2], atol=1e-4)
    np.testing.assert_allclose(twice[::2] + twice[1::2], kernel, atol=1e-3)
    np.testing.assert_allclose(other, constant, atol=1e-3)


def test_a_kernel_of_any_size_is_solved_in_bounded_memory(monkeypatch) -> None:
    model = build("flatten")
    repeat_filter(model, "writer", 1, 4)
    x = images(model, 400)
    keep = {"writer": (0, 1, 2, 3, 5)}
    seen = []
    solve = Equations.solve

    def watch(equations: Equations, **options) -> tuple[np.ndarray, np.ndarray]:
        seen.append(equations.patches.shape)
        return solve(equations, **options)

    monkeypatch.setattr(Equations, "solve", watch)
    monkeypatch.setattr("edgeprune.recovery.refitting.MOST_NUMBERS", 40_000)
    groups, plan = find_groups(model), Plan(keep)
    smaller = slim(model, plan)
    recovered = refit(smaller, groups, plan, x)
    assert seen == [(190, 210)]  # 210 unknowns, at fewer places
    assert mean_error(model, recovered, x) < 0.3 * mean_error(model, smaller, x)


def test_half_precision_is_solved() -> None:
    policy = keras.DTypePolicy("mixed_float16")
    inputs = keras.Input((9, 8, 3))
    x = layers.Conv2D(6, 3, activation="relu", dtype=policy, name="writer")(inputs)
    x = layers.SeparableConv2D(6, 3, activation="relu", dtype=policy, name="middle")(x)
    x = layers.Conv2D(5, 3, dtype=policy, name="reader")(x)
    model = networks.randomize(keras.Model(inputs, x))
    x = images(model, 60)
    keep = {"writer": (0, 2, 3, 5), "middle": (0, 1, 4)}
    recovered = refit_channels(model, keep, x)
    assert mean_error(model, recovered, x) < mean_error(model, slim(model, Plan(keep)), x)


def test_every_call_is_told() -> None:
    model = networks.randomize(networks.build_residual_network())
    recorder = Recorder()
    groups, plan = find_groups(model), Plan({"inner": (0, 1)})
    refit(slim(model, plan), groups, plan, images(model), progress=recorder)
    assert recorder.stages == [["refit", len(groups.graph.calls), len(groups.graph.calls)]]
