from __future__ import annotations

import dataclasses
from functools import cache

import keras
import networks
import numpy as np
import pytest
import scipy.linalg
from keras import layers

from edgeprune.scoring.calibration_samples import CalibrationSamples
from edgeprune.scoring.collection import collect_statistics
from edgeprune.scoring.context import PruningContext, View
from edgeprune.scoring.criteria import CRITERIA
from edgeprune.scoring.method_settings import Settings
from edgeprune.scoring.subsets import (
    POOL,
    choose_greedily,
    follow_order,
    measure_pivots,
    pivoted_cholesky,
)
from edgeprune.scoring.sums import Statistics
from edgeprune.tracing.groups import Groups, find_groups

EVERYWHERE = 10_000
FEW = Settings(masks_per_channel=1, mask_samples=4)


# A model with a plain group, a residual one with several consumers, and one behind a Flatten.


def build_model() -> keras.Model:
    inputs = keras.Input((8, 8, 3), name="image")
    x = layers.Conv2D(8, 3, padding="same", name="stem")(inputs)
    x = stem = layers.ReLU(name="stem_relu")(x)
    x = layers.Conv2D(6, 3, padding="same", use_bias=False, name="inner")(x)
    x = layers.BatchNormalization(name="inner_norm")(x)
    x = layers.ReLU(name="inner_relu")(x)
    x = layers.Conv2D(8, 3, padding="same", name="outer")(x)
    x = layers.Add(name="add")([x, stem])
    x = layers.Conv2D(7, 3, strides=2, activation="relu", name="last")(x)
    x = layers.Flatten(name="flatten")(x)
    outputs = layers.Dense(5, activation="softmax", name="head")(x)
    return networks.randomize(keras.Model(inputs, outputs, name="criteria"))


IMAGES = np.random.default_rng(0).normal(size=(12, 8, 8, 3)).astype(np.float32)
TARGETS = np.arange(12) % 5


def evidence_of(
    model: keras.Model,
    classes: tuple[int, ...] | None = None,
    images: np.ndarray = IMAGES,
    targets: np.ndarray = TARGETS,
) -> PruningContext:
    groups = find_groups(model)
    statistics = collect_statistics(
        groups, images, targets, num_classes=5, positions=EVERYWHERE, batch_size=5
    )
    calibration = CalibrationSamples(groups, images, targets, classes, seed=3)
    return PruningContext(groups, statistics, classes, 3, calibration, settings=FEW)


def permute(model: keras.Model, groups: Groups, name: str, order: np.ndarray) -> keras.Model:
    """Give channel i of a group the weights of channel `order[i]`, wherever they are stored."""
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    for member in groups[name].members:
        layer = copy.get_layer(member.layer)
        weights = layer.get_weights()
        positions = np.arange(len(member.channels))
        for channel in range(groups[name].width):
            there = np.nonzero(member.channels == channel)[0]
            positions[there] = np.nonzero(member.channels == order[channel])[0]
        weights[member.weight] = np.take(weights[member.weight], positions, axis=member.axis)
        layer.set_weights(weights)
    return copy


@cache
def unchanged(attempt: int) -> PruningContext:
    """Collect the context of the model; anew for every attempt."""
    return evidence_of(build_model())


@cache
def permuted(name: str) -> tuple[PruningContext, np.ndarray]:
    """Collect the context when channels of a group have changed places, and their order."""
    model, groups = build_model(), unchanged(0).groups
    order = np.random.default_rng(5).permutation(groups[name].width)
    other = permute(model, groups, name, order)
    np.testing.assert_allclose(other(IMAGES), model(IMAGES), rtol=1e-3, atol=1e-5)
    return evidence_of(other), order


@cache
def with_a_dead_channel(name: str) -> PruningContext:
    """Collect the context when channel 2 of a group is constant."""
    model = build_model()
    for member in unchanged(0).groups[name].members:
        layer = model.get_layer(member.layer)
        weights = layer.get_weights()
        if member.role != "reads" and not member.layer.endswith("norm"):
            held = (slice(None),) * member.axis + (member.channels == 2,)
            weights[member.weight][held] = 0
        layer.set_weights(weights)
    return evidence_of(model)


