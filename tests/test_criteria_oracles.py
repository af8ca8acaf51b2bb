"""Every criterion against its formula, written out plainly; several members are summed."""

from __future__ import annotations

import itertools

import keras
import networks
import numpy as np
import pytest
import scipy.optimize
import scipy.stats
from keras import layers

from edgeprune.errors import EdgepruneError
from edgeprune.scoring.blends import cluster_criteria, correlate_ranks
from edgeprune.scoring.calibration_samples import CalibrationSamples
from edgeprune.scoring.collection import collect_statistics
from edgeprune.scoring.context import PruningContext
from edgeprune.scoring.criteria import CRITERIA
from edgeprune.scoring.discrimination import select_by_trace_ratio
from edgeprune.scoring.filters import find_fermat_point
from edgeprune.scoring.reconstruction import follow_lasso, remove_greedily
from edgeprune.tracing.groups import find_groups

IMAGES = np.random.default_rng(0).normal(size=(30, 8, 8, 3)).astype(np.float32)
TARGETS = np.arange(30) % 5


@pytest.fixture(scope="module")
def model() -> keras.Model:
    """`stem` is written by two layers, normalised by one, and read by two."""
    inputs = keras.Input((8, 8, 3), name="image")
    x = layers.Conv2D(8, 3, padding="same", name="stem")(inputs)
    x = layers.BatchNormalization(name="stem_norm")(x)
    x = stem = layers.ReLU(name="stem_relu")(x)
    x = layers.Conv2D(6, 3, padding="same", activation="relu", name="inner")(x)
    x = layers.Conv2D(8, 3, padding="same", name="outer")(x)
    x = layers.ReLU(name="sum_relu")(layers.Add(name="add")([x, stem]))
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return networks.randomize(
        keras.Model(inputs, layers.Dense(5, activation="softmax", name="head")(x))
    )


@pytest.fixture(scope="module")
def context(model) -> PruningContext:
    groups = find_groups(model)
    statistics = collect_statistics(groups, IMAGES, TARGETS, num_classes=5, positions=10_000)
    return PruningContext(
        groups, statistics, calibration=CalibrationSamples(groups, IMAGES, TARGETS)
    )


def score(context: PruningContext, criterion: str, group: str = "stem") -> np.ndarray:
    return CRITERIA[criterion](context, context.groups[group])


def seen_by_consumers(model) -> list[np.ndarray]:
    """What the two consumers of `stem` take: the map of its ReLU, and the pooled sum."""
    ends = [model.get_layer("stem_relu").output, model.get_layer("pool").output]
    return [np.asarray(x) for x in keras.Model(model.input, ends)(IMAGES)]


def filters(model, name: str) -> np.ndarray:
    kernel = model.get_layer(name).get_weights()[0]
    return kernel.reshape(-1, kernel.shape[-1]).T


def test_norms_and_distances_are_those_of_all_writers(model, context) -> None:
    both = [filters(model, name) for name in ("stem", "outer")]
    squares = sum((rows**2).sum(1) for rows in both)
    np.testing.assert_allclose(score(context, "l2"), np.sqrt(squares), rtol=1e-5)
    expected = sum(
        np.array([sum(np.linalg.norm(row - other) for other in rows) for row in rows])
        for rows in both
    )
    np.testing.assert_allclose(score(context, "fpgm"), expected, rtol=1e-5)
    gamma = np.abs(model.get_layer("stem_norm").get_weights()[0])
    np.testing.assert_allclose(score(context, "bn_scale"), gamma, rtol=1e-6)
    np.testing.assert_allclose(
        score(context, "bn_scale", "inner"), score(context, "l1", "inner"), rtol=1e-6
    )


@pytest.mark.parametrize("seed", range(6))
def test_the_fermat_point_has_the_smallest_sum_of_distances(seed) -> None:
    points = np.random.default_rng(seed).normal(size=(4 + seed, 3))

    def total(point: np.ndarray) -> float:
        return float(np.linalg.norm(points - point, axis=1).sum())

    best = scipy.optimize.minimize(total, points.mean(0), method="Nelder-Mead", tol=1e-10)
    assert total(find_fermat_point(points)) <= min(best.fun, *map(total, points)) + 1e-6


def test_a_fermat_point_that_is_one_of_the_points_is_found() -> None:
    star = np.array([[1.0, 0], [-1, 0], [0, 1], [0, -1], [0, 0]])
    np.testing.assert_allclose(find_fermat_point(star), [0, 0], atol=1e-9)
    heavy = np.array([[3.0, 3]] * 4 + [[0, 0], [9, 1]])
    np.testing.assert_allclose(find_fermat_point(heavy), [3, 3], atol=1e-6)
    np.testing.assert_allclose(find_fermat_point(np.ones((3, 2))), [1, 1])


