"""Every scheme on architectures people use, whole and pruned, against Keras."""

from __future__ import annotations

import itertools

import keras
import networks
import numpy as np
import pytest
import small_models
from keras import layers

from edgeprune.errors import ConversionError
from edgeprune.pruning.pruning_settings import Pruning
from edgeprune.recovery import recalibrate
from edgeprune.surgery.channel_removal import remove_channels
from edgeprune.surgery.plan import Plan
from edgeprune.tflite import Quantization, check_operators, convert_in_detail
from edgeprune.tflite.qat import QuantizedTraining
from edgeprune.tflite.runtime import TFLiteModel
from edgeprune.tracing.groups import find_groups

BOUNDS = {
    "float32": 1e-5,
    "float16": 5e-3,
    "dynamic": 0.05,
    "int8": 0.08,
    "int16x8": 0.05,
    "int8-qat": 0.08,
}
"""Root mean square of the error, relative to that of the outputs before any softmax."""


def unet() -> keras.Model:
    keras.utils.set_random_seed(0)
    image = keras.Input((16, 16, 3), name="image")
    fine = layers.Conv2D(8, 3, padding="same", activation="relu")(image)
    x = layers.Conv2D(16, 3, padding="same")(layers.MaxPooling2D()(fine))
    coarse = layers.ReLU()(layers.BatchNormalization()(x))
    x = layers.Conv2DTranspose(8, 3, strides=2, padding="same")(coarse)
    x = layers.Concatenate()([x, fine])
    x = layers.Conv2D(8, 3, padding="same", activation="relu")(x)
    raised = layers.UpSampling2D(interpolation="bilinear")(coarse)
    outputs = layers.Conv2D(3, 1, name="mask")(layers.Concatenate()([x, raised]))
    return small_models.randomize(keras.Model(image, outputs, name="unet"))


def conv1d() -> keras.Model:
    keras.utils.set_random_seed(0)
    signal = keras.Input((64, 4), name="signal")
    x = layers.Conv1D(16, 5, padding="same")(signal)
    x = layers.LeakyReLU()(layers.BatchNormalization()(x))
    x = layers.SeparableConv1D(16, 3, activation="relu")(layers.MaxPooling1D(2)(x))
    x = layers.GlobalAveragePooling1D()(x)
    return small_models.randomize(keras.Model(signal, layers.Dense(5)(x), name="conv1d"))


def samples_for(model: keras.Model, count: int = 40) -> np.ndarray:
    return small_models.samples(count, *model.input_shape[1:])


def pruned(model: keras.Model) -> keras.Model:
    groups = find_groups(model)
    return remove_channels(model, networks.random_plan(groups), groups=groups)


def error(model: keras.Model, scheme: str, inputs: np.ndarray) -> float:
    settings = Quantization(training=QuantizedTraining(epochs=1))
    made = convert_in_detail(model, scheme=scheme, calibration=inputs, quantization=settings)
    expected = made.model.predict(inputs, verbose=0)
    found = TFLiteModel(made.content).predict(inputs)
    return float(np.sqrt(np.square(found - expected).mean() / np.square(expected).mean()))


QUICK = [
    (unet, "pruned", "float32"),
    (conv1d, "pruned", "float16"),
    (conv1d, "pruned", "dynamic"),
    (unet, "pruned", "int8"),
    (conv1d, "whole", "int8"),
    (conv1d, "pruned", "int16x8"),
    (unet, "pruned", "int8-qat"),
]
"""Every scheme and both networks; the other pairs are slow tests."""
CASES = [
    case if case in QUICK else pytest.param(*case, marks=pytest.mark.slow)
    for case in itertools.product([unet, conv1d], ["whole", "pruned"], BOUNDS)
]


@pytest.mark.parametrize(("build", "variant", "scheme"), CASES)
def test_every_scheme_agrees_with_keras(build, variant, scheme) -> None:
    model = build() if variant == "whole" else pruned(build())
    assert error(model, scheme, samples_for(model)) < BOUNDS[scheme]


def test_removed_channels_leave_no_dead_range() -> None:
    """The widest channel decides the range of its tensor, until it is gone."""
    keras.utils.set_random_seed(0)
    image = keras.Input((12, 12, 3), name="image")
    x = layers.Conv2D(8, 3, activation="relu", name="wide")(image)
    x = layers.Conv2D(6, 3, activation="relu", name="consumer")(x)
    model = keras.Model(image, layers.Dense(4)(layers.GlobalAveragePooling2D()(x)))
    kernel, bias = model.get_layer("wide").get_weights()
    kernel[..., 5] *= 500
    model.get_layer("wide").set_weights([kernel, bias])
    groups = find_groups(model)
    (group,) = [group for group in groups.removable if "wide" in group.name]
    keep = [channel for channel in range(8) if channel != 5]
    small = remove_channels(model, Plan({group.name: keep}, groups.fingerprint), groups=groups)

    def top(network: keras.Model) -> float:
        made = convert_in_detail(network, calibration=samples_for(network))
        return next(layer.high for layer in made.layers if layer.layer == "wide")

    alone = keras.Model(small.inputs, small.get_layer("wide").output)
    highest = float(alone.predict(samples_for(small), verbose=0).max())
    assert top(small) <= highest * 1.001
    assert top(model) > 20 * top(small)


