"""Equal forms: in float32 they answer like Keras, and integers follow."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import small_models
from keras import layers, ops
from keras.initializers import Constant

from edgeprune.errors import ConversionError
from edgeprune.tflite import Quantization, check_operators, convert, convert_in_detail
from edgeprune.tflite.fallback import Fallback
from edgeprune.tflite.flatbuffer import operator_kind, parse_model
from edgeprune.tflite.post_training import FloatModel
from edgeprune.tflite.rewrites import MOST_STEPS, rewrite_model
from edgeprune.tflite.runtime import TFLiteModel
from edgeprune.tflite.tensorflow_lite import signature_names


def randomized(model: keras.Model) -> keras.Model:
    generator = np.random.default_rng(0)
    for weight in model.weights:
        scale = 1.4 / max(1, np.prod(weight.shape[:-1])) ** 0.5
        weight.assign(generator.normal(0, scale, weight.shape))
    return model


def error(expected: np.ndarray, found: np.ndarray) -> float:
    scale = np.sqrt(np.square(expected.astype(np.float64)).mean())
    return float(np.sqrt(np.square(expected - found).mean()) / scale)


def answers(content: bytes, inputs: np.ndarray) -> list[np.ndarray]:
    found = TFLiteModel(content).predict(inputs)
    return list(found.values()) if isinstance(found, dict) else [found]


def expected(model: keras.Model, inputs: np.ndarray) -> list[np.ndarray]:
    return [np.asarray(output) for output in keras.tree.flatten(model(inputs))]


RECURRENT = {
    "long short": lambda x: layers.LSTM(5)(x),
    "gated": lambda x: layers.GRU(5, go_backwards=True, reset_after=False)(x),
    "simple": lambda x: layers.SimpleRNN(5, return_sequences=True)(x),
    "two ways": lambda x: layers.Bidirectional(layers.GRU(3))(x),
    "stacked cells": lambda x: layers.RNN([layers.LSTMCell(4), layers.GRUCell(3)])(x),
    "masked": lambda x: layers.LSTM(5)(layers.Masking()(x)),
}


def recurrent() -> keras.Model:
    series = keras.Input((6, 4), name="series")
    outputs = [layers.Dense(3)(make(series)) for make in RECURRENT.values()]
    image = layers.Reshape((6, 2, 2, 1))(series)
    outputs.append(layers.Flatten()(layers.ConvLSTM2D(2, 2)(image)))
    state = layers.TimeDistributed(layers.LSTM(2))(layers.Reshape((2, 3, 4))(series))
    return randomized(keras.Model(series, [*outputs, layers.Flatten()(state)], name="memory"))


def test_recurrent_layers_answer_alike_when_their_steps_are_written_out() -> None:
    model, series = recurrent(), small_models.samples(20, 6, 4)
    series[:, 4:] *= np.arange(20)[:, None, None] % 2  # masked in every other sample
    unrolled = rewrite_model(model, unroll=True)
    for one, other in zip(expected(model, series), expected(unrolled, series), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)
    for scheme, bound in (("int8", 0.06), ("dynamic", 0.02)):
        found = answers(convert(model, scheme=scheme, calibration=series), series)
        losses = [error(*pair) for pair in zip(expected(model, series), found, strict=True)]
        assert max(losses) < bound, losses


def test_recurrent_layers_have_16_bit_activations_and_float_fallbacks_too() -> None:
    series = small_models.samples(20, 6, 4)
    inputs = keras.Input((6, 4))
    x = layers.LayerNormalization()(layers.LSTM(5)(inputs))
    model = randomized(keras.Model(inputs, layers.Dense(3)(x)))
    (wanted,) = expected(model, series)
    found = answers(convert(model, scheme="int16x8", calibration=series), series)[0]
    assert error(wanted, found) < 0.05
    settings = Quantization(fallback=Fallback(0.001))
    kept = convert_in_detail(model, calibration=series, quantization=settings)
    assert error(wanted, answers(kept.content, series)[0]) < 0.02


@pytest.mark.parametrize(
    ("layer", "steps", "reason"),
    [
        (layers.GRU(2, name="memory"), MOST_STEPS + 1, "runs over 257 steps, and integers need"),
        (layers.Bidirectional(layers.GRU(2), name="memory"), 1000, "runs over 1000 steps"),
        (layers.GRU(2, stateful=True, name="memory"), 5, "is stateful, which has no form"),
    ],
)
def test_a_loop_that_cannot_be_written_out_is_refused_by_the_layers_name(
    layer, steps, reason
) -> None:
    inputs = keras.Input(batch_shape=(1, steps, 3))
    model = keras.Model(inputs, layer(inputs))
    with pytest.raises(ConversionError) as caught:
        check_operators(model, "int8")
    message = str(caught.value)
    assert message.startswith("Layer 'memory' (") and reason in message
    assert "--quantize dynamic" in message


INDICES = {
    "of channels": lambda x: ops.argmax(x, axis=-1),
    "of rows, kept": lambda x: ops.argmin(x, axis=1, keepdims=True),
    "of all, kept": lambda x: ops.argmin(x, keepdims=True),
    "of integers": lambda x: ops.argmax(ops.cast(10 * x, "int32"), axis=2),
}


def test_the_index_of_the_largest_value_is_found_in_every_number_format() -> None:
    image = keras.Input((4, 4, 3))
    x = layers.Conv2D(5, 1)(image)
    model = randomized(keras.Model(image, [find(x) for find in INDICES.values()]))
    images = small_models.samples(16, 4, 4, 3)
    one_by_one = [expected(model, image[None]) for image in images]
    wanted = [np.stack(each) for each in zip(*one_by_one, strict=True)]
    rewritten = rewrite_model(model, unroll=False)
    assert [t.shape for t in rewritten.outputs] == [t.shape for t in model.outputs]
    for scheme, agreement in (("float32", 1.0), ("int8", 0.9)):
        content = convert(model, scheme=scheme, calibration=images)
        kinds = {operator_kind(parse_model(content), o) for o in operators(content)}
        assert kinds >= {"ARG_MAX", "ARG_MIN"}
        for index, name in enumerate(INDICES):
            found = answers(content, images)[index].reshape(wanted[index].shape)
            assert (found == wanted[index]).mean() >= agreement, (scheme, name)


SCHEMES_AND_ERRORS = (
    ("float32", 1e-5), ("float16", 1e-2), ("dynamic", 1e-2), ("int8", 0.1), ("int16x8", 0.3)
)  # fmt: skip
"""The root of the smallest values is coarse in 16 bits."""


def operators(content: bytes) -> list:
    return parse_model(content).subgraphs[0].operators


OPERATORS = {
    "layer normalization": lambda x: layers.LayerNormalization()(x),
    "group normalization": lambda x: layers.GroupNormalization(2)(x),
    "unit normalization": lambda x: layers.UnitNormalization()(x),
    "normalize": lambda x: ops.normalize(x, axis=-1),
    "decay": lambda x: ops.exp(-x),
    "power": ops.square,
    "elu": ops.elu,
    "selu": ops.selu,
    "celu": ops.celu,
    "softplus": ops.softplus,
    "mish": lambda x: layers.Activation("mish")(x),
    "log sigmoid": ops.log_sigmoid,
    "one part of two": lambda x: ops.split(x, 2, axis=-1)[1],
    "median": lambda x: ops.median(x, axis=-1),
    "equal": lambda x: ops.where(ops.equal(ops.relu(x), 0), 2.0, x),
    "softsign": ops.softsign,
    "quotient": lambda x: x / (ops.abs(x) + 0.2) / (x[:, :, :, :1] + 40.0) * 40.0,
    "quotient of few": lambda x: ops.relu(x) / 3.0 / (ops.sum(ops.square(x), -1, True) + 1.0),
    "one hot": lambda x: ops.one_hot(ops.argmax(x, axis=-1), 6),
    "minimum and others": lambda x: x + ops.minimum(x, 0) * 0.5,
}


def test_operators_without_integers_have_equal_forms_that_do() -> None:
    image = keras.Input((5, 5, 3))
    outputs = [
        layers.Dense(3)(layers.Flatten()(make(layers.Conv2D(6, 3)(image))))
        for make in OPERATORS.values()
    ]
    model = randomized(keras.Model(image, outputs))
    images = small_models.samples(40, 5, 5, 3)
    wanted = expected(model, images)
    found = answers(convert(model, scheme="int8", calibration=images), images)
    losses = dict(zip(OPERATORS, map(error, wanted, found), strict=True))
    assert losses.pop("one hot") < 0.4 and losses.pop("equal") < 0.2, "ties in integers"
    assert max(losses.values()) < 0.05, losses
    source = convert(model, scheme="float32")
    rewritten = FloatModel(source, "model", signature_names(model)["inputs"], []).content
    for name, one, other in zip(OPERATORS, wanted, answers(rewritten, images), strict=True):
        assert np.abs(one - other).max() <= 1e-5 * np.abs(one).max(), name


def test_vectors_of_zeros_are_normalized_in_every_number_format() -> None:
    image = keras.Input((4, 6))
    y = layers.Dense(5, activation="relu", bias_initializer=Constant(-1.0))(image)
    unit = [layers.UnitNormalization(axis=axis)(y) for axis in (-1, 1, [1, 2])]
    unit += [ops.normalize(y + y, axis=-1)]
    model = keras.Model(image, [layers.Flatten()(x) for x in unit])
    sequences = np.random.default_rng(0).normal(size=(20, 4, 6)).astype("float32")
    sequences[3] = sequences[5, 2] = 0
    for scheme, most in SCHEMES_AND_ERRORS:
        content = convert(model, scheme=scheme, calibration=sequences)
        losses = map(error, expected(model, sequences), answers(content, sequences))
        assert max(losses) < most, scheme


def test_what_is_summed_holds_the_sum_and_zeros_have_a_scale_in_16_bits() -> None:
    x = keras.Input((4, 6))
    dead = layers.Dense(5, activation="relu", bias_initializer=Constant(-99.0))(x)
    outputs = [
        layers.Flatten()(ops.sum(ops.square(x), axis=-1, keepdims=True)),
        layers.Flatten()(layers.Dense(3, bias_initializer=Constant(2.0))(dead)),
    ]
    sequences = np.random.default_rng(0).normal(size=(20, 4, 6)).astype("float32")
    model = keras.Model(x, outputs)
    found = answers(convert(model, scheme="int16x8", calibration=sequences), sequences)
    assert max(map(error, expected(model, sequences), found)) < 0.01


def test_a_minimum_leaves_the_values_of_others_as_they_are() -> None:
    image = keras.Input((4, 4, 3))
    x = layers.Conv2D(5, 1)(image)
    outputs = [ops.minimum(x, 0), ops.minimum(x, -0.5), ops.maximum(x, 0.3), x[..., :2], x]
    outputs += [ops.where(x > 0, x, 0), ops.where(x > 0, -1.0, x), ops.split(x, 5, -1)[0]]
    model = randomized(keras.Model(image, outputs))
    images = small_models.samples(16, 4, 4, 3)
    found = answers(convert(model, calibration=images), images)
    losses = [error(*pair) for pair in zip(expected(model, images), found, strict=True)]
    assert max(losses) < 0.1, losses


def test_a_quotient_has_no_outliers_beside_something_larger() -> None:
    """The runtime's own division of 8-bit integers overflows where the dividend is small."""
    inputs = keras.Input((8,))
    dividend = inputs[:, :4] * np.array([1, 1, 0.01, 0.001], np.float32)
    divisor = ops.sum(ops.relu(inputs[:, 4:]), axis=-1, keepdims=True) + 3.0
    model = keras.Model(inputs, layers.Concatenate()([dividend / divisor, 4.0 * inputs]))
    samples = np.random.default_rng(0).random((40, 8), dtype="float32")
    found = answers(convert(model, calibration=samples), samples)[0]
    assert np.abs(found - expected(model, samples)[0]).max() < 0.1


