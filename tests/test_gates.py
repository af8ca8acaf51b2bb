from __future__ import annotations

import keras
import networks
import numpy as np
import pytest
import scipy.stats
from keras import layers

from edgeprune.scoring.calibration_samples import CalibrationSamples
from edgeprune.scoring.collection import collect_statistics
from edgeprune.scoring.context import PruningContext
from edgeprune.scoring.gates import GatedModel
from edgeprune.scoring.masks import mean_fills, score_best_mask, score_ensemble
from edgeprune.scoring.method_settings import Settings
from edgeprune.surgery.channel_removal import mask_channels
from edgeprune.surgery.plan import Plan
from edgeprune.tracing.groups import find_groups

BUILDERS = {
    "residual": networks.build_residual_network,
    "mobile": networks.build_mobile_network,
    "nested": networks.build_nested_network,
}


def grouped() -> keras.Model:
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(8, 3, activation="relu", name="first")(inputs)
    x = layers.Conv2D(6, 3, groups=2, name="grouped")(x)
    x = layers.GlobalMaxPooling2D()(x)
    return keras.Model(inputs, layers.Dense(3, name="head")(x))


@pytest.mark.parametrize("build", [*BUILDERS.values(), grouped])
def test_a_closed_gate_does_what_cut_does(build) -> None:
    model = networks.randomize(build())
    groups = find_groups(model)
    gated = GatedModel.of(groups)
    x = networks.random_inputs(model)[0]
    assert gated.gated
    for name in gated.gated:
        keep = tuple(range(0, groups[name].width, 2))
        mask = np.isin(np.arange(groups[name].width), keep).astype(np.float32)
        expected = mask_channels(model, Plan({name: keep}), groups=groups)(x)
        (found,) = gated.run([x], {name: mask})
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    (open_gates,) = gated.run([x], {name: np.ones(groups[name].width) for name in gated.gated})
    np.testing.assert_allclose(open_gates, model(x), rtol=1e-5, atol=1e-6)


def test_gates_of_each_sample_are_its_own() -> None:
    model = networks.randomize(networks.build_residual_network())
    groups = find_groups(model)
    gated = GatedModel.of(groups)
    x = networks.random_inputs(model)[0]
    masks = np.random.default_rng(0).integers(0, 2, (len(x), groups["stem"].width))
    (together,) = gated.run([x], {"stem": masks, "inner": np.ones(6)})
    for number in range(len(x)):
        (alone,) = gated.run([x[number : number + 1]], {"stem": masks[number]})
        np.testing.assert_allclose(together[number], alone[0], rtol=1e-4)


@pytest.mark.parametrize("build", BUILDERS.values())
def test_the_rest_of_a_model_goes_on_where_the_prefix_ends(build) -> None:
    model = networks.randomize(build())
    groups = find_groups(model)
    gated = GatedModel.of(groups)
    x = networks.random_inputs(model)[0]
    for name in gated.gated:
        mask = np.arange(groups[name].width) % 2
        rest, inputs = gated.after(name, [x])
        assert len(rest.graph.calls) < len(groups.graph.calls)
        (found,), (expected,) = rest.run(inputs, {name: mask}), gated.run([x], {name: mask})
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


# A layer of 8 channels whose single removals can all be tried.


@pytest.fixture(scope="module")
def eight() -> PruningContext:
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(8, 3, activation="relu", name="conv")(inputs)
    x = layers.Conv2D(12, 3, activation="relu", name="next")(x)
    x = layers.Flatten()(x)
    model = networks.randomize(keras.Model(inputs, layers.Dense(4, activation="softmax")(x)))
    images = np.random.default_rng(0).normal(size=(64, 8, 8, 3)).astype(np.float32)
    targets = np.asarray(model(images)).argmax(-1)
    groups = find_groups(model)
    statistics = collect_statistics(groups, images, targets, num_classes=4, positions=10_000)
    return PruningContext(
        groups, statistics, calibration=CalibrationSamples(groups, images, targets)
    )


def removal_losses(context: PruningContext) -> np.ndarray:
    """Loss with each channel of `conv` alone replaced by its mean, on a model with the biases."""
    model = keras.models.Sequential(list(context.layers.values()))
    images, targets = context.samples.inputs, context.samples.targets
    mean = np.asarray(model.layers[0](images)).mean((0, 1, 2))
    losses = []
    for channel in range(8):
        seen = np.array(model.layers[0](images))
        seen[..., channel] = mean[channel]
        x = seen
        for layer in model.layers[1:]:
            x = layer(x)
        losses.append(-np.log(np.asarray(x)[np.arange(len(targets)), targets]).mean())
    return np.array(losses)


@pytest.mark.parametrize("seed", range(4))
def test_ensemble_coefficients_rank_as_the_true_losses_of_single_removals(eight, seed) -> None:
    """With 3 masks per channel, of which each silences a third."""
    few = PruningContext(
        eight.groups, eight.statistics, None, seed, eight.calibration,
        settings=Settings(masks_per_channel=3, mask_rounds=1),
    )  # fmt: skip
    found = score_ensemble(few, few.groups["conv"])
    assert scipy.stats.spearmanr(found, removal_losses(eight)).statistic > 0.7


def test_the_best_mask_is_kept_whole(eight) -> None:
    scores = score_best_mask(eight, eight.groups["conv"])
    kept = scores >= 1
    assert kept.sum() == 4
    gated, observed = GatedModel.of(eight.groups), eight.samples

    def loss(mask: np.ndarray) -> float:
        outputs = gated.run([observed.inputs], {"conv": mask}, mean_fills(eight))
        return float(np.mean(observed.objective.losses(outputs, 0, len(observed.inputs))))

    generator = np.random.default_rng(0)
    random = [loss(np.isin(np.arange(8), generator.permutation(8)[:4])) for _ in range(24)]
    assert loss(kept) < np.quantile(random, 0.25)
