"""Models with channels first: moved to channels last while they are opened, and equal.

The oracle is the original. Where TensorFlow does not convolve it, XLA does, on every CPU. Sizes are
such that no map is as wide as it has channels: Keras 3.15 adds biases along the width there.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from random import Random
from typing import Any

import keras
import networks
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops

import edgeprune
from edgeprune import load_model
from edgeprune.cost.cost_model import CostModel
from edgeprune.cost.workload import WorkloadModel
from edgeprune.errors import ConversionError, EdgepruneError, ModelError
from edgeprune.loading.data_formats import rewrite
from edgeprune.tracing import layouts
from edgeprune.tracing.groups import find_groups
from edgeprune.tracing.layouts import find_channels_first
from edgeprune.tracing.opening import functional_form
from edgeprune.tracing.replica import operations_by_path

FIRST = {"data_format": "channels_first"}
SAME = {"padding": "same", **FIRST}


RESIZING = (layers.UpSampling2D, layers.Resizing)
"""What XLA computes otherwise than TensorFlow does."""


def slow(cases: Iterable[Any]) -> list[Any]:
    return [pytest.param(case, marks=pytest.mark.slow) for case in cases]


def ask(model: keras.Model, inputs: list[np.ndarray]) -> list[np.ndarray]:
    return networks.call(functional_form(model), inputs, by_xla=True)


def assert_moved(model: keras.Model) -> keras.Model:
    """Check a random model against its rewritten form, and return that."""
    networks.randomize(model)
    moved = load_model(model)
    assert not find_channels_first(moved)
    inputs = networks.random_inputs(model, size=9)
    resizes = any(isinstance(x, RESIZING) for x in operations_by_path(moved).values())
    outputs = networks.call(moved, inputs, by_xla=resizes)
    for found, expected in zip(outputs, ask(model, inputs), strict=True):
        assert found.shape == expected.shape
        np.testing.assert_allclose(found, expected, atol=2e-5 * max(1, np.abs(expected).max()))
    form, other = functional_form(model), functional_form(moved)
    assert other.output_names == form.output_names
    assert [t.name for t in other.inputs] == [t.name for t in form.inputs]
    assert [t.shape for t in other.inputs] == [t.shape for t in form.inputs]
    assert [t.shape for t in other.outputs] == [t.shape for t in form.outputs]
    assert moved.count_params() == model.count_params()
    return moved


def transposes(model: keras.Model) -> int:
    return sum(isinstance(x, layers.Permute) for x in operations_by_path(model).values())


class Twice(keras.Model):
    """A class made of layers, one of them called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = layers.Conv2D(3, 3, **SAME)
        self.norm = layers.BatchNormalization(axis=1)

    def call(self, x: Any) -> Any:
        return self.norm(self.convolution(ops.relu(self.convolution(x))))


class Own(layers.Conv2D):
    """A layer of the user's own: what its call does is not known."""

    def call(self, x: Any) -> Any:
        return super().call(x) * 2