def test_what_is_reversed_keeps_its_scale_beside_something_larger() -> None:
    series = keras.Input((6, 4))
    x = layers.Bidirectional(layers.GRU(3, return_sequences=True))(layers.Dense(4)(series))
    outputs = [layers.Concatenate()([x, 10 * series]), ops.flip(series, axis=(1, 2))]
    model = randomized(keras.Model(series, outputs))
    samples = small_models.samples(16, 6, 4)
    found = answers(convert(model, calibration=samples), samples)
    wanted = expected(model, samples)
    assert np.abs(found[0] - wanted[0])[..., :6].max() < 0.3, "a step of ten times the series"
    assert error(wanted[1], found[1]) < 0.06


def test_integers_that_go_in_stay_integers() -> None:
    words = keras.Input((6,), dtype="int32")
    x = layers.Flatten()(layers.Embedding(10, 4)(words))
    model = randomized(keras.Model(words, layers.Dense(3)(x)))
    text = np.random.default_rng(0).integers(0, 10, (30, 6))
    found = answers(convert(model, calibration=text), text)[0]
    assert error(expected(model, text)[0], found) < 0.05
    with pytest.raises(ConversionError, match="takes integers, which TensorFlow Lite cannot do in"):
        convert(model, scheme="int16x8", calibration=text)