def test_a_pruned_model_loses_no_more_than_the_whole_one() -> None:
    model = conv1d()
    whole = error(model, "int8", samples_for(model))
    assert error(pruned(model), "int8", samples_for(model)) < 1.5 * whole + 0.01


def test_widths_stay_in_the_steps_of_the_target() -> None:
    from edgeprune.pruning.one_shot import prune

    keras.utils.set_random_seed(0)
    image = keras.Input((12, 12, 3))
    x = layers.Conv2D(32, 3, activation="relu", name="first")(image)
    x = layers.Conv2D(32, 3, activation="relu", name="second")(x)
    model = keras.Model(image, layers.Dense(3)(layers.GlobalAveragePooling2D()(x)))
    inputs = samples_for(model)
    targets = np.arange(len(inputs)) % 3
    small = prune(
        model, (inputs, targets), budget="macs=50%", pruning=Pruning(recovery="none", step=8)
    ).model
    made = convert_in_detail(small, calibration=inputs)
    outputs = {d.name: d.shape for d in TFLiteModel(made.content).outputs}
    assert list(outputs.values()) == [(1, 3)]
    for name in ("first", "second"):
        assert small.get_layer(name).filters % 8 == 0
    assert small.count_params() < model.count_params()


def hard_swish() -> keras.Model:
    image = keras.Input((8, 8, 3), name="image")
    x = layers.Conv2D(4, 3, activation="hard_silu")(image)
    return keras.Model(image, layers.Flatten()(x), name="swish")


def test_what_16_bits_cannot_express_is_refused_by_operator_name() -> None:
    with pytest.raises(ConversionError) as caught:
        check_operators(hard_swish(), "int16x8")
    assert str(caught.value) == (
        "Model 'swish' cannot be int16x8 throughout: TensorFlow Lite has no form in 16-bit "
        "integers of HARD_SWISH. Take --quantize dynamic or float32."
    )
    check_operators(hard_swish(), "int8")


def test_what_8_bits_cannot_express_is_refused_by_operator_name() -> None:
    inputs = keras.Input((8, 3))
    model = keras.Model(inputs, keras.ops.cumsum(layers.Dense(4)(inputs), 1), name="sums")
    with pytest.raises(ConversionError, match="in 8-bit integers of CUMSUM "):
        check_operators(model, "int8")
    check_operators(model, "float32")


LARGE_BOUNDS = BOUNDS | {
    "float32": 1e-4,
    "float16": 0.02,
    "dynamic": 0.15,
    "int8": 0.2,
    "int16x8": 0.15,
    "int8-qat": 0.2,
}
"""Networks of hundreds of layers add every rounding to those before."""


def pictures(count: int) -> np.ndarray:
    """Smooth images of different colours, 0 to 255: all white noise looks alike to deep layers."""
    generator = np.random.default_rng(0)
    coarse = generator.normal(size=(count, 6, 6, 3)).astype(np.float32)
    smooth = keras.ops.image.resize(coarse, (32, 32), interpolation="bicubic")
    colours = generator.normal(size=(count, 1, 1, 3)).astype(np.float32)
    return 128 + 40 * (keras.ops.convert_to_numpy(smooth) + colours)


def large(name: str, variant: str) -> keras.Model:
    """The architecture with fresh weights, whole or without a random part of its channels.

    BatchNorm has the statistics of images, and gives activations most of what they let pass, as in
    networks that have learnt; at Keras' initial scales each layer amplifies the rounding before it.
    """
    keras.utils.set_random_seed(0)
    constructor = getattr(keras.applications, name)
    model = constructor(
        weights=None, input_shape=(32, 32, 3), classes=10, classifier_activation=None
    )
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.gamma.assign(np.full(layer.gamma.shape, 0.5))
            layer.beta.assign(np.ones(layer.beta.shape))
    model = recalibrate(model, pictures(64))
    return model if variant == "whole" else recalibrate(pruned(model), pictures(64))


@pytest.mark.slow
@pytest.mark.parametrize("scheme", LARGE_BOUNDS)
@pytest.mark.parametrize("variant", ["whole", "pruned"])
@pytest.mark.parametrize(
    "name", ["MobileNetV2", "MobileNetV3Small", "EfficientNetB0", "DenseNet121"]
)
def test_every_scheme_agrees_on_large_models(name, variant, scheme) -> None:
    model = large(name, variant)
    if (name, scheme) == ("MobileNetV3Small", "int16x8"):
        with pytest.raises(ConversionError, match="no 16-bit form of HARD_SWISH"):
            convert_in_detail(model, scheme=scheme, calibration=pictures(24))
        return
    found = error(model, scheme, pictures(24))
    assert found < LARGE_BOUNDS[scheme], found
