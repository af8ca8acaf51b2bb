"""A model that 8 bits spoil is explained layer by layer, and saved by floats where needed."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import small_models
from ai_edge_litert.interpreter import Interpreter
from keras import layers

from edgeprune.errors import ConversionError
from edgeprune.tflite import Fallback, LayerError, Quantization, convert_in_detail
from edgeprune.tflite.fallback import choose_float_layers
from edgeprune.tflite.runtime import TFLiteModel

IMAGES = small_models.samples(60, 16, 16, 3)


def network(scaled: slice | None = None) -> keras.Model:
    """Three convolutions; channels of the second are scaled by 1e4, and 1e-4 where they are read.

    The function stays the same: ReLU passes a positive factor on.
    """
    keras.utils.set_random_seed(4)
    image = keras.Input((16, 16, 3), name="image")
    x = layers.Conv2D(8, 3, activation="relu", name="first")(image)
    x = layers.Conv2D(8, 3, activation="relu", name="scaled")(x)
    x = layers.Conv2D(8, 3, activation="relu", name="consumer")(x)
    x = layers.GlobalMaxPooling2D()(x)
    model = keras.Model(image, layers.Dense(5, name="classes")(x), name="broken")
    if scaled is not None:
        kernel, bias = model.get_layer("scaled").get_weights()
        kernel[..., scaled] *= 1e4
        model.get_layer("scaled").set_weights([kernel, bias])
        kernel, bias = model.get_layer("consumer").get_weights()
        kernel[:, :, scaled] *= 1e-4
        model.get_layer("consumer").set_weights([kernel, bias])
    return model


def relative_error(model: keras.Model, content: bytes) -> float:
    expected = model.predict(IMAGES, verbose=0)
    return float(np.abs(TFLiteModel(content).predict(IMAGES) - expected).max()) / float(
        np.abs(expected).max()
    )


@pytest.fixture
def broken(monkeypatch) -> keras.Model:
    """A network that equalization would mend, without it."""
    monkeypatch.setattr("edgeprune.tflite.post_training.POOR", np.inf)
    return network(slice(0, 1))


def test_equalization_mends_what_a_positive_factor_broke() -> None:
    found = convert_in_detail(network(slice(0, 1)), calibration=IMAGES)
    assert found.error is not None and found.error < 0.1


def worst(found: tuple[LayerError, ...]) -> str:
    return max(found, key=lambda layer: layer.rounding).layer


def test_the_table_finds_the_layer_that_was_broken(broken) -> None:
    whole = convert_in_detail(network(), calibration=IMAGES)
    assert relative_error(network(), whole.content) < 0.05, "else nothing was broken"
    assert max(layer.rounding for layer in whole.layers) < 0.1

    found = convert_in_detail(broken, calibration=IMAGES, quantization=Quantization("limits"))
    assert relative_error(broken, found.content) > 0.5
    assert worst(found.layers) == "scaled"
    errors = {layer.layer: layer for layer in found.layers}
    assert errors["scaled"].rounding > 0.5
    assert errors["first"].rounding < 0.1
    assert errors["consumer"].error > 0.5, "what comes after it is spoilt as well"
    assert found.loss > 0.2


def test_the_fallback_saves_it_and_leaves_the_rest_in_integers(broken) -> None:
    found = convert_in_detail(
        broken, calibration=IMAGES, quantization=Quantization(fallback=Fallback(0.04))
    )
    assert found.float_layers == ("scaled",)
    assert found.loss <= 0.04
    assert relative_error(broken, found.content) < 0.05
    stored = {
        tuple(details["shape"]): details["dtype"]
        for details in Interpreter(model_content=found.content).get_tensor_details()
    }
    assert stored[(8, 3, 3, 3)] is np.int8, "the kernel of the first convolution"
    assert stored[(5, 8)] is np.int8, "the kernel of the classes"


def test_a_whole_layer_scaled_is_no_loss_since_scales_follow() -> None:
    scaled = network(slice(0, 8))
    found = convert_in_detail(scaled, calibration=IMAGES, quantization=Quantization("limits"))
    assert relative_error(scaled, found.content) < 0.05


def test_nothing_falls_back_where_the_limit_is_met() -> None:
    found = convert_in_detail(
        network(), calibration=IMAGES, quantization=Quantization(fallback=Fallback(0.2))
    )
    assert found.float_layers == ()


def test_the_broken_model_answers_right_in_16_bits(broken) -> None:
    found = convert_in_detail(broken, scheme="int16x8", calibration=IMAGES)
    assert relative_error(broken, found.content) < 0.5


@pytest.mark.parametrize("text", ["1%", "0.01", 0.01])
def test_limits_are_shares(text) -> None:
    assert Fallback.parse(text).limit == pytest.approx(0.01)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a lot", "Cannot read the limit of the fallback 'a lot'. Expected a share such as 1%."),
        ("0", "must be more than 0 and less than 1 (0.01 is one percent of the answers). Got 0."),
        ("150%", "must be more than 0 and less than 1"),
    ],
)
def test_other_limits_are_refused(text, message) -> None:
    with pytest.raises(ConversionError) as caught:
        Fallback.parse(text)
    assert message in str(caught.value)


def test_a_fallback_needs_8_bits() -> None:
    with pytest.raises(ConversionError) as caught:
        convert_in_detail(
            network(), scheme="dynamic", quantization=Quantization(fallback=Fallback(0.01))
        )
    assert str(caught.value) == (
        "A fallback to float needs scheme 'int8' or 'int8-qat'. Got 'dynamic'."
    )


def test_a_limit_that_floats_do_not_meet_either_is_refused(broken) -> None:
    found = convert_in_detail(broken, calibration=IMAGES)
    with pytest.raises(ConversionError) as caught:
        choose_float_layers(found.layers, lambda kept: 0.5, 0.01)
    assert str(caught.value) == (
        "The fallback cannot keep the loss below 1.00%: with every layer in float it is still "
        "50.00%, so the input or the output is to blame. Use scheme 'int16x8' or 'dynamic', or "
        "give --io float32."
    )


@pytest.mark.parametrize("needed", [1, 2, 3, 5, 8])
def test_as_few_layers_as_the_limit_needs_stay_in_float(needed) -> None:
    table = [
        LayerError(f"layer{i}", "CONV_2D", i, 0.0, 1.0, i / 10, None, False) for i in range(10)
    ]
    worst_first = [9, 8, 7, 6, 5, 4, 3, 2, 1, 0]
    kept = choose_float_layers(
        table, lambda tensors: 0.0 if set(worst_first[:needed]) <= set(tensors) else 1.0, 0.01
    )
    assert list(kept) == worst_first[:needed]