@cache
def with_a_channel_for_others() -> PruningContext:
    """Collect the context for classes 1 and 3; channel 4 of `last` speaks for the rest only."""
    model = build_model()
    head = model.get_layer("head")
    kernel = head.get_weights()[0].reshape(-1, 7, 5)
    kernel[:, 4, [1, 3]] = 0
    head.set_weights([kernel.reshape(-1, 5), head.get_weights()[1]])
    return evidence_of(model, classes=(1, 3))


@pytest.fixture(scope="module")
def model() -> keras.Model:
    return build_model()


@pytest.fixture(scope="module")
def context() -> PruningContext:
    return unchanged(0)


GROUPS = ["stem", "inner", "last"]
everywhere = pytest.mark.parametrize("name", GROUPS)
COARSE = {"apoz", "hrank", "entropy"}  # few samples leave few different values
every_criterion = pytest.mark.parametrize("criterion", CRITERIA)


@every_criterion
@everywhere
def test_a_criterion_gives_one_finite_score_per_channel_and_the_same_again(
    context, criterion, name
) -> None:
    layers = context.layers.values()
    before = [weight.copy() for layer in layers for weight in layer.get_weights()]
    group = context.groups[name]
    scores = CRITERIA[criterion](context, group)
    assert scores.shape == (group.width,)
    assert np.isfinite(scores).all()
    assert len(np.unique(scores)) > (1 if criterion in COARSE else group.width / 2)
    np.testing.assert_array_equal(CRITERIA[criterion](unchanged(1), group), scores)
    after = [weight for layer in layers for weight in layer.get_weights()]
    assert all(map(np.array_equal, before, after))


@every_criterion
@everywhere
def test_scores_follow_the_channels_when_these_change_places(context, criterion, name) -> None:
    scores = CRITERIA[criterion](context, context.groups[name])
    other, order = permuted(name)
    found = CRITERIA[criterion](other, other.groups[name])
    np.testing.assert_allclose(found, scores[order], rtol=1e-5, atol=1e-4 * np.ptp(scores))


@every_criterion
@everywhere
def test_a_dead_channel_comes_last(criterion, name) -> None:
    dead = with_a_dead_channel(name)
    assert np.argmin(CRITERIA[criterion](dead, dead.groups[name])) == 2


@every_criterion
def test_what_only_other_classes_use_is_worth_nothing_to_a_specialist(criterion) -> None:
    others = with_a_channel_for_others()
    assert np.argmin(CRITERIA[criterion](others, others.groups["last"])) == 4


OF_SAMPLES = [
    "taylor_2016", "taylor_2019", "apoz", "activation_mean", "entropy", "hrank", "class_response",
    "trace_ratio",
]  # fmt: skip


@pytest.mark.parametrize("criterion", OF_SAMPLES)
def test_samples_of_other_classes_do_not_count(criterion) -> None:
    model = build_model()
    kept = np.isin(TARGETS, (1, 3))
    alone = evidence_of(model, (1, 3), IMAGES[kept], TARGETS[kept])
    together = evidence_of(model, (1, 3))
    for name in GROUPS:
        group = alone.groups[name]
        expected = CRITERIA[criterion](alone, group)
        found = CRITERIA[criterion](together, group)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * np.ptp(expected))


# What consumers see.