def test_fermat_scores_add_up_over_writers(model, context) -> None:
    expected = sum(
        np.linalg.norm(rows - find_fermat_point(rows), axis=1)
        for rows in (filters(model, "stem"), filters(model, "outer"))
    )
    np.testing.assert_allclose(score(context, "fermat"), expected, rtol=1e-5)


def test_activations_are_those_of_all_readers(model, context) -> None:
    early, late = seen_by_consumers(model)
    magnitude = np.abs(early).mean((0, 1, 2)) + np.abs(late).mean(0)
    np.testing.assert_allclose(score(context, "activation_mean"), magnitude, rtol=1e-4)
    active = (early != 0).mean((0, 1, 2)) + (late != 0).mean(0)
    np.testing.assert_allclose(score(context, "apoz"), active, rtol=1e-6)
    by_class = [
        np.stack([pooled[number == TARGETS].mean(0) for number in range(5)])
        for pooled in (early.mean((1, 2)), late)
    ]
    np.testing.assert_allclose(
        score(context, "class_response"), sum(m.max(0) for m in by_class), rtol=1e-4
    )


def test_entropy_is_that_of_the_histogram_of_pooled_responses(model, context) -> None:
    early, late = seen_by_consumers(model)
    bins = round(np.sqrt(len(IMAGES)))

    def entropy(column: np.ndarray) -> float:
        return float(scipy.stats.entropy(np.histogram(column, bins)[0]))

    expected = [
        sum(entropy(pooled[:, channel]) for pooled in (early.mean((1, 2)), late))
        for channel in range(8)
    ]
    np.testing.assert_allclose(score(context, "entropy"), expected, atol=0.12)


def test_ranks_are_those_of_the_maps(model, context) -> None:
    early, late = seen_by_consumers(model)
    ranks = [
        np.mean([np.linalg.matrix_rank(image[:, :, channel]) for image in early])
        + np.mean(late[:, channel] != 0)
        for channel in range(8)
    ]
    np.testing.assert_allclose(score(context, "hrank"), ranks)


def losses_with(model, channel: int, factor: float, tensors: list[np.ndarray]) -> np.ndarray:
    """Cross-entropy of each image with one channel of `stem` scaled at both consumers."""
    early, late = (tensor.copy() for tensor in tensors)
    inner = model.get_layer("inner")
    scaled = early.copy()
    scaled[..., channel] *= factor
    added = model.get_layer("outer")(inner(scaled))
    late = np.asarray(model.get_layer("pool")(model.get_layer("sum_relu")(added + early)))
    late = late.copy()
    late[:, channel] *= factor
    probability = np.asarray(model.get_layer("head")(late), np.float64)
    return -np.log(probability[np.arange(len(TARGETS)), TARGETS])


def test_taylor_scores_are_derivatives_by_a_gate_at_all_readers(model, context) -> None:
    tensors, width = seen_by_consumers(model), 1e-2
    slopes = np.stack([
        (losses_with(model, c, 1 + width, tensors) - losses_with(model, c, 1 - width, tensors))
        / (2 * width)
        for c in range(8)
    ], axis=1)  # fmt: skip
    found = score(context, "taylor_2016")
    np.testing.assert_allclose(found, np.abs(slopes).mean(0), rtol=0.03)
    found = score(context, "taylor_2019")
    np.testing.assert_allclose(found, (slopes**2).mean(0), rtol=0.05)


def test_models_that_do_not_classify_have_gradients_too() -> None:
    inputs = keras.Input((6,))
    x = layers.Dense(5, activation="tanh", name="hidden")(inputs)
    net = networks.randomize(keras.Model(inputs, [layers.Dense(1)(x), layers.Dense(3)(x)]))
    samples = np.random.default_rng(0).normal(size=(200, 6)).astype(np.float32)
    groups = find_groups(net)
    statistics = collect_statistics(groups, samples)
    context = PruningContext(groups, statistics, calibration=CalibrationSamples(groups, samples))
    found = score(context, "taylor_2019", "hidden")
    hidden = np.asarray(keras.Model(inputs, x)(samples))
    expected = np.zeros(5)
    for index in (2, 3):
        kernel = net.layers[index].get_weights()[0]
        spread = np.asarray(net(samples)[index - 2]).std()
        power = (hidden[:, :, None] * kernel / spread) ** 2
        expected += power.sum(-1).mean(0) / kernel.shape[1] ** 2
    np.testing.assert_allclose(found, expected, rtol=0.5)  # random signs, 200 samples