LAYERS = [
    (layers.Conv2D(5, 3, activation="relu", **FIRST), (3, 8, 9)),
    (layers.Conv2D(4, 3, strides=2, **SAME), (3, 7, 9)),
    (layers.Conv2D(4, 3, dilation_rate=2, activation=layers.ReLU(6.0), **SAME), (3, 7, 9)),
    (layers.Conv2D(4, 3, activation="softmax", **SAME), (3, 7, 9)),
    (layers.Conv2D(8, 3, groups=2, **SAME), (6, 7, 9)),
    (layers.Conv2D(6, 3, groups=6, **SAME), (6, 7, 9)),
    (layers.Conv1D(4, 3, **FIRST), (3, 9)),
    (layers.Conv3D(4, 3, **SAME), (2, 3, 5, 6)),
    (layers.DepthwiseConv1D(3, depth_multiplier=2, **SAME), (3, 9)),
    (layers.DepthwiseConv2D(3, depth_multiplier=2, strides=2, **SAME), (3, 7, 9)),
    (layers.SeparableConv1D(4, 3, **SAME), (3, 9)),
    (layers.SeparableConv2D(4, 3, depth_multiplier=2, **SAME), (3, 7, 9)),
    (layers.Conv1DTranspose(4, 3, strides=2, **SAME), (3, 9)),
    (layers.Conv2DTranspose(4, 3, strides=2, **SAME), (3, 7, 9)),
    (layers.Conv3DTranspose(4, 3, strides=2, **SAME), (2, 3, 4, 5)),
    (layers.MaxPooling1D(2, **FIRST), (3, 9)),
    (layers.MaxPooling2D(2, **SAME), (3, 7, 9)),
    (layers.MaxPooling3D(2, **FIRST), (3, 4, 5, 6)),
    (layers.AveragePooling1D(2, **FIRST), (3, 9)),
    (layers.AveragePooling2D(3, 1, **SAME), (3, 7, 9)),
    (layers.AveragePooling3D(2, **FIRST), (3, 4, 5, 6)),
    (layers.AdaptiveAveragePooling2D(2, **FIRST), (3, 7, 9)),
    (layers.AdaptiveMaxPooling2D(2, **FIRST), (3, 7, 9)),
    (layers.GlobalAveragePooling1D(**FIRST), (3, 9)),
    (layers.GlobalAveragePooling2D(**FIRST), (3, 7, 9)),
    (layers.GlobalAveragePooling2D(keepdims=True, **FIRST), (3, 7, 9)),
    (layers.GlobalMaxPooling2D(keepdims=True, **FIRST), (3, 7, 9)),
    (layers.GlobalMaxPooling3D(**FIRST), (3, 4, 5, 6)),
    (layers.UpSampling2D((2, 3), interpolation="bilinear", **FIRST), (3, 7, 9)),
    (layers.UpSampling3D((1, 2, 3), **FIRST), (3, 4, 5, 6)),
    (layers.ZeroPadding1D((1, 2), **FIRST), (3, 9)),
    (layers.ZeroPadding2D(((1, 0), (2, 3)), **FIRST), (3, 7, 9)),
    (layers.ZeroPadding3D((1, 2, 3), **FIRST), (3, 4, 5, 6)),
    (layers.Cropping2D(((1, 0), (2, 3)), **FIRST), (3, 7, 9)),
    (layers.Cropping3D((1, 1, 2), **FIRST), (3, 4, 5, 6)),
    (layers.SpatialDropout2D(0.5, **FIRST), (3, 7, 9)),
    (layers.SpatialDropout3D(0.5, **FIRST), (3, 4, 5, 6)),
    (layers.Resizing(4, 5, **FIRST), (3, 7, 9)),
    (layers.CenterCrop(4, 5, **FIRST), (3, 7, 9)),
    (layers.ConvLSTM1D(4, 3, **SAME), (2, 3, 9)),
    (layers.ConvLSTM2D(4, 3, return_sequences=True, **SAME), (2, 3, 7, 9)),
    (layers.TimeDistributed(layers.Conv2D(4, 3, **SAME)), (2, 3, 7, 9)),
    (layers.SpectralNormalization(layers.Conv2D(4, 3, **SAME)), (3, 7, 9)),
    (layers.TimeDistributed(keras.Sequential([keras.Input((3, 7, 9)),
                                              layers.Conv2D(4, 3, **SAME)])), (2, 3, 7, 9)),
]  # fmt: skip


@pytest.mark.parametrize(("layer", "shape"), LAYERS, ids=lambda one: getattr(one, "name", ""))
def test_every_layer_that_knows_the_order_of_axes_is_moved(layer: Any, shape: Any) -> None:
    inputs = keras.Input(shape, name="image")
    moved = assert_moved(keras.Model(inputs, type(layer).from_config(layer.get_config())(inputs)))
    assert transposes(moved) <= 2