def test_a_view_is_the_covariance_at_the_reader_and_the_damage_to_its_output(
    model, context
) -> None:
    """With one tap the damage can be measured: noise in, relative variance of the output."""
    inputs = keras.Input((5, 5, 4))
    x = layers.Conv2D(6, 1, name="first")(inputs)
    x = layers.Conv2D(3, 1, name="second")(x)
    x = layers.BatchNormalization(name="norm")(x)
    x = layers.ReLU()(x)
    net = networks.randomize(keras.Model(inputs, layers.Conv2D(2, 1, name="third")(x)))
    images = np.random.default_rng(0).normal(size=(40, 5, 5, 4)).astype(np.float32)
    groups = find_groups(net)
    statistics = collect_statistics(groups, images, positions=EVERYWHERE)
    (view,) = PruningContext(groups, statistics).views(groups["first"])
    seen = np.asarray(keras.Model(inputs, net.get_layer("first").output)(images))
    covariance = np.cov(seen.reshape(-1, 6).T, bias=True)
    np.testing.assert_allclose(view.covariance, covariance, rtol=1e-3, atol=1e-4)

    noise = np.random.default_rng(1).normal(size=seen.shape) * np.linspace(0.2, 1, 6)
    noisy = net.get_layer("norm")(net.get_layer("second")(seen + noise))
    clean = net.get_layer("norm")(net.get_layer("second")(seen))
    error = np.asarray(noisy - clean).reshape(-1, 3).var(0)
    signal = np.asarray(clean).reshape(-1, 3).var(0)
    damage = np.trace(view.metric @ np.cov(noise.reshape(-1, 6).T, bias=True))
    assert damage == pytest.approx((error / signal).mean(), rel=1e-3)


def test_the_whole_covariance_is_as_large_as_the_signal_where_a_tap_reads_alone() -> None:
    inputs = keras.Input((6,))
    x = layers.Dense(8, name="hidden", activation="tanh")(inputs)
    x = layers.Dense(5, activation="sigmoid", name="bent")(x)
    net = networks.randomize(keras.Model(inputs, layers.Dense(4, name="head")(x)))
    samples = np.random.default_rng(0).normal(size=(60, 6)).astype(np.float32)
    groups = find_groups(net)
    context = PruningContext(groups, collect_statistics(groups, samples))
    for name in ("hidden", "bent"):  # read by a bent layer, and by the head
        (view,) = context.views(groups[name])
        assert np.sum(view.metric * view.covariance) == pytest.approx(1)


def test_a_head_with_one_output_is_judged_on_that_output() -> None:
    net = networks.randomize(
        keras.Sequential([keras.Input((6,)), layers.Dense(8, name="hidden"), layers.Dense(1)])
    )
    groups = find_groups(net)
    samples = np.random.default_rng(0).normal(size=(60, 6)).astype(np.float32)
    (view,) = PruningContext(groups, collect_statistics(groups, samples)).views(groups["hidden"])
    assert np.sum(view.metric * view.covariance) == pytest.approx(1)


def test_each_reader_of_a_group_has_a_view(context) -> None:
    views = {name: len(context.views(context.groups[name])) for name in GROUPS}
    assert views == {"stem": 2, "inner": 1, "last": 1}


@pytest.mark.parametrize("task", ["classify", "regress"])
def test_a_map_that_is_flattened_beside_a_vector_is_seen_by_channel(task) -> None:
    inputs = keras.Input((4, 4, 3))
    x = layers.Conv2D(5, 3, activation="relu", name="conv")(inputs)
    vector = layers.Dense(3, name="vector")(layers.GlobalMaxPooling2D()(inputs))
    together = layers.Concatenate()([layers.Flatten()(x), vector])
    outputs = layers.Dense(2, name="head")(together)
    net = networks.randomize(keras.Model(inputs, outputs))
    groups = find_groups(net)
    images = np.random.default_rng(0).normal(size=(30, 4, 4, 3)).astype(np.float32)
    context = PruningContext(groups, collect_statistics(groups, images), task=task)
    (view,) = context.views(groups["conv"])
    seen = np.asarray(keras.Model(inputs, x)(images))
    seen = (seen - seen.mean(0)).reshape(-1, 5)
    np.testing.assert_allclose(view.covariance, seen.T @ seen / len(seen), rtol=1e-3, atol=1e-5)
    kernel = net.get_layer("head").get_weights()[0][:20].reshape(4, 5, 2)
    if task == "classify":  # softmax does not see what all classes have in common
        kernel = kernel - kernel.mean(-1, keepdims=True)
    expected = np.einsum("sco,sdo->cd", kernel, kernel)
    np.testing.assert_allclose(
        view.metric / view.metric[0, 0], expected / expected[0, 0], rtol=1e-4
    )


