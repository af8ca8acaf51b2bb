from __future__ import annotations

import keras
import networks
import numpy as np
import pytest
from keras import layers

from edgeprune.recovery.heads import fit_ridge, refit_head
from edgeprune.surgery.channel_removal import remove_channels
from edgeprune.surgery.plan import Plan
from edgeprune.tracing.groups import find_groups


def build(*, activation: str | None = "softmax", use_bias: bool = True) -> keras.Model:
    inputs = keras.Input((6,))
    x = layers.Dense(12, activation="tanh", name="hidden")(inputs)
    x = layers.Dense(5, activation=activation, use_bias=use_bias, name="head")(x)
    return networks.randomize(keras.Model(inputs, x))


def images(samples: int = 300) -> np.ndarray:
    return np.random.default_rng(3).normal(size=(samples, 6)).astype(np.float32)


def logits(model: keras.Model, x: np.ndarray, classes=None) -> np.ndarray:
    features = keras.Model(model.inputs, model.get_layer("hidden").output)(x)
    head = model.get_layer("head")
    found = np.asarray(features) @ head.get_weights()[0]
    found = found + (head.get_weights()[1] if head.use_bias else 0)
    return found if classes is None else found[:, classes]


@pytest.mark.parametrize("penalty", [1e-3, 1.0, 30.0])
def test_the_error_of_leaving_one_out_is_that_of_fitting_without_it(penalty) -> None:
    """The penalty that is chosen is the one that really predicts samples left out best."""
    generator = np.random.default_rng(0)
    x = 1 + generator.normal(size=(14, 6))
    y = x @ generator.normal(size=(6, 2)) + penalty * generator.normal(size=(14, 2))
    scale = np.square(x - x.mean(0)).sum() / 6
    penalties = (1e-3, 1e-1, 1.0, 10.0)

    def regress(x, y, factor):
        mean, middle = x.mean(0), y.mean(0)
        inner = (x - mean).T @ (x - mean) + factor * scale * np.eye(6)
        change = np.linalg.solve(inner, (x - mean).T @ (y - middle))
        return change, middle - mean @ change

    lost = {np.inf: np.square(y).sum()}
    for factor in penalties:
        lost[factor] = 0
        for i in range(14):
            others = np.arange(14) != i
            # Centred on all samples but one; the closed form's intercept is that of a free mean.
            change, constant = regress(x[others], y[others], factor)
            lost[factor] += np.square(y[i] - x[i] @ change - constant).sum()
    best = min(lost, key=lambda factor: lost[factor])
    expected = regress(x, y, best) if np.isfinite(best) else (np.zeros((6, 2)), np.zeros(2))
    found = fit_ridge(x, y, penalties)
    for one, two in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, two, atol=1e-8)


@pytest.mark.parametrize("use_bias", [True, False])
@pytest.mark.parametrize("activation", ["softmax", "sigmoid", None])
def test_a_broken_head_is_mended(activation, use_bias) -> None:
    model = build(activation=activation, use_bias=use_bias)
    broken = keras.models.clone_model(model)
    broken.set_weights([*model.get_weights()[:2], *(0 * w for w in model.get_weights()[2:])])
    x = images()
    mended = refit_head(broken, find_groups(model), Plan(), x)
    np.testing.assert_allclose(mended(x), model(x), atol=1e-2)
    assert not np.allclose(broken(x), model(x), atol=1e-2)


def test_a_head_that_cannot_be_improved_stays() -> None:
    model = build()
    same = refit_head(model, find_groups(model), Plan(), images())
    np.testing.assert_allclose(same(images()), model(images()), atol=1e-5)


def test_the_head_of_a_specialist_matches_differences_of_the_kept_logits() -> None:
    model, classes = build(), (3, 0, 4)
    groups, x = find_groups(model), images()
    plan = Plan({"hidden": tuple(range(9))}, classes=classes)
    smaller = remove_channels(model, plan)
    mended = refit_head(smaller, groups, plan, x)
    wanted = logits(model, x, list(classes))
    wanted -= wanted.mean(1, keepdims=True)
    lost = []
    for net in (smaller, mended):
        found = logits(net, x)
        lost.append(float(np.square(found - found.mean(1, keepdims=True) - wanted).mean()))
    features = np.asarray(keras.Model(mended.inputs, mended.get_layer("hidden").output)(x))
    design = np.column_stack([features, np.ones(len(x))])
    best = np.square(design @ np.linalg.lstsq(design, wanted, rcond=None)[0] - wanted).mean()
    assert lost[1] < lost[0]
    assert lost[1] == pytest.approx(best, rel=0.02)


def test_noise_is_not_learned() -> None:
    generator = np.random.default_rng(0)
    change, constant = fit_ridge(generator.normal(size=(30, 25)), generator.normal(size=(30, 3)))
    assert np.abs(change).max() < 0.1
    assert np.abs(constant).max() < 0.5


def test_what_is_not_finite_changes_nothing() -> None:
    x = np.ones((4, 2))
    x[1, 1] = np.nan
    change, constant = fit_ridge(x, np.ones((4, 1)))
    assert not change.any()
    assert not constant.any()


def test_a_convolution_as_head_stays_as_it_is() -> None:
    inputs = keras.Input((4, 4, 3))
    x = layers.Conv2D(6, 1, name="hidden")(inputs)
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(4, 1, name="head")(x))
    model = networks.randomize(keras.Model(inputs, x))
    assert refit_head(model, find_groups(model), Plan(), np.zeros((5, 4, 4, 3))) is model