STEPS: list[Callable[[Any], Any]] = [
    lambda x: layers.BatchNormalization(axis=1)(x),
    lambda x: layers.BatchNormalization()(x),
    lambda x: layers.GroupNormalization(2, axis=1)(x),
    lambda x: layers.LayerNormalization(axis=1)(x),
    lambda x: layers.LayerNormalization(axis=[1, 2, 3])(x),
    lambda x: layers.LayerNormalization(axis=[3, 1])(x),
    lambda x: layers.RMSNormalization()(x),
    lambda x: layers.UnitNormalization(axis=1)(x),
    lambda x: layers.Normalization(axis=1)(x),
    lambda x: layers.Normalization(axis=(1, 3))(x),
    lambda x: layers.Normalization(axis=1, mean=[0, 1, 2, 3], variance=[1, 2, 3, 4])(x),
    lambda x: layers.Normalization(axis=None, mean=1.0, variance=2.0)(x),
    lambda x: layers.Softmax(axis=1)(x),
    lambda x: layers.Softmax()(x),
    lambda x: layers.PReLU()(x),
    lambda x: layers.PReLU(shared_axes=[2, 3])(x),
    lambda x: layers.Activation("softmax")(x),
    lambda x: layers.Activation("gelu")(x),
    lambda x: layers.Rescaling(1 / 3, 0.5)(x),
    lambda x: layers.Dropout(0.5)(layers.GaussianNoise(1.0)(layers.LeakyReLU()(x))),
    lambda x: layers.SpatialDropout2D(0.5)(x),
    lambda x: layers.Concatenate(axis=1)([x, layers.ReLU()(x)]),
    lambda x: layers.Concatenate(axis=2)([x, x]),
    lambda x: layers.Add()([x, layers.Conv2D(4, 1, **FIRST)(x)]),
    lambda x: layers.Multiply()([x, layers.GlobalMaxPooling2D(keepdims=True, **FIRST)(x)]),
    lambda x: x * layers.Reshape((4, 1, 1))(layers.GlobalMaxPooling2D(**FIRST)(x)),
    lambda x: x * layers.Conv2D(1, 1, activation="sigmoid", **FIRST)(x),
    lambda x: x * np.arange(4, dtype="float32").reshape(4, 1, 1) - 1.5,
    lambda x: x * np.arange(9, dtype="float32"),
    lambda x: ops.concatenate([x, ops.tanh(x)], axis=-3),
    lambda x: ops.softmax(x, axis=1),
    lambda x: ops.concatenate(ops.split(x, 2, axis=1)[::-1], axis=1),
    lambda x: x - ops.mean(x, axis=1, keepdims=True),
    lambda x: x[:, 1:, :, ::2],
    lambda x: ops.pad(x, [(0, 0), (0, 0), (1, 2), (0, 1)]),
    lambda x: ops.flip(x, axis=1),
    lambda x: ops.cumsum(x, axis=2),
    lambda x: layers.Permute((2, 3, 1))(x),
    lambda x: layers.Dense(5)(layers.Permute((2, 3, 1))(x)),
    lambda x: layers.Permute((3, 2, 1))(x),
    lambda x: ops.transpose(ops.relu(ops.transpose(x, (0, 2, 3, 1))), (0, 3, 1, 2)),
    lambda x: ops.swapaxes(x, 1, 2),
    lambda x: ops.moveaxis(x, 1, -1),
    lambda x: layers.Dense(5)(x),
    lambda x: layers.UpSampling2D()(x),
    lambda x: layers.Reshape((2, 2, 7, 9))(x),
    lambda x: layers.Reshape((-1,))(x),
    lambda x: layers.Flatten()(x),
    lambda x: layers.Flatten(**FIRST)(x),
    lambda x: layers.BatchNormalization()(layers.Flatten()(x)),
    lambda x: layers.Dense(3)(layers.Dropout(0.5)(layers.ReLU()(layers.Flatten()(x)))),
    lambda x: layers.Flatten()(layers.GlobalMaxPooling2D(keepdims=True, **FIRST)(x)),
    lambda x: layers.Concatenate()([layers.Flatten()(x), layers.Flatten()(x)]),
    lambda x: ops.mean(x, axis=(2, 3)),
    lambda x: ops.max(x, axis=1),
    lambda x: ops.sum(x, axis=-1),
    lambda x: layers.LSTM(3)(layers.Reshape((4, 63))(x)),
    lambda x: layers.Lambda(lambda v: v[:, :2])(x),
    lambda x: layers.EinsumDense("bchw,cd->bdhw", (5, 7, 9))(x),
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(STEPS)))
def test_what_stands_between_such_layers_keeps_its_meaning(number: int) -> None:
    inputs = keras.Input((3, 7, 9), name="image")
    x = STEPS[number](layers.Conv2D(4, 3, name="before", **SAME)(inputs))
    outputs = [x]
    if len(x.shape) == 4:
        outputs.append(layers.Conv2D(5, 1, name="after", use_bias=False, **FIRST)(x))
    assert_moved(keras.Model(inputs, outputs))