def test_without_readers_that_are_known_the_filters_norm_decides() -> None:
    inputs = keras.Input((6, 3))
    x = layers.Conv1D(8, 3, name="conv")(inputs)
    net = networks.randomize(keras.Model(inputs, layers.GRU(4, name="gru")(x)))
    groups = find_groups(net)
    samples = np.random.default_rng(0).normal(size=(6, 6, 3)).astype(np.float32)
    statistics, calibration = (
        make(groups, samples) for make in (collect_statistics, CalibrationSamples)
    )
    context = PruningContext(groups, statistics, calibration=calibration)
    assert context.views(groups["conv"]) == []
    expected = np.abs(net.get_layer("conv").get_weights()[0]).sum((0, 1))
    for name, criterion in CRITERIA.items():
        scores = criterion(context, groups["conv"])
        if name not in {"random", "blended", "l2", "fpgm", "fermat"}:  # they need no consumer
            np.testing.assert_allclose(scores, expected, rtol=1e-5)
        assert np.isfinite(scores).all()


def test_a_reader_that_saw_infinities_has_no_view(model, context) -> None:
    moments = dict(context.statistics.moments)
    gram = moments["outer"].gram.copy()
    gram[0, 0] = np.inf
    moments["outer"] = dataclasses.replace(moments["outer"], gram=gram)
    broken = PruningContext(context.groups, Statistics(moments))
    assert [len(broken.views(broken.groups[name])) for name in GROUPS] == [2, 0, 1]


# Choosing subsets.


def make_views(seed: int, width: int, *, consumers: int = 2, rank: int | None = None) -> tuple:
    """Return views, and the (activations, reading kernel) that each was made of."""
    generator = np.random.default_rng(seed)
    sources = []
    for _ in range(consumers):
        mixing = generator.normal(size=(rank or width, width))
        seen = generator.normal(size=(4 * width, rank or width)) @ mixing
        seen = np.maximum(seen, 0) if rank is None else seen
        sources.append((seen - seen.mean(0), generator.normal(size=(width, 5))))
    views = [View(x.T @ x / len(x), w @ w.T) for x, w in sources]
    return views, sources


def residual_error(sources: list, kept: list[int]) -> float:
    """What remains of all consumers' outputs when kept channels predict the others: the oracle."""
    total = 0.0
    for seen, kernel in sources:
        solution, *_ = np.linalg.lstsq(seen[:, kept], seen, rcond=1e-9)
        rest = (seen - seen[:, kept] @ solution) @ kernel
        total += float((rest**2).sum() / len(seen))
    return total


@pytest.mark.parametrize("consumers", [1, 2, 3])
def test_the_error_is_what_least_squares_leaves_after_every_step(consumers) -> None:
    views, sources = make_views(consumers, 9, consumers=consumers)
    order, error = choose_greedily(views, 9)
    expected = [residual_error(sources, order[:count].tolist()) for count in range(10)]
    np.testing.assert_allclose(error, expected, rtol=1e-8, atol=1e-8 * expected[0])
    other = np.random.default_rng(0).permutation(9)
    expected = [residual_error(sources, other[:count].tolist()) for count in range(10)]
    np.testing.assert_allclose(
        follow_order(views, other), expected, rtol=1e-8, atol=1e-8 * expected[0]
    )


def test_every_greedy_choice_is_the_best_by_trying_all() -> None:
    views, sources = make_views(7, 8)
    order = choose_greedily(views, 8)[0].tolist()
    for count in range(7):
        left = [channel for channel in range(8) if channel not in order[:count]]
        tried = {channel: residual_error(sources, [*order[:count], channel]) for channel in left}
        assert order[count] == min(tried, key=lambda channel: tried[channel])


