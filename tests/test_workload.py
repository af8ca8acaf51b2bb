from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers

from edgeprune.calibration.micro_models import RATED
from edgeprune.cost.budgets import Budget
from edgeprune.cost.cost_model import CostModel
from edgeprune.cost.estimates import Estimates
from edgeprune.cost.workload import WorkloadModel
from edgeprune.errors import ModelError
from edgeprune.latency import (
    FEATURES,
    Deployment,
    Kernels,
    Workload,
    count_features,
    parse_operators,
)
from edgeprune.surgery.channel_removal import remove_channels
from edgeprune.surgery.plan import Plan
from edgeprune.tflite import convert
from edgeprune.tflite.edgetpu import PARAMETER_MEMORY_BYTES, edgetpu_parameter_bytes
from edgeprune.tracing.groups import find_groups

ARM = Kernels(rows=4, columns=4, depth=16, cache_bytes=1000)


def randomize(model: keras.Model) -> keras.Model:
    """Give BatchNorm the values of a trained model: the converter drops a sum with zero."""
    generator = np.random.default_rng(0)
    for weight in model.weights:
        weight.assign(generator.uniform(0.5, 1.5, weight.shape).astype("float32"))
    return model


def build_residual_network() -> keras.Model:
    inputs = keras.Input((16, 16, 3))
    x = layers.Conv2D(16, 3, padding="same", use_bias=False, name="stem")(inputs)
    x = layers.ReLU()(layers.BatchNormalization()(x))
    y = layers.Conv2D(16, 3, padding="same", name="inner")(x)
    y = layers.BatchNormalization()(y)
    x = layers.Activation("relu")(layers.Add()([x, y]))
    x = layers.BatchNormalization(name="alone")(layers.MaxPooling2D(2)(x))
    x = layers.Dropout(0.3)(layers.Activation("relu")(x))
    x = layers.Conv2D(24, 1, activation="relu", name="wide")(x)
    x = layers.GlobalAveragePooling2D()(x)
    return randomize(keras.Model(inputs, layers.Dense(5, activation="softmax", name="head")(x)))


def build_mobile_network() -> keras.Model:
    inputs = keras.Input((17, 17, 3))
    x = layers.ZeroPadding2D(((1, 1), (1, 1)))(inputs)
    x = layers.Conv2D(8, 3, strides=2, use_bias=False, name="stem")(x)
    x = layers.ReLU(6.0)(layers.BatchNormalization()(x))
    x = layers.DepthwiseConv2D(3, padding="same", use_bias=False)(x)
    x = layers.ReLU(6.0)(layers.BatchNormalization()(x))
    x = layers.Conv2D(12, 1, use_bias=False, name="point")(x)
    x = layers.BatchNormalization()(x)
    x = layers.SeparableConv2D(16, 3, padding="same", activation="swish", name="separable")(x)
    gate = layers.GlobalAveragePooling2D(keepdims=True)(x)
    gate = layers.Conv2D(16, 1, activation="sigmoid", name="gate")(gate)
    x = layers.Multiply()([x, gate])
    x = layers.Concatenate()([layers.AveragePooling2D(2)(x), layers.MaxPooling2D(2)(x)])
    return randomize(keras.Model(inputs, layers.Dense(4, name="head")(layers.Flatten()(x))))


NETWORKS = [build_residual_network, build_mobile_network]


@pytest.mark.parametrize("build", NETWORKS)
@pytest.mark.parametrize("scheme", ["float32", "int8"])
def test_the_operators_of_a_model_are_those_of_its_file(build, scheme) -> None:
    model = build()
    data = np.random.default_rng(0).random((4, *model.input_shape[1:]), dtype="float32")
    file = Workload.of(parse_operators(convert(model, scheme=scheme, calibration=data)))
    traced = WorkloadModel(find_groups(model), float_ends=scheme == "int8").at({})
    assert sorted(traced.kinds) == sorted(file.kinds)
    rated = [name for name in RATED if name in file.names]
    assert len(rated) >= 2
    found, expected = (
        dict(zip([*FEATURES, *rated], count_features(work, ARM, scheme, rated), strict=True))
        for work in (traced, file)
    )
    assert found == pytest.approx(expected)


@pytest.mark.parametrize("build", NETWORKS)
def test_the_operators_at_other_widths_are_those_of_the_slim_model(build) -> None:
    groups = find_groups(model := build())
    keep = {group.name: tuple(range(1, group.width, 2)) for group in groups.removable}
    widths = {name: len(kept) for name, kept in keep.items()}
    smaller = remove_channels(model, Plan(keep, groups.fingerprint), groups=groups)
    expected = WorkloadModel(find_groups(smaller))
    found = WorkloadModel(groups)
    for name in ("channels", "depth", "read", "written"):
        np.testing.assert_allclose(getattr(found.at(widths), name), getattr(expected.at({}), name))
    assert found.peak_bytes(widths) == expected.peak_bytes({})
    assert found.at(widths).macs.sum() == CostModel(groups).count(widths).macs


def test_many_widths_at_once_are_each_width_alone() -> None:
    work = WorkloadModel(groups := find_groups(build_residual_network()))
    candidates = np.array([work.full, np.maximum(work.full - 3, 1)])
    together = work.at(candidates).macs.sum(-1)
    names = list(groups.index)
    for row, macs in zip(candidates, together, strict=True):
        assert work.at(dict(zip(names, row, strict=True))).macs.sum() == macs


def test_peak_memory_is_what_lives_at_the_worst_moment() -> None:
    inputs = keras.Input((8, 8, 1))
    wide = layers.Conv2D(10, 1, name="wide")(inputs)
    narrow = layers.Conv2D(2, 1, name="narrow")(wide)
    outputs = layers.Conv2D(2, 1)(layers.Concatenate()([narrow, inputs]))
    work = WorkloadModel(find_groups(keras.Model(inputs, outputs)))
    # The input stays to the end, while 10 channels are read and 2 written.
    assert work.peak_bytes({}) == 64 * (1 + 10 + 2)
    assert work.peak_bytes({"wide": 3}) == 64 * (1 + 3 + 2)


@pytest.mark.parametrize("build", NETWORKS)
@pytest.mark.parametrize("scheme", ["float32", "int8"])
def test_the_size_of_the_file_is_predicted(build, scheme) -> None:
    model = build()
    data = np.random.default_rng(0).random((4, *model.input_shape[1:]), dtype="float32")
    content = convert(model, scheme=scheme, calibration=data)
    predicted = Estimates(find_groups(model), Deployment(scheme)).spend("size", {})
    assert predicted == pytest.approx(len(content), rel=0.25)  # mostly names, in so small a model


def test_bytes_in_the_memory_of_an_edge_tpu_are_those_of_the_file() -> None:
    model = build_mobile_network()
    data = np.random.default_rng(0).random((4, *model.input_shape[1:]), dtype="float32")
    content = convert(model, scheme="int8", calibration=data)
    predicted = Estimates(find_groups(model), Deployment("int8")).spend("fits", {})
    assert predicted == edgetpu_parameter_bytes(content)
    assert Budget.parse("fits=edgetpu").amount == pytest.approx(PARAMETER_MEMORY_BYTES, abs=1)


def test_a_model_without_a_fixed_size_is_refused() -> None:
    model = keras.Sequential([keras.Input((None, None, 3)), layers.Conv2D(4, 3)])
    with pytest.raises(ModelError, match="need a model with a fixed input"):
        WorkloadModel(find_groups(model))
