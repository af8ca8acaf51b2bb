"""Steps towards the original's answers: relative to what they change, BatchNorm folded away."""

from __future__ import annotations

import keras
import networks
import numpy as np
import pytest
from keras import layers

from edgeprune.distillation.batch_norm_folding import FoldedModel, find_folds
from edgeprune.distillation.relative_muon import RelativeMuon, _orthogonal, measure_steps
from edgeprune.evaluation.equivalence import predict

INPUTS = np.random.default_rng(0).normal(size=(6, 8, 8, 4)).astype(np.float32)


def network(*middle: keras.Layer) -> keras.Model:
    head = [layers.GlobalAveragePooling2D(), layers.Dense(3)]
    return networks.randomize(keras.Sequential([keras.Input((8, 8, 4)), *middle, *head]))


FOLDABLE = {
    "convolution": [layers.Conv2D(6, 3)],
    "without a bias": [layers.Conv2D(6, 3, use_bias=False)],
    "grouped": [layers.Conv2D(6, 3, groups=2)],
    "depthwise": [layers.DepthwiseConv2D(3)],
    "depthwise twice": [layers.DepthwiseConv2D(3, depth_multiplier=2)],
    "transposed": [layers.Conv2DTranspose(6, 3)],
    "dense": [layers.Dense(6)],
}
NORMS = {
    "whole": {},
    "without center": {"center": False},
    "without scale": {"scale": False},
    "neither": {"center": False, "scale": False},
}


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("kind", FOLDABLE)
def test_a_folded_model_answers_alike_and_so_does_what_it_has_learned(kind: str, norm: str):
    made = [type(layer).from_config(layer.get_config()) for layer in FOLDABLE[kind]]
    model = network(*made, layers.BatchNormalization(**NORMS[norm]), layers.ReLU())
    folded = FoldedModel(model)
    assert len(folded.model.weights) == 4  # kernels and biases
    np.testing.assert_allclose(
        predict(folded.model, INPUTS), predict(model, INPUTS), rtol=1e-4, atol=1e-5
    )
    draw = np.random.default_rng(1)
    folded.model.set_weights(
        [weight + draw.normal(0, 0.1, weight.shape) for weight in folded.model.get_weights()]
    )
    result = folded.unfold()
    assert result.get_config() == model.get_config()
    np.testing.assert_allclose(
        predict(result, INPUTS), predict(folded.model, INPUTS), rtol=1e-4, atol=1e-5
    )


def wrapped() -> keras.Model:
    """A Functional model inside a Sequential one, which was never given an input."""
    model = keras.Sequential([networks.build_residual_network()])
    model(np.zeros((1, *model.layers[0].inputs[0].shape[1:])))
    return model


def nested() -> keras.Model:
    inner = networks.build_residual_network()
    image = keras.Input(inner.inputs[0].shape[1:])
    return keras.Model(image, layers.Activation("tanh")(inner(image)))


NETWORKS = [
    networks.build_residual_network, networks.build_mobile_network, nested,
    wrapped,
]  # fmt: skip


@pytest.mark.parametrize("build", NETWORKS)
def test_every_form_of_a_model_is_folded_and_unfolded(build):
    model = networks.randomize(build())
    inputs = np.random.default_rng(0).normal(size=(3, *model.inputs[0].shape[1:]))
    folded = FoldedModel(model)
    assert find_folds(model) and len(folded.model.weights) < len(model.weights)
    for found in (folded.model, folded.unfold()):
        np.testing.assert_allclose(
            predict(found, inputs), predict(model, inputs), rtol=1e-3, atol=1e-4
        )


def read_twice() -> keras.Model:
    image = keras.Input((8, 8, 4))
    x = layers.Conv2D(4, 1)(image)
    return keras.Model(image, layers.Add()([x, layers.BatchNormalization()(x)]))


def shared_norm() -> keras.Model:
    image, norm = keras.Input((8, 8, 4)), layers.BatchNormalization()
    return keras.Model(image, norm(layers.Conv2D(4, 1)(norm(image))))


def another_axis() -> keras.Model:
    image = keras.Input((8, 8, 4))
    return keras.Model(image, layers.BatchNormalization(axis=1)(layers.Conv2D(4, 1)(image)))


def activated() -> keras.Model:
    image = keras.Input((8, 8, 4))
    return keras.Model(
        image, layers.BatchNormalization()(layers.Conv2D(4, 1, activation="relu")(image))
    )


@pytest.mark.parametrize("build", [read_twice, shared_norm, another_axis, activated])
def test_what_cannot_be_folded_stays(build):
    model = networks.randomize(build())
    folded = FoldedModel(model)
    assert not find_folds(model)
    np.testing.assert_allclose(predict(folded.model, INPUTS), predict(model, INPUTS), rtol=1e-5)


@pytest.mark.parametrize("shape", [(40, 6), (6, 40), (3, 3, 5, 16)])
def test_steps_of_kernels_have_the_singular_vectors_of_the_gradient(shape: tuple[int, ...]):
    gradient = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    step = np.array(_orthogonal(keras.ops.convert_to_tensor(gradient)))
    rows, columns = int(np.prod(shape[:-1])), shape[-1]
    u, _, v = np.linalg.svd(gradient.reshape(rows, columns), full_matrices=False)
    inner = u.T @ step.reshape(rows, columns) @ v.T / (0.2 * max(rows, columns) ** 0.5)
    np.testing.assert_allclose(inner, np.diag(np.diag(inner)), atol=1e-3)
    assert np.diag(inner).min() > 0.6 and np.diag(inner).max() < 1.3
    assert np.sqrt(np.square(step).mean()) == pytest.approx(0.2, rel=0.2)


def test_one_rate_suits_weights_of_any_scale():
    """A network for inputs a thousand times as large takes the same steps, in proportion."""
    targets = np.random.default_rng(2).normal(size=(6, 3)).astype(np.float32)
    found = []
    for scale in (1.0, 1000.0):
        model = network(layers.Conv2D(5, 3, name="first"), layers.ReLU())
        kernel, bias = model.get_layer("first").get_weights()
        model.get_layer("first").set_weights([kernel / scale, bias])
        model.compile(RelativeMuon(measure_steps(model, scale * INPUTS)), "mse")
        for _ in range(5):
            model.train_on_batch(scale * INPUTS, targets)
        found.append(predict(model, scale * INPUTS))
    np.testing.assert_allclose(found[1], found[0], rtol=2e-3, atol=2e-4)