# Greedy removal, LASSO.


def test_greedy_removal_takes_what_adds_least_at_every_step() -> None:
    rows = np.random.default_rng(0).normal(size=(50, 7))
    order = remove_greedily(rows.T @ rows).tolist()
    for count in range(7):
        gone = order[:count]
        sizes = {
            c: float((rows[:, [*gone, c]].sum(1) ** 2).sum()) for c in range(7) if c not in gone
        }
        assert order[count] == min(sizes, key=lambda c: sizes[c])


def test_the_lasso_path_says_who_is_left_at_any_penalty() -> None:
    from sklearn.linear_model import Lasso

    rows = np.random.default_rng(1).normal(size=(60, 6)) * np.linspace(0.3, 2, 6)
    scores = follow_lasso(rows.T @ rows)
    penalties = np.sort(scores)
    for penalty in (penalties[1:] + penalties[:-1]) / 2:
        model = Lasso(alpha=penalty / 60, fit_intercept=False, tol=1e-10, max_iter=100_000)
        left = np.abs(model.fit(rows, rows.sum(1)).coef_) > 1e-9
        np.testing.assert_array_equal(left, scores > penalty)


@pytest.mark.parametrize("name", ["inner", "stem"])
def test_contributions_are_sums_of_products_at_the_readers(model, context, name) -> None:
    """For one output and all positions the sum of contributions is the output without bias."""
    found = context.calibration.contributions(context.groups[name])
    assert len(found) == {"inner": 1, "stem": 2}[name]
    for gram in found:
        assert gram.sum() == pytest.approx(1)
        assert np.linalg.eigvalsh(gram).min() > -1e-9
        np.testing.assert_allclose(gram, gram.T)


# The trace ratio.


def test_the_trace_ratio_selection_is_the_best_of_all() -> None:
    """200 random problems of 12 channels, every width, against brute force."""
    generator = np.random.default_rng(0)
    for trial in range(200):
        between, within = generator.gamma(0.5, size=12), generator.gamma(1.0, size=12) + 1e-3
        count = 1 + trial % 11
        chosen, ratio = select_by_trace_ratio(between, within, count)
        subsets = np.array(list(itertools.combinations(range(12), count)))
        best = (between[subsets].sum(1) / within[subsets].sum(1)).max()
        assert ratio == pytest.approx(best, rel=1e-12)
        assert between[chosen].sum() / within[chosen].sum() == pytest.approx(best, rel=1e-12)
        assert len(set(chosen.tolist())) == count


def test_trace_ratio_scores_come_from_scatters_of_pooled_responses(model, context) -> None:
    between, within = np.zeros((2, 8))
    early, late = seen_by_consumers(model)
    for pooled in (early.mean((1, 2)), late):
        means = np.stack([pooled[number == TARGETS].mean(0) for number in range(5)])
        between += ((means - pooled.mean(0)) ** 2).mean(0)
        within += ((pooled - means[TARGETS]) ** 2).mean(0)
    _, ratio = select_by_trace_ratio(between, within, 4)
    np.testing.assert_allclose(
        score(context, "trace_ratio"), between - ratio * within, rtol=2e-3, atol=1e-6
    )


# Blends.


def test_rank_correlations_are_spearmans() -> None:
    shares = list(np.random.default_rng(0).permuted(np.tile(np.arange(9.0), (4, 1)), axis=1))
    expected = scipy.stats.spearmanr(np.array(shares).T)[0]
    np.testing.assert_allclose(correlate_ranks(shares), expected, atol=1e-12)
    assert correlate_ranks([np.ones(4), np.arange(4.0)])[0, 1] == 0


@pytest.mark.parametrize(("spread", "count"), [(0.01, 2), (2.0, 4)])
def test_criteria_fall_into_two_to_four_clusters(spread, count) -> None:
    generator = np.random.default_rng(0)
    points = generator.normal(size=(8, 5)) * spread
    distance = np.abs(points[:, None] - points[None]).sum(-1)
    clusters = cluster_criteria(tuple("abcdefgh"), distance)
    assert len(clusters) == count
    assert sorted(itertools.chain(*clusters)) == list("abcdefgh")


def test_without_samples_a_criterion_that_needs_them_says_so(context) -> None:
    bare = PruningContext(context.groups, context.statistics)
    with pytest.raises(EdgepruneError, match="needs calibration samples; the context has stat"):
        score(bare, "taylor_2016")
