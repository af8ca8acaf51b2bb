from __future__ import annotations

import keras
import networks
import numpy as np
import pytest
from keras import layers

from edgeprune.errors import ClassError, PlanError
from edgeprune.surgery.channel_removal import mask_channels, remove_channels
from edgeprune.surgery.plan import Plan
from edgeprune.tracing.groups import find_groups


@pytest.mark.parametrize(
    "build", [networks.build_residual_network, networks.build_mobile_network,
              networks.build_nested_network],
)  # fmt: skip
def test_slim_equals_cut_and_the_empty_plan_is_the_identity(build) -> None:
    networks.assert_exact(build(), seeds=range(4))


def test_a_kept_channel_is_the_one_that_was_asked_for() -> None:
    model = networks.randomize(networks.build_residual_network())
    small = remove_channels(model, Plan({"inner": (1, 4)}))
    kernel = model.get_layer("inner").kernel.numpy()
    np.testing.assert_array_equal(small.get_layer("inner").kernel, kernel[..., [1, 4]])
    mean = model.get_layer("inner_norm").moving_mean.numpy()
    np.testing.assert_array_equal(small.get_layer("inner_norm").moving_mean, mean[[1, 4]])
    consumer = model.get_layer("outer").kernel.numpy()
    np.testing.assert_array_equal(small.get_layer("outer").kernel, consumer[:, :, [1, 4]])


def test_cut_silences_readers_and_leaves_writers_alone() -> None:
    model = networks.randomize(networks.build_residual_network())
    silenced = mask_channels(model, Plan({"inner": (1, 4)}))
    removed = [0, 2, 3, 5]
    assert not np.any(silenced.get_layer("outer").kernel.numpy()[:, :, removed])
    np.testing.assert_array_equal(
        silenced.get_layer("inner").kernel, model.get_layer("inner").kernel
    )


def test_surgery_does_not_touch_the_model() -> None:
    model = networks.randomize(networks.build_mobile_network())
    before = [weight.copy() for weight in model.get_weights()]
    plan = networks.random_plan(find_groups(model))
    remove_channels(model, plan)
    mask_channels(model, plan)
    assert all(map(np.array_equal, before, model.get_weights()))


def test_a_specialist_answers_the_kept_classes_in_the_users_order() -> None:
    model = networks.randomize(networks.build_residual_network())
    plan = Plan({"inner": (0, 2, 3)}, classes=(4, 0, 2))
    inputs = networks.random_inputs(model)
    (logits,) = networks.call(mask_channels(model, plan), inputs)
    shares = np.log(logits[:, [4, 0, 2]])
    (small,) = networks.call(remove_channels(model, plan), inputs)
    np.testing.assert_allclose(
        np.log(small) - np.log(small)[:, :1], shares - shares[:, :1], rtol=1e-4, atol=1e-5
    )


def test_a_specialist_of_a_convolutional_head_keeps_its_pooling_and_softmax() -> None:
    inputs = keras.Input((4, 4, 3))
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(6, 1, name="head")(inputs))
    model = networks.randomize(keras.Model(inputs, layers.Softmax(name="softmax")(x)))
    small = remove_channels(model, Plan(classes=(5, 1)))
    images = networks.random_inputs(model)
    (full,), (cut_out,) = networks.call(model, images), networks.call(small, images)
    expected = full[:, [5, 1]] / full[:, [5, 1]].sum(-1, keepdims=True)
    np.testing.assert_allclose(cut_out, expected, rtol=1e-4)


def test_a_slim_model_opens_with_plain_keras(tmp_path) -> None:
    model = networks.randomize(networks.build_nested_network())
    small = remove_channels(model, networks.random_plan(find_groups(model)))
    small.save(tmp_path / "small.keras")
    reopened = keras.models.load_model(tmp_path / "small.keras")
    inputs = networks.random_inputs(model)
    np.testing.assert_array_equal(
        networks.call(small, inputs)[0], networks.call(reopened, inputs)[0]
    )


def test_a_frozen_layer_stays_frozen() -> None:
    model = networks.build_residual_network()
    model.get_layer("inner").trainable = False
    small = remove_channels(model, Plan({"inner": (0,)}))
    assert [layer.trainable for layer in small.layers] == [
        layer.trainable for layer in model.layers
    ]


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        (Plan({"nowhere": (0,)}), "names group 'nowhere', which this model does not have"),
        (Plan({"head": (0,)}), "'head' cannot shrink: normalised over by softmax; output of"),
        (Plan({"inner": (0, 6)}), r"channel 6 of group 'inner', which has 6 channels \(0 to 5\)"),
        (Plan(fingerprint="abc"), "made for another model"),
        (Plan(classes=(0, 5)), "keeps class 5 of a model with 5 outputs"),
    ],
)
def test_a_plan_that_does_not_fit_is_refused(plan, message) -> None:
    with pytest.raises(PlanError, match=message):
        remove_channels(networks.build_residual_network(), plan)


def test_classes_of_a_model_without_head_are_refused() -> None:
    inputs = keras.Input((4,))
    model = keras.Model(inputs, [layers.Dense(2)(inputs), layers.Dense(2)(inputs)])
    with pytest.raises(ClassError, match="2 outputs"):
        remove_channels(model, Plan(classes=(0,)))
