"""int8-qat: over the bridge to tf_keras and back."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import small_models
from keras import layers

from edgeprune.errors import ConversionError
from edgeprune.tflite import Quantization, convert_in_detail
from edgeprune.tflite.qat import QuantizedTraining
from edgeprune.tflite.qat.annotation import annotate
from edgeprune.tflite.qat.bridge import bring_back, to_tf_keras
from edgeprune.tflite.qat.quantized_training import _targets, train_for_int8
from edgeprune.tflite.runtime import TFLiteModel
from edgeprune.tracing.graph import build_graph
from edgeprune.tracing.outputs import output_kinds
from edgeprune.tracing.replica import replace_softmax


def everything() -> keras.Model:
    """What people use and the two Kerases spell differently, shared and nested layers included."""
    keras.utils.set_random_seed(3)
    image = keras.Input((16, 16, 3), name="image")
    x = layers.Conv2D(8, 3, padding="same", use_bias=False)(image)
    x = layers.BatchNormalization()(x)
    x = layers.Activation("hard_silu")(x)
    x = layers.SeparableConv2D(8, 3, strides=2, padding="same", activation="relu")(x)
    gate = layers.Dense(8, activation="hard_sigmoid")(layers.GlobalAveragePooling2D()(x))
    x = layers.Multiply()([x, layers.Reshape((1, 1, 8))(gate)])
    shared = layers.Conv2D(8, 1, activation="silu", name="shared")
    x = shared(shared(x)) + x
    x = layers.Dropout(0.5)(x * 2.0)
    inside = keras.Sequential([keras.Input((8, 8, 8)), layers.Conv2D(6, 3)], name="inside")
    x = layers.LeakyReLU()(inside(x))
    x = layers.Flatten()(layers.MaxPooling2D()(x))
    outputs = layers.Dense(4, activation="softmax", name="classes")(x)
    return small_models.randomize(keras.Model(image, outputs, name="everything"))


IMAGES = small_models.samples(48, 16, 16, 3)


def test_the_twin_answers_as_the_model_does_and_comes_back_unchanged() -> None:
    model = everything()
    twin = to_tf_keras(model, [IMAGES[:8]])
    expected = model.predict(IMAGES, verbose=0)
    np.testing.assert_allclose(twin.model.predict(IMAGES, verbose=0), expected, atol=1e-5)
    student, _ = annotate(twin.model)
    back = bring_back(model, twin, student)
    np.testing.assert_array_equal(back.predict(IMAGES, verbose=0), expected)
    assert [layer.name for layer in back.layers] == [layer.name for layer in model.layers]


def test_layers_without_simulated_rounding_are_named() -> None:
    _, left = annotate(to_tf_keras(everything(), [IMAGES[:2]]).model)
    kinds = {name.split("(")[1].rstrip(")") for name in left}
    assert "Multiply" in kinds
    assert any(name.startswith("shared ") for name in left), "called twice"
    assert not kinds & {"Dense", "DepthwiseConv2D", "Flatten"}


def coarse() -> tuple[keras.Model, np.ndarray]:
    """A teacher whose weights of one kernel differ by 1000, so that 8 bits per channel round them.

    Training can move what rounding lost into weights that are kept.
    """
    keras.utils.set_random_seed(5)
    image = keras.Input((8, 8, 3))
    x = layers.Conv2D(8, 3, activation="relu", name="first")(image)
    x = layers.Conv2D(8, 3, activation="relu", name="second")(x)
    outputs = layers.Dense(4, activation="softmax")(layers.Flatten()(x))
    model = keras.Model(image, outputs)
    kernel, bias = model.get_layer("second").get_weights()
    kernel[0, 0, 0, :] *= 60
    model.get_layer("second").set_weights([kernel, bias])
    return model, small_models.samples(300)


def test_the_closest_epoch_is_kept_and_the_users_model_stays_as_it_was() -> None:
    model, samples = coarse()
    weights = [weight.copy() for weight in model.get_weights()]
    settings = QuantizedTraining(epochs=6, learning_rate=3e-4, seed=1)
    trained = train_for_int8(model, {"image": samples}, None, settings)
    assert len(trained.losses) == 7
    assert trained.losses[trained.chosen] == min(trained.losses)
    assert len(set(trained.losses)) == 7, "every epoch changes the weights"
    for before, after in zip(weights, model.get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)
    changed = [
        not np.array_equal(a, b) for a, b in zip(weights, trained.model.get_weights(), strict=True)
    ]
    assert any(changed) == (trained.chosen > 0)


def test_the_same_seed_gives_the_same_weights() -> None:
    model, samples = coarse()
    runs = [
        train_for_int8(model, {"image": samples[:40]}, None, QuantizedTraining(epochs=2, seed=7))
        for _ in range(2)
    ]
    assert runs[0].losses == pytest.approx(runs[1].losses, rel=1e-4)


def test_labels_pull_towards_the_true_classes() -> None:
    model, samples = coarse()
    targets = (model.predict(samples, verbose=0).argmax(1) + 1) % 4
    settings = QuantizedTraining(epochs=1, label_weight=1.0, learning_rate=1e-2)
    answers = model.predict(samples, verbose=0)
    kinds = output_kinds(build_graph(model))
    (wanted,) = _targets(kinds, [answers], targets, 1.0)
    np.testing.assert_array_equal(wanted.argmax(1), targets)
    trained = train_for_int8(model, {"image": samples}, targets, settings)
    assert trained.chosen == 1, "an epoch that comes closer to what is learnt is kept"
    learnt = trained.model.predict(samples, verbose=0)
    assert (
        learnt[np.arange(len(targets)), targets].mean()
        > answers[np.arange(len(targets)), targets].mean()
    )


def test_labels_pull_towards_the_true_classes_also_where_a_model_gives_logits() -> None:
    model, samples = coarse()
    logits = replace_softmax(model)
    targets = (model.predict(samples, verbose=0).argmax(1) + 1) % 4
    settings = QuantizedTraining(epochs=1, label_weight=1.0, learning_rate=1e-2)
    trained = train_for_int8(logits, {"image": samples}, targets, settings)
    rows = np.arange(len(targets))
    before, after = (
        np.asarray(keras.ops.softmax(each.predict(samples, verbose=0)))[rows, targets].mean()
        for each in (logits, trained.model)
    )
    assert after > before


@pytest.mark.parametrize("units", [1, 3])
def test_labels_have_a_say_in_answers_of_yes_or_no(units) -> None:
    model = keras.Sequential([keras.Input((4,)), layers.Dense(units, "sigmoid")])
    answers, targets = np.full((6, units), 0.5, np.float32), np.arange(6) % max(units, 2)
    kinds = output_kinds(build_graph(model))
    (wanted,) = _targets(kinds, [answers], targets, 0.4)
    true = targets[:, None] if units == 1 else np.eye(units)[targets]
    np.testing.assert_allclose(wanted, 0.6 * 0.5 + 0.4 * true, rtol=1e-6)


def test_no_time_ends_after_the_first_epoch() -> None:
    model, samples = coarse()
    settings = QuantizedTraining(epochs=50, minutes=1e-6)
    trained = train_for_int8(model, {"image": samples[:40]}, None, settings)
    assert len(trained.losses) == 2


def test_the_tflite_is_made_from_the_trained_weights_and_is_int8_throughout() -> None:
    model, samples = coarse()
    made = convert_in_detail(
        model,
        scheme="int8-qat",
        calibration=samples[:80],
        quantization=Quantization(training=QuantizedTraining(epochs=2, learning_rate=1e-3)),
        io="uint8",
    )
    assert made.trained is not None
    assert TFLiteModel(made.content).inputs[0].dtype == np.uint8
    expected = made.model.predict(samples, verbose=0)
    found = TFLiteModel(made.content).predict(samples)
    assert np.abs(found - expected).mean() < 0.05


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epochs": 0}, "The epochs of the training must be above 0. Got 0."),
        ({"minutes": -1.0}, "The minutes of the training must be above 0. Got -1.0."),
        ({"label_weight": 2.0}, "The label_weight of the training must be from 0 to 1. Got 2.0."),
    ],
)
def test_settings_that_cannot_train_are_refused(settings, message) -> None:
    with pytest.raises(ConversionError) as caught:
        QuantizedTraining(**settings)
    assert str(caught.value) == message


def test_too_few_samples_are_refused() -> None:
    with pytest.raises(ConversionError, match=r"needs at least 10\. Got 5\."):
        convert_in_detail(coarse()[0], scheme="int8-qat", calibration=small_models.samples(5))


@pytest.mark.skipif(
    not hasattr(layers, "RMSNormalization"), reason="this Keras has no layer that tf_keras lacks"
)
def test_a_layer_without_a_counterpart_is_named() -> None:
    image = keras.Input((8, 8, 3))
    x = layers.RMSNormalization(name="norm")(image)
    model = keras.Model(image, layers.Dense(2)(layers.Flatten()(x)), name="modern")
    with pytest.raises(ConversionError) as caught:
        to_tf_keras(model, [small_models.samples(2)])
    assert str(caught.value) == (
        "Model 'modern' cannot be trained for integers: 'norm' (RMSNormalization) has no "
        "counterpart in tf_keras, which tensorflow-model-optimization needs. Use scheme 'int8'."
    )
