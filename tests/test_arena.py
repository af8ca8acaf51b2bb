"""Memory of a file: as the runtime allocates it, and as pruning estimates it."""

from __future__ import annotations

from collections.abc import Callable

import keras
import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from keras import layers

from edgeprune.cost.estimates import Estimates
from edgeprune.latency import Deployment
from edgeprune.tflite import convert
from edgeprune.tflite.arena import peak_memory
from edgeprune.tflite.flatbuffer import parse_model
from edgeprune.tracing.groups import find_groups

IMAGE = (32, 32, 3)


def chain() -> keras.Model:
    image = keras.Input(IMAGE)
    x = layers.Conv2D(8, 3, activation="relu")(image)
    x = layers.Conv2D(16, 3, strides=2, activation="relu")(x)
    return keras.Model(image, layers.Dense(4, activation="softmax")(layers.Flatten()(x)))


def separable() -> keras.Model:
    image = keras.Input(IMAGE)
    x = layers.SeparableConv2D(12, 3, padding="same", activation="relu6")(image)
    x = layers.SeparableConv2D(24, 3, strides=2, padding="same", activation="relu6")(x)
    return keras.Model(image, layers.Dense(4)(layers.GlobalAveragePooling2D()(x)))


def residual() -> keras.Model:
    image = keras.Input(IMAGE)
    x = layers.Conv2D(16, 3, padding="same", activation="relu")(image)
    for _ in range(2):
        y = layers.Conv2D(16, 3, padding="same", activation="relu")(x)
        x = layers.ReLU()(layers.Add()([x, layers.Conv2D(16, 3, padding="same")(y)]))
    return keras.Model(image, layers.Dense(4)(layers.GlobalMaxPooling2D()(x)))


def joined() -> keras.Model:
    image = keras.Input(IMAGE)
    x = layers.MaxPooling2D()(layers.Conv2D(8, 3, padding="same")(image))
    parts = [layers.Conv2D(8, size, padding="same", activation="relu")(x) for size in (1, 3, 5)]
    x = layers.Conv2D(8, 1)(layers.Concatenate()([x, *parts]))
    return keras.Model(image, layers.Dense(4)(layers.Flatten()(x)))


def masked() -> keras.Model:
    image = keras.Input(IMAGE)
    fine = layers.Conv2D(8, 3, padding="same", activation="relu")(image)
    coarse = layers.Conv2D(16, 3, strides=2, padding="same", activation="relu")(fine)
    x = layers.Concatenate()([layers.UpSampling2D(interpolation="bilinear")(coarse), fine])
    return keras.Model(image, layers.Conv2D(2, 1, activation="sigmoid")(x))


def gated() -> keras.Model:
    image = keras.Input(IMAGE)
    x = layers.Conv2D(16, 3, activation="tanh")(image)
    gate = layers.Reshape((1, 1, 16))(layers.GlobalAveragePooling2D()(x))
    gate = layers.Conv2D(16, 1, activation="sigmoid")(gate)
    x = layers.AveragePooling2D(2)(layers.Multiply()([x, gate]))
    return keras.Model(image, layers.Conv2D(4, 3)(x))


def dense() -> keras.Model:
    inputs = keras.Input((500,))
    x = layers.Dense(300, activation="relu")(inputs)
    return keras.Model(inputs, layers.Dense(10)(layers.Dense(200, activation="relu")(x)))


def branched() -> keras.Model:
    first, second = keras.Input((24, 24, 1), name="first"), keras.Input((24, 24, 2), name="second")
    parts = [layers.Conv2D(6, 3, activation="relu")(each) for each in (first, second)]
    x = layers.Conv2D(8, 3)(layers.Subtract()(parts))
    return keras.Model([first, second], [layers.Conv2D(3, 1)(x), layers.GlobalMaxPooling2D()(x)])


NETWORKS = (chain, separable, residual, joined, masked, gated, dense, branched)
FORMS = [("float32", "float32"), ("int8", "float32"), ("int8", "uint8"), ("int16x8", "float32")]


def export(build: Callable[[], keras.Model], scheme: str, io: str) -> bytes:
    model = build()
    generator = np.random.default_rng(0)
    samples = [generator.random((2, *t.shape[1:]), dtype="float32") for t in model.inputs]
    return convert(
        model, scheme=scheme, io=io, calibration=samples if len(samples) > 1 else samples[0]
    )


def allocate(content: bytes) -> int:
    """Return the bytes between the first and the last address of what the runtime computes."""
    interpreter = Interpreter(
        model_content=content, experimental_op_resolver_type=OpResolverType.BUILTIN_REF
    )
    interpreter.allocate_tensors()
    parsed = parse_model(content)
    spans = []
    for index, tensor in enumerate(parsed.subgraphs[0].tensors):
        if parsed.buffers[tensor.buffer].data is None:
            array = interpreter.tensor(index)()
            start = array.__array_interface__["data"][0]
            spans.append((start, start + array.nbytes))
    return max(end for _, end in spans) - min(start for start, _ in spans)


CASES = [
    pytest.param(build, *form, marks=() if (first + second) % 2 else pytest.mark.slow)
    for first, build in enumerate(NETWORKS)
    for second, form in enumerate(FORMS)
]
"""Every network with two of the forms at once, with the others in the slow tests."""


@pytest.mark.parametrize(("build", "scheme", "io"), CASES)
def test_memory_is_what_the_runtime_allocates_and_what_pruning_expects(build, scheme, io) -> None:
    content = export(build, scheme, io)
    assert peak_memory(content) == pytest.approx(allocate(content), rel=0.05)
    expected = Estimates(find_groups(build()), Deployment(scheme, io)).spend("memory", {})
    assert expected == pytest.approx(peak_memory(content), rel=0.2)


def test_memory_of_published_files_is_what_the_runtime_allocates(shared_data) -> None:
    paths = [*shared_data.glob("mlperf_tiny/*.tflite"), *shared_data.glob("coral/*_quant.tflite")]
    assert len(paths) >= 7
    for path in paths:
        content = path.read_bytes()
        assert peak_memory(content) == pytest.approx(allocate(content), rel=0.05), path.name


def test_floats_around_an_int8_model_are_counted() -> None:
    """The input as floats and as bytes, before anything is computed."""
    image = keras.Input((224, 224, 3))
    model = keras.Model(
        image, layers.GlobalAveragePooling2D()(layers.Conv2D(4, 3, strides=8)(image))
    )
    made = convert(model, scheme="int8", calibration=np.ones((1, 224, 224, 3), "float32"))
    assert peak_memory(made) >= 224 * 224 * 3 * (4 + 1)


@pytest.mark.parametrize(("input", "around"), [(None, 4 + 1), ("uint8", 1 + 1)])
def test_an_estimate_knows_that_bytes_go_in(input, around) -> None:
    image = keras.Input((96, 96, 3))
    x = layers.Conv2D(4, 3, strides=8)(image)
    model = keras.Model(image, layers.GlobalAveragePooling2D()(x))
    samples = np.random.default_rng(0).random((2, 96, 96, 3), dtype="float32")
    made = convert(model, calibration=samples, input=input, preprocess="unit")
    deployment = Deployment("int8", input=input)
    expected = Estimates(find_groups(model), deployment).spend("memory", {})
    assert expected == pytest.approx(96 * 96 * 3 * around, rel=0.05)
    assert peak_memory(made) == pytest.approx(expected, rel=0.05)
