from __future__ import annotations

import re

import keras
import numpy as np
import pytest
import small_models
from keras import layers

from edgeprune.data.preprocessing import parse_preprocess
from edgeprune.errors import ConversionError
from edgeprune.tflite import RANGES, Conversion, Quantization, convert, convert_in_detail
from edgeprune.tflite.ranges import span_least_squares, span_limits, span_percentile
from edgeprune.tflite.runtime import TFLiteModel


def squared_error(limits: tuple[float, float], values: np.ndarray) -> float:
    """Round to 8 bits as TensorFlow Lite prescribes: a scale, an integer zero point."""
    low, high = limits
    scale = (high - low) / 255
    zero = round(-low / scale)
    integers = np.clip(np.rint(values / scale) + zero, 0, 255)
    return float(np.square((integers - zero) * scale - values).mean())


def outliers(kind: str) -> np.ndarray:
    generator = np.random.default_rng(0)
    values = generator.normal(size=50_000)
    if kind == "outliers":
        values[:3] = [400.0, -300.0, 350.0]
    elif kind == "heavy tails":
        values = generator.laplace(size=50_000)
    elif kind == "positive":
        values = np.abs(values)
    return values


@pytest.mark.parametrize("kind", ["normal", "outliers", "heavy tails", "positive"])
def test_least_squares_is_never_worse_than_the_limits(kind) -> None:
    values = outliers(kind)
    limits = (min(0.0, float(values.min())), float(values.max()))
    found = span_least_squares(limits, values)
    assert limits[0] <= found[0] <= 0 < found[1] <= limits[1]
    assert squared_error(found, values) <= squared_error(limits, values) * 1.02
    if kind == "positive":
        assert found[0] == 0


def test_percentiles_survive_a_few_outliers() -> None:
    values = outliers("outliers")
    found = span_percentile((-300.0, 400.0), values)
    assert -6 < found[0] < -3 < 3 < found[1] < 6
    assert span_limits((-300.0, 400.0), values) == (-300.0, 400.0)


def test_a_tensor_that_is_always_zero_has_a_range() -> None:
    zeros = np.zeros(100)
    for span in RANGES.values():
        assert span((0.0, 0.0), zeros) == (0.0, 0.0)


def network_with_outliers() -> tuple[keras.Model, np.ndarray]:
    """One input value in ten thousand is a hundred times too large, as a broken sensor gives."""
    keras.utils.set_random_seed(0)
    image = keras.Input((12, 12, 2))
    x = layers.Conv2D(8, 3, activation="relu")(image)
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(8, 3, activation="relu")(x))
    samples = small_models.samples(120, 12, 12, 2)
    samples[7, 3, 3, 0] = 300.0
    return keras.Model(image, layers.Dense(4)(x)), samples


def test_auto_takes_ranges_without_the_outliers_where_that_helps() -> None:
    model, samples = network_with_outliers()
    clean = samples[20:]
    expected = model.predict(clean, verbose=0)

    def error(ranges: str) -> float:
        made = convert_in_detail(model, calibration=samples, quantization=Quantization(ranges))
        found = TFLiteModel(made.content).predict(clean)
        return float(np.square(found - expected).mean())

    assert error("percentile") < error("limits") / 3
    assert convert_in_detail(model, calibration=clean).ranges in RANGES


def test_an_unknown_way_is_refused() -> None:
    with pytest.raises(ConversionError) as caught:
        Quantization(ranges="widest")
    assert str(caught.value) == (
        "Unknown way to ranges 'widest'. Choose one of auto, limits, least_squares, percentile."
    )


def test_targets_are_one_class_per_sample() -> None:
    with pytest.raises(ConversionError, match=r"The targets have shape \(4,\); expected \(5,\)"):
        convert_in_detail(
            small_models.classifier(), calibration=small_models.samples(5), targets=np.zeros(4)
        )


def spanning(activation: str = "elu") -> keras.Model:
    """One channel, which hardly anything reads, spans a thousand times the range of the others."""
    keras.utils.set_random_seed(0)
    image = keras.Input((8, 8, 3))
    x = layers.Conv2D(8, 3, name="wide")(image)
    x = layers.Activation(activation, name="spoilt")(x)
    model = keras.Model(image, layers.Dense(4)(layers.GlobalAveragePooling2D()(x)))
    kernel, bias = model.get_layer("wide").get_weights()
    kernel[..., 5] *= 2000
    model.get_layer("wide").set_weights([kernel, bias])
    kernel, bias = model.layers[-1].get_weights()
    kernel[5] = 0
    model.layers[-1].set_weights([kernel, bias])
    return model


def test_integers_that_do_not_follow_the_float_model_are_told() -> None:
    images = small_models.samples(20)
    with pytest.warns(UserWarning, match="The int8 model does not follow the float model") as told:
        convert(spanning(), calibration=images)
    assert re.search(r"off by \d+% of how much they vary; .* '(wide|spoilt)'", str(told[0].message))
    good = convert_in_detail(small_models.classifier(), calibration=images)
    assert good.warning is None and 0 < good.error < 0.2
    wide = convert_in_detail(spanning("leaky_relu"), scheme="int16x8", calibration=images)
    assert wide.warning is None and wide.error < 0.3


def test_a_warning_names_what_is_left_to_try() -> None:
    lost = Conversion(b"", "int16x8", small_models.classifier(), error=1.0)
    assert lost.warning is not None and lost.warning.endswith(
        "Try --quantize int8, dynamic or float16."
    )


def test_the_error_is_that_of_the_file_also_where_it_takes_bytes() -> None:
    stored = np.random.default_rng(0).integers(0, 256, (20, 8, 8, 3))
    for preprocess in ("unit", "standardize:mean=10,100,200;std=50,60,70"):
        scaled = parse_preprocess(preprocess)(stored)
        made = convert_in_detail(
            small_models.classifier(), calibration=scaled, preprocess=preprocess, input="uint8"
        )
        assert made.error < 0.3