def build_classifier() -> keras.Model:
    inputs = keras.Input((3, 12, 14), name="image")
    x = layers.Rescaling(1 / 255)(inputs)
    x = layers.Conv2D(8, 3, name="stem", **SAME)(x)
    x = layers.BatchNormalization(axis=1, name="norm")(x)
    x = layers.ReLU()(x)
    y = layers.SeparableConv2D(8, 3, name="separable", **SAME)(x)
    x = layers.Concatenate(axis=1)([layers.Add()([x, y]), y])
    x = layers.MaxPooling2D(2, **FIRST)(x)
    x = layers.Dropout(0.5)(layers.Flatten()(x))
    return keras.Model(inputs, layers.Dense(5, activation="softmax", name="head")(x))


def test_axes_move_once_at_the_front() -> None:
    model = build_classifier()
    moved = assert_moved(model)
    assert transposes(moved) == 1
    assert {x.name for x in model.layers} <= {x.name for x in moved.layers}


def test_an_output_map_keeps_its_name_and_its_order() -> None:
    inputs = keras.Input((3, 7, 9), name="image")
    x = layers.Conv2D(4, 3, name="features", **SAME)(inputs)
    end = layers.Conv2D(2, 1, activation="sigmoid", name="mask", **FIRST)(x)
    moved = assert_moved(keras.Model({"image": inputs}, {"mask": end, "features": x}))
    assert transposes(moved) == 3


def test_a_network_that_is_fed_channels_last_needs_no_transposes_at_all() -> None:
    inputs = keras.Input((7, 9, 3), name="image")
    x = layers.Conv2D(4, 3, **SAME)(layers.Permute((3, 1, 2))(inputs))
    x = layers.Permute((2, 3, 1), name="back")(layers.BatchNormalization(axis=1)(x))
    assert transposes(assert_moved(keras.Model(inputs, layers.ReLU()(x)))) == 0


def test_nested_shared_and_sequential_parts_are_moved() -> None:
    block = keras.Sequential(
        [keras.Input((4, 7, 9)), layers.Conv2D(4, 3, **SAME), layers.BatchNormalization(axis=1)],
        name="block",
    )
    entrance = keras.Input((3, 7, 9))
    inner = layers.Conv2D(4, 1, **FIRST)(entrance)
    inner = keras.Model(entrance, [block(block(inner)), layers.Flatten()(inner)], name="encoder")
    inner.trainable = False
    inputs, other = keras.Input((3, 7, 9), name="a"), keras.Input((3, 7, 9), name="b")
    (x, flat), (y, _) = inner(inputs), inner(layers.ReLU()(other))
    shared = layers.Conv2D(4, 1, name="shared", **FIRST)
    x = layers.Add()([shared(x), shared(layers.Lambda(lambda v: v * 2)(y))])
    head = layers.Dense(2, name="head")(layers.Concatenate()([layers.Flatten()(x), flat]))
    moved = assert_moved(keras.Model([inputs, other], [head, x]))
    assert not moved.get_layer("encoder").trainable_weights
    assert moved.get_layer("shared").trainable


def test_sequential_models_are_moved() -> None:
    steps = [layers.Conv2D(4, 3, activation="relu", **FIRST), layers.MaxPooling2D(**FIRST)]
    model = keras.Sequential([keras.Input((3, 9, 12)), *steps, layers.Flatten(), layers.Dense(2)])
    assert transposes(assert_moved(model)) == 1


def test_a_part_that_is_a_class_is_moved() -> None:
    inputs = keras.Input((3, 7, 9), name="image")
    assert_moved(keras.Model(inputs, Twice()(inputs)))


def test_a_class_whose_call_cannot_be_compared_here_is_refused_in_one_line(weak_machine) -> None:
    model = Twice()
    model(keras.Input((3, 7, 9)))
    with pytest.raises(ModelError, match=r"written as a class.* on this machine\. Build") as told:
        load_model(model)
    assert len(str(told.value).splitlines()) == 1


def test_inputs_of_open_size_and_half_precision_are_moved() -> None:
    inputs = keras.Input((3, None, None), name="image")
    x = layers.Conv2D(4, 3, dtype="mixed_bfloat16", **SAME)(inputs)
    x = layers.GlobalAveragePooling2D(dtype="float32", **FIRST)(layers.MaxPooling2D(**FIRST)(x))
    moved = load_model(networks.randomize(keras.Model(inputs, x)))
    assert moved.layers[2].compute_dtype == "bfloat16"


