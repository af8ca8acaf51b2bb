"""Statistics of lower rank than they should be: every criterion and every recovery gets through."""

from __future__ import annotations

import keras
import networks
import numpy as np
import pytest
from keras import layers

from edgeprune.allocation import keep_channels
from edgeprune.pruning.planning import rank
from edgeprune.recovery import RECOVERIES, RecoveryContext
from edgeprune.scoring.calibration_samples import CalibrationSamples
from edgeprune.scoring.collection import collect_statistics
from edgeprune.scoring.context import PruningContext, View
from edgeprune.scoring.criteria import CRITERIA
from edgeprune.scoring.method_settings import Settings
from edgeprune.scoring.subsets import choose_greedily, follow_order
from edgeprune.support.linear_algebra import Definite
from edgeprune.surgery.channel_removal import remove_channels
from edgeprune.surgery.plan import Plan
from edgeprune.tracing.groups import find_groups

FEW = Settings(masks_per_channel=1, mask_samples=4)


def build_model(seed: int) -> keras.Model:
    inputs = keras.Input((6, 6, 2))
    x = layers.Conv2D(8, 3, activation="relu", name="first")(inputs)
    x = layers.DepthwiseConv2D(3, padding="same", name="depthwise")(x)
    x = layers.Conv2D(8, 1, name="second")(x)
    x = layers.BatchNormalization(name="norm")(x)
    x = layers.GlobalAveragePooling2D(name="pool")(layers.ReLU(name="relu")(x))
    x = layers.Dense(8, activation="relu", name="hidden")(x)
    return networks.randomize(keras.Model(inputs, layers.Dense(3, name="head")(x)), seed)


def duplicate_filters(model: keras.Model, generator: np.random.Generator) -> None:
    for name in ("first", "second", "hidden"):
        kernel, bias = model.get_layer(name).get_weights()
        source = generator.integers(0, kernel.shape[-1], kernel.shape[-1])
        model.get_layer(name).set_weights([kernel[..., source], bias[source]])


def silence_filters(model: keras.Model, generator: np.random.Generator) -> None:
    for name in ("first", "second", "hidden"):
        kernel, bias = model.get_layer(name).get_weights()
        kernel[..., generator.random(kernel.shape[-1]) < 0.6] = 0
        model.get_layer(name).set_weights([kernel, bias])


def draw(case: str, seed: int) -> tuple[keras.Model, np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    model = build_model(seed)
    count = 1 if case == "one sample" else 2 if case == "two samples" else 12
    images = generator.normal(size=(count, 6, 6, 2)).astype(np.float32)
    targets = np.arange(count) % 3
    if case == "one class":
        targets[:] = 2
    if case == "equal samples":
        images[:] = images[0]
    if case == "blank samples":
        images[:] = 0
    if case == "large values":
        images = 1e4 * images + 1e6
    if case == "duplicated channels":
        duplicate_filters(model, generator)
    if case == "silent channels":
        silence_filters(model, generator)
    return model, images, targets


CASES = (
    "one sample", "two samples", "one class", "equal samples", "blank samples", "large values",
    "duplicated channels", "silent channels",
)  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_criteria_and_recoveries_survive_statistics_of_low_rank(case) -> None:
    model, images, targets = draw(case, seed=3)
    groups = find_groups(model)
    statistics = collect_statistics(groups, images, targets, num_classes=3)
    calibration = CalibrationSamples(groups, images, targets, None, 3)
    context = PruningContext(groups, statistics, None, 3, calibration, settings=FEW)
    rankings = {}
    for criterion in CRITERIA:
        for group in groups.removable:
            found = rank(context, group, criterion)
            assert sorted(found.order.tolist()) == list(range(group.width)), criterion
            assert np.isfinite(found.error).all(), criterion
            rankings[group.name] = found
    keep = {group.name: keep_channels(rankings[group.name], 4) for group in groups.removable}
    plan = Plan(keep, groups.fingerprint)
    smaller = remove_channels(model, plan, groups=groups)
    recovery = RecoveryContext(smaller, groups, plan, statistics, images)
    wanted = np.asarray(model(images))
    for name, recover in RECOVERIES.items():
        outputs = np.asarray(recover(recovery)(images))
        assert np.isfinite(outputs).all(), name
        if case == "equal samples" and name not in ("none", "mean", "correlated"):
            # One sample is reproduced exactly, whatever is left.
            assert np.abs(outputs - wanted).max() < 0.05 * np.abs(wanted).max(), name


def covariances() -> dict[str, np.ndarray]:
    """Draw covariances of low rank, disturbed by rounding as sums in float32 are."""
    found = {}
    for seed in range(40):
        generator = np.random.default_rng(seed)
        width, rank_ = int(generator.integers(2, 200)), int(generator.integers(1, 12))
        factor = generator.normal(size=(width, rank_))
        factor *= 10.0 ** generator.integers(-4, 4, (width, 1))  # channels of any scale
        factor[generator.random(width) < 0.2] = 0
        matrix = factor @ factor.T
        noise = (
            generator.normal(size=matrix.shape)
            * 3e-6
            * np.sqrt(np.outer(np.diag(matrix), np.diag(matrix)))
        )
        found[f"{width} channels of rank {rank_}, {seed}"] = matrix + (noise + noise.T) / 2
    return found


@pytest.mark.parametrize("name", COVARIANCES := covariances())
def test_channels_are_chosen_from_covariances_that_rounding_made_indefinite(name) -> None:
    covariance = COVARIANCES[name]
    width = len(covariance)
    metric = np.random.default_rng(0).normal(size=(width, width))
    views = [View(covariance, metric @ metric.T)]
    order, error = choose_greedily(views, width)
    assert sorted(order.tolist()) == list(range(width))
    assert np.isfinite(error).all()
    assert np.isfinite(follow_order(views, order)).all()


@pytest.mark.parametrize("name", COVARIANCES)
def test_a_singular_system_is_solved_in_the_directions_that_it_has(name) -> None:
    covariance = COVARIANCES[name]
    exact = covariance @ covariance.T  # semi-definite, no noise
    right = exact @ np.random.default_rng(1).normal(size=(len(exact), 2))
    found = Definite(exact).solve(right)
    assert np.abs(exact @ found - right).max() <= 1e-4 * np.abs(right).max()


def test_what_is_not_finite_solves_nothing() -> None:
    assert not Definite(np.full((2, 2), np.nan)).solve(np.ones((2, 1))).any()