@pytest.mark.parametrize("rank", [None, 70])
def test_choices_from_pools_are_as_good_as_those_from_all_channels(monkeypatch, rank) -> None:
    width = 2 * POOL + 9
    views, _ = make_views(1, width, rank=rank)
    order, error = choose_greedily(views, width)
    monkeypatch.setattr("edgeprune.scoring.subsets.POOL", width)
    whole = choose_greedily(views, width)
    assert sorted(order.tolist()) == list(range(width))
    np.testing.assert_array_equal(order[:8], whole[0][:8])
    np.testing.assert_allclose(error, whole[1], atol=0.01 * error[0])


def test_following_the_greedy_order_gives_the_greedy_error() -> None:
    views, _ = make_views(2, POOL + 40)
    order, error = choose_greedily(views, POOL + 40)
    np.testing.assert_allclose(follow_order(views, order), error, atol=1e-9 * error[0])


def test_channels_that_others_explain_wholly_cost_nothing() -> None:
    views, sources = make_views(3, 12, consumers=1, rank=5)
    order, error = choose_greedily(views, 12)
    assert sorted(order.tolist()) == list(range(12))
    assert error[4] > 1e-6 * error[0]
    assert (error[5:] < 1e-6 * error[0]).all()
    assert residual_error(sources, order[:5].tolist()) < 1e-6 * error[0]
    assert (follow_order(views, order)[5:] < 1e-6 * error[0]).all()


def test_errors_never_rise() -> None:
    views, _ = make_views(4, 30, consumers=2, rank=11)
    for error in (choose_greedily(views, 30)[1], follow_order(views, np.arange(30))):
        assert (np.diff(error) <= 0).all()
        assert (error >= 0).all()


def test_without_views_nothing_is_lost() -> None:
    order, error = choose_greedily([], 4)
    assert (order.tolist(), error.tolist()) == ([0, 1, 2, 3], [0] * 5)
    assert follow_order([], np.arange(4)).tolist() == [0] * 5


def test_views_of_dead_channels_are_no_trouble() -> None:
    dead = View(np.zeros((3, 3)), np.eye(3))
    assert choose_greedily([dead], 3)[1].tolist() == [0, 0, 0, 0]
    assert follow_order([dead], np.arange(3)).tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize("seed", range(5))
def test_pivoted_cholesky_pivots_like_qr_with_column_pivoting(seed) -> None:
    columns = np.random.default_rng(seed).normal(size=(60, 20)) * np.linspace(1, 3, 20)
    triangle, pivots = scipy.linalg.qr(columns, mode="r", pivoting=True)
    gram = columns.T @ columns
    before = gram.copy()
    np.testing.assert_array_equal(pivoted_cholesky(gram), pivots)
    diagonal = np.abs(np.diag(triangle))
    np.testing.assert_allclose(measure_pivots(gram)[1], diagonal / diagonal[0], rtol=1e-9)
    np.testing.assert_array_equal(gram, before)


def test_columns_that_others_explain_come_last_the_largest_first() -> None:
    base = np.random.default_rng(0).normal(size=(50, 3))
    columns = np.column_stack([base[:, 0] * 0.1, base, base[:, 1] * 0.2])
    order = pivoted_cholesky(columns.T @ columns).tolist()
    assert sorted(order[:3]) == [1, 2, 3]
    assert order[3:] == [4, 0]
    assert sorted(pivoted_cholesky(np.zeros((3, 3))).tolist()) == [0, 1, 2]


def test_l1_is_the_sum_over_all_writers_of_a_group(model, context) -> None:
    scores = CRITERIA["l1"](context, context.groups["stem"])
    kernels = [model.get_layer(name).get_weights()[0] for name in ("stem", "outer")]
    expected = sum(np.abs(kernel).sum((0, 1, 2)) for kernel in kernels)
    np.testing.assert_allclose(scores, expected, rtol=1e-5)