GROWING: list[Callable[[Random, Any], Any]] = [
    lambda r, x: layers.Conv2D(r.randint(2, 6), 3, activation="relu", use_bias=False, **SAME)(x),
    lambda r, x: layers.Conv2D(2 * x.shape[1], 3, groups=x.shape[1], use_bias=False, **SAME)(x),
    lambda r, x: layers.DepthwiseConv2D(3, use_bias=False, **SAME)(x),
    lambda r, x: layers.Conv2DTranspose(r.randint(2, 5), 3, use_bias=False, **SAME)(x),
    lambda r, x: layers.AveragePooling2D(2, 1, **SAME)(x),
    lambda r, x: layers.PReLU(shared_axes=r.choice([None, [2], [2, 3]]))(x),
    lambda r, x: layers.BatchNormalization(axis=r.choice([1, 2, -1]))(x),
    lambda r, x: layers.LayerNormalization(axis=r.choice([1, [1, 2], -1]))(x),
    lambda r, x: layers.Conv2D(3, 1, use_bias=False)(x),
    lambda r, x: layers.Permute(r.sample([1, 2, 3], 3))(x),
    lambda r, x: ops.flip(x, axis=r.randint(1, 3)),
    lambda r, x: layers.Softmax(axis=r.randint(1, 3))(x),
    lambda r, x: x[:, : r.randint(1, x.shape[1])],
    lambda r, x: layers.Add()([x, layers.Multiply()([x, x])]),
    lambda r, x: layers.Concatenate(axis=r.randint(1, 3))([x, ops.tanh(x)]),
    lambda r, x: layers.Dense(r.randint(2, 5))(x),
]  # fmt: skip


def grow(seed: int) -> keras.Model:
    """Draw a network whose tensors all have four axes, and a head on some of them."""
    random = Random(seed)
    inputs = keras.Input((3, 13, 17), name="image")
    pool = [layers.Conv2D(4, 3, **SAME)(inputs)]
    for _ in range(random.randint(3, 10)):
        made = random.choice(GROWING)(random, random.choice(pool[-3:]))
        if np.prod(made.shape[1:]) < 20000:
            pool.append(made)
    ends = [layers.GlobalAveragePooling2D(**FIRST)(x) for x in pool[-3:]]
    ends.append(layers.ReLU()(layers.Flatten()(pool[-1])))
    return keras.Model(inputs, [layers.Dense(3)(layers.Concatenate()(ends)), pool[-1]])


@pytest.mark.parametrize("seed", [0, 1, 2, *slow(range(3, 12))])
def test_random_networks_are_moved(seed: int) -> None:
    assert_moved(grow(seed))


def test_costs_are_those_of_the_moved_model() -> None:
    model = build_classifier()
    inputs = model.inputs[0]
    x = layers.Conv2DTranspose(6, 3, strides=2, **SAME)(inputs)
    x = layers.DepthwiseConv2D(3, depth_multiplier=2, **SAME)(layers.Conv2D(4, 1, **FIRST)(x))
    model = keras.Model(inputs, [*model.outputs, layers.GlobalMaxPooling2D(**FIRST)(x)])
    moved = load_model(model)
    first, last = find_groups(model), find_groups(moved)
    assert CostModel(first).full == CostModel(last).full
    assert [group.width for group in first] == [group.width for group in last]
    counts = [WorkloadModel(groups).at({}) for groups in (first, last)]
    np.testing.assert_array_equal(*(np.sort(found.macs[found.macs > 0]) for found in counts))


@pytest.mark.parametrize("kind", ["model.keras", "model.h5", "model.json"])
def test_files_are_moved(kind: str, tmp_path) -> None:
    model, path = networks.randomize(build_classifier()), tmp_path / kind
    weights = None
    if kind == "model.json":
        weights = tmp_path / "model.weights.h5"
        path.write_text(model.to_json())
        model.save_weights(weights)
    else:
        model.save(path)
    moved = load_model(path, weights=weights)
    assert not find_channels_first(moved)
    inputs = networks.random_inputs(model)
    np.testing.assert_allclose(ask(moved, inputs)[0], ask(model, inputs)[0], atol=1e-5)


@pytest.mark.parametrize("in_memory", [True, False])
def test_models_of_keras_2_are_moved_and_compared_with_it(
    in_memory: bool, tmp_path, caplog
) -> None:
    import tf_keras

    old = tf_keras.layers
    inputs = tf_keras.Input((3, 9, 11), name="image")
    x = old.Conv2D(11, 3, activation="relu", name="stem", **SAME)(inputs)  # as wide as its filters
    x = old.BatchNormalization(axis=1)(old.DepthwiseConv2D(3, **SAME)(x))
    model = tf_keras.Model(inputs, old.Dense(3, name="head")(old.Flatten()(x)))
    generator = np.random.default_rng(0)
    model.set_weights([generator.uniform(0.2, 0.6, w.shape) for w in model.get_weights()])
    if not in_memory:
        model.save(tmp_path / "model.h5")
    moved = load_model(model if in_memory else tmp_path / "model.h5")
    assert not [one for one in caplog.records if one.name.startswith("edgeprune")]  # it compared
    images = generator.normal(size=(2, 3, 9, 11)).astype("float32")
    expected = tf.function(model, jit_compile=True)(images)
    np.testing.assert_allclose(np.asarray(moved(images)), expected, rtol=1e-4, atol=1e-4)


def test_theano_ordering_of_keras_1_is_moved(tmp_path) -> None:
    names = {"name": "conv", "nb_filter": 4, "nb_row": 3, "nb_col": 3, "border_mode": "same"}
    conv = {**names, "dim_ordering": "th", "batch_input_shape": [None, 3, 7, 9], "bias": True}
    config = [
        {"class_name": "Convolution2D", "config": conv},
        {"class_name": "Flatten", "config": {"name": "flat"}},
    ]
    (tmp_path / "net.json").write_text(json.dumps({"class_name": "Sequential", "config": config}))
    twin = keras.Sequential(
        [
            keras.Input((3, 7, 9)),
            layers.Conv2D(4, 3, name="conv", **SAME),
            layers.Flatten(name="flat"),
        ]
    )
    networks.randomize(twin)
    twin.save(tmp_path / "net.h5")
    moved = load_model(tmp_path / "net.json", weights=tmp_path / "net.h5")
    inputs = networks.random_inputs(twin)
    np.testing.assert_allclose(ask(moved, inputs)[0], ask(twin, inputs)[0], atol=1e-5)


def test_models_with_channels_last_are_left_alone() -> None:
    model = networks.build_mobile_network()
    assert load_model(model) is model


@pytest.fixture
def weak_machine(monkeypatch) -> None:
    monkeypatch.setattr(layouts, "convolves_channels_first", lambda: False)


IMAGES = np.random.default_rng(0).normal(size=(16, 3, 12, 14)).astype("float32")


@pytest.mark.parametrize(
    "use",
    [
        lambda model: edgeprune.prune(model, IMAGES, budget="macs=60%"),
        lambda model: edgeprune.prune_in_rounds(model, IMAGES, budget="macs=60%"),
        lambda model: edgeprune.fine_tune(model, model, IMAGES),
        lambda model: edgeprune.convert(model),
    ],
)
def test_models_in_memory_that_cannot_run_here_are_refused_in_one_line(use, weak_machine) -> None:
    with pytest.raises(
        (ModelError, ConversionError), match=r"edgeprune\.load_model\(model\)"
    ) as told:
        use(build_classifier())
    assert len(str(told.value).splitlines()) == 1


def test_a_model_in_memory_is_pruned_and_converted_once_it_is_moved() -> None:
    moved = load_model(networks.randomize(build_classifier()))
    pruned = edgeprune.prune(moved, IMAGES, budget="macs=60%", pruning=edgeprune.Pruning(step=1))
    assert pruned.after.macs <= 0.6 * pruned.before.macs
    assert pruned.model.input_shape == (None, 3, 12, 14)
    assert edgeprune.convert(pruned.model, scheme="float32")


def test_a_layer_that_cannot_be_moved_is_refused_in_one_line() -> None:
    inputs = keras.Input((3, 7, 9), name="image")
    model = keras.Model(inputs, Own(4, 3, name="own", **SAME)(inputs))
    if layouts.convolves_channels_first():
        assert load_model(model).count_params() == model.count_params()
        return
    with pytest.raises(EdgepruneError, match=r"'own' \(Own\).*channels_last layers") as told:
        load_model(model)
    assert len(str(told.value).splitlines()) == 1


def test_a_rewritten_model_that_differs_is_refused(monkeypatch) -> None:
    from edgeprune.loading import data_formats

    def differ(model: keras.Model, alone: bool = False) -> keras.Model:
        made = rewrite(model, alone=alone)
        return made if alone else networks.randomize(made, seed=7)

    monkeypatch.setattr(data_formats, "rewrite", differ)
    with pytest.raises(ModelError, match="differs by"):
        load_model(networks.randomize(build_classifier()))
