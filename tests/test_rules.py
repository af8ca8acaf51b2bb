"""One contract for every rule: slim equals cut around the layer, and costs are predicted."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from typing import Any

import keras
import networks
import numpy as np
import pytest
from keras import layers, ops
from networks import around, pool

from edgeprune.cost.cost_model import CostModel
from edgeprune.errors import ModelError
from edgeprune.surgery.channel_removal import remove_channels
from edgeprune.tracing.groups import find_groups
from edgeprune.tracing.keras_internals import CustomScaleLayer, LayerScale, StochasticDepth
from edgeprune.tracing.rules import RULES, Tracing, rule

Connect = Callable[[Any], Any]


ELEMENTWISE = {
    "Activation": lambda: layers.Activation("gelu"),
    "ReLU": lambda: layers.ReLU(6.0, negative_slope=0.1),
    "LeakyReLU": layers.LeakyReLU,
    "ELU": layers.ELU,
    "Dropout": lambda: layers.Dropout(0.5),
    "SpatialDropout2D": lambda: layers.SpatialDropout2D(0.5),
    "GaussianDropout": lambda: layers.GaussianDropout(0.5),
    "GaussianNoise": lambda: layers.GaussianNoise(0.5),
    "AlphaDropout": lambda: layers.AlphaDropout(0.5),
    "ActivityRegularization": layers.ActivityRegularization,
    "Identity": layers.Identity,
    "PReLU": layers.PReLU,
    "PReLU shared": lambda: layers.PReLU(shared_axes=[1, 2]),
    "Rescaling": lambda: layers.Rescaling(0.5, 1.0),
    "Rescaling by channel": lambda: layers.Rescaling([1.0, 2, 3, 4, 5, 6], [6.0, 5, 4, 3, 2, 1]),
    "Softmax over height": lambda: layers.Softmax(axis=1),
    "BatchNormalization": layers.BatchNormalization,
    "LayerNormalization over positions": lambda: layers.LayerNormalization(axis=[1, 2]),
    "UnitNormalization over height": lambda: layers.UnitNormalization(axis=1),
    "StochasticDepth": lambda: StochasticDepth(0.5),
    "LayerScale": lambda: LayerScale(0.5, 6),
    "GroupNormalization": lambda: layers.GroupNormalization(3),
    "GroupNormalization by channel": lambda: layers.GroupNormalization(6),
    "GroupNormalization -1": lambda: layers.GroupNormalization(-1),
    "Normalization": lambda: layers.Normalization(mean=1.0, variance=2.0),
    "Normalization adapted": layers.Normalization,
    "Normalization by channel": lambda: layers.Normalization(
        mean=[1.0, 2, 3, 4, 5, 6], variance=[6.0, 5, 4, 3, 2, 1]
    ),
    "MaxPooling2D": lambda: layers.MaxPooling2D(2),
    "AveragePooling2D": lambda: layers.AveragePooling2D(2),
    "AdaptiveMaxPooling2D": lambda: layers.AdaptiveMaxPooling2D(2),
    "AdaptiveAveragePooling2D": lambda: layers.AdaptiveAveragePooling2D(2),
    "GlobalAveragePooling2D": lambda: layers.GlobalAveragePooling2D(keepdims=True),
    "GlobalMaxPooling2D": layers.GlobalMaxPooling2D,
    "ZeroPadding2D": lambda: layers.ZeroPadding2D(((1, 0), (2, 1))),
    "Cropping2D": lambda: layers.Cropping2D(1),
    "UpSampling2D": lambda: layers.UpSampling2D(2, interpolation="bilinear"),
    "Resizing": lambda: layers.Resizing(4, 5),
    "CenterCrop": lambda: layers.CenterCrop(4, 4),
    "Flatten": layers.Flatten,
    "Reshape": lambda: layers.Reshape((36, 6)),
    "Reshape with -1": lambda: layers.Reshape((-1, 12)),
    "Reshape into groups": lambda: layers.Reshape((6, 6, 2, 3)),
    "Permute": lambda: layers.Permute((3, 1, 2)),
    "Conv2D": lambda: layers.Conv2D(5, 3, dilation_rate=2),
    "Conv2D in groups": lambda: layers.Conv2D(9, 3, groups=3, activation="relu"),
    "Conv2D in many groups": lambda: (
        lambda x: layers.Conv2D(18, 3, groups=6)(layers.Conv2D(12, 1, name="wide")(x))
    ),
    "Conv2D by channel": lambda: layers.Conv2D(12, 3, groups=6),
    "Conv2DTranspose": lambda: layers.Conv2DTranspose(5, 3, strides=2, activation="relu"),
    "DepthwiseConv2D": lambda: layers.DepthwiseConv2D(3, depth_multiplier=2),
    "SeparableConv2D": lambda: layers.SeparableConv2D(5, 3, depth_multiplier=2),
    "Dense": lambda: layers.Dense(5, activation="relu"),
    "EinsumDense": lambda: layers.EinsumDense("abcd,de->abce", (6, 6, 5), bias_axes="e"),
    "EinsumDense ...": lambda: layers.EinsumDense("...x,xy->...y", 5, bias_axes="y"),
    "EinsumDense heads": lambda: layers.EinsumDense(
        "bhwc,cnd->bhwnd", (6, 6, 2, 4), bias_axes="nd"
    ),
    "EinsumDense by channel": lambda: layers.EinsumDense("bhwc,c->bhwc", (6, 6, 6), bias_axes="c"),
    "EinsumDense ... last": lambda: (
        lambda x: layers.EinsumDense("bc...,cy->by...", 4, bias_axes="y")(
            layers.Permute((3, 1, 2))(x)
        )
    ),
    "EinsumDense of channel groups": lambda: (
        lambda x: layers.EinsumDense("...x,xy->...y", 4, bias_axes="y")(
            layers.Reshape((6, 6, 3, 2))(x)
        )
    ),
    "EinsumDense of positions": lambda: layers.EinsumDense("abcd,bce->ade", (6, 4)),
    "TimeDistributed": lambda: layers.TimeDistributed(layers.Conv1D(5, 3, activation="relu")),
    "TimeDistributed Dense": lambda: layers.TimeDistributed(layers.Dense(5)),
    "TimeDistributed BatchNormalization": lambda: layers.TimeDistributed(
        layers.BatchNormalization()
    ),
}
IN_1D = {
    "SpatialDropout1D": lambda: layers.SpatialDropout1D(0.5),
    "Conv1D": lambda: layers.Conv1D(5, 3, padding="causal"),
    "Conv1DTranspose": lambda: layers.Conv1DTranspose(5, 3),
    "DepthwiseConv1D": lambda: layers.DepthwiseConv1D(3, depth_multiplier=2),
    "SeparableConv1D": lambda: layers.SeparableConv1D(5, 3),
    "MaxPooling1D": lambda: layers.MaxPooling1D(2),
    "AveragePooling1D": lambda: layers.AveragePooling1D(2),
    "AdaptiveMaxPooling1D": lambda: layers.AdaptiveMaxPooling1D(2),
    "AdaptiveAveragePooling1D": lambda: layers.AdaptiveAveragePooling1D(2),
    "GlobalAveragePooling1D": layers.GlobalAveragePooling1D,
    "GlobalMaxPooling1D": layers.GlobalMaxPooling1D,
    "ZeroPadding1D": lambda: layers.ZeroPadding1D(1),
    "Cropping1D": lambda: layers.Cropping1D(1),
    "UpSampling1D": lambda: layers.UpSampling1D(2),
    "SimpleRNN": lambda: layers.SimpleRNN(5),
    "GRU": lambda: layers.GRU(5, return_sequences=True),
    "GRU reset before": lambda: layers.GRU(5, reset_after=False),
    "LSTM": lambda: layers.LSTM(5, return_sequences=True),
    "LSTM without bias": lambda: layers.LSTM(5, use_bias=False),
    "RNN": lambda: layers.RNN(layers.GRUCell(5)),
    "Bidirectional": lambda: layers.Bidirectional(layers.LSTM(5, return_sequences=True)),
    "Bidirectional sum": lambda: layers.Bidirectional(layers.GRU(5), merge_mode="sum"),
    "Bidirectional with two layers": lambda: layers.Bidirectional(
        layers.LSTM(5), backward_layer=layers.LSTM(5, go_backwards=True, activation="relu")
    ),
    "self-attention": lambda: lambda x: layers.MultiHeadAttention(4, 3, value_dim=5)(x, x),
    "MultiHeadAttention with output size": lambda: (
        lambda x: layers.MultiHeadAttention(2, 3, output_shape=7)(x, x[:, :3])
    ),
    "MultiHeadAttention with scores": lambda: (
        lambda x: layers.MultiHeadAttention(3, 3)(x, x, return_attention_scores=True)[0]
    ),
}
IN_3D = {
    "SpatialDropout3D": lambda: layers.SpatialDropout3D(0.5),
    "Conv3D": lambda: layers.Conv3D(5, 2),
    "Conv3DTranspose": lambda: layers.Conv3DTranspose(5, 2),
    "MaxPooling3D": lambda: layers.MaxPooling3D(2),
    "AveragePooling3D": lambda: layers.AveragePooling3D(2),
    "AdaptiveMaxPooling3D": lambda: layers.AdaptiveMaxPooling3D(2),
    "AdaptiveAveragePooling3D": lambda: layers.AdaptiveAveragePooling3D(2),
    "GlobalAveragePooling3D": layers.GlobalAveragePooling3D,
    "GlobalMaxPooling3D": lambda: layers.GlobalMaxPooling3D(keepdims=True),
    "ZeroPadding3D": lambda: layers.ZeroPadding3D(1),
    "Cropping3D": lambda: layers.Cropping3D(1),
    "UpSampling3D": lambda: layers.UpSampling3D(2),
    "ConvLSTM2D": lambda: layers.ConvLSTM2D(5, 2, return_sequences=True),
}
OF_VECTORS = {
    "RepeatVector": lambda: layers.RepeatVector(3),
    "Reshape to a map": lambda: layers.Reshape((1, 1, 6)),
    "Reshape to the front": lambda: layers.Reshape((6, 1)),
}
BRANCHED = {
    "Add": lambda x: layers.Add()([x, layers.Conv2D(6, 1)(x)]),
    "Subtract": lambda x: layers.Subtract()([x, layers.Conv2D(6, 1)(x)]),
    "Multiply by a vector": lambda x: layers.Multiply()([x, layers.Dense(6)(pool(x))]),
    "Multiply by a spatial gate": lambda x: layers.Multiply()([x, layers.Conv2D(1, 1)(x)]),
    "CustomScaleLayer": lambda x: CustomScaleLayer(0.2)([x, layers.Conv2D(6, 1)(x)]),
    "Average": lambda x: layers.Average()([x, layers.Conv2D(6, 1)(x), x]),
    "Maximum": lambda x: layers.Maximum()([x, layers.Conv2D(6, 1)(x)]),
    "Minimum": lambda x: layers.Minimum()([x, layers.Conv2D(6, 1)(x)]),
    "Concatenate": lambda x: layers.Concatenate()([x, layers.Conv2D(4, 1)(x), x]),
    "Concatenate over height": lambda x: layers.Concatenate(axis=1)([x, layers.Conv2D(6, 1)(x)]),
    "Concatenate of a join": lambda x: layers.Concatenate()(
        [layers.Concatenate()([x, layers.Conv2D(2, 1)(x)]), x]
    ),
}
CONV_LSTM = {
    "ConvLSTM1D": lambda: layers.ConvLSTM1D(5, 2),
    "SpatialDropout2D": lambda: layers.SpatialDropout2D(0.5),
}


def cases() -> dict[str, Callable[[], keras.Model]]:
    found: dict[str, Callable[[], keras.Model]] = {}
    for name, make in ELEMENTWISE.items():
        found[name] = lambda make=make: around(make())
    for name, make in IN_1D.items():
        found[name] = lambda make=make: around(make(), (6, 3))
    for name, make in IN_3D.items():
        found[name] = lambda make=make: around(make(), (4, 4, 4, 3))
    for name, make in OF_VECTORS.items():
        found[name] = lambda make=make: around(make(), (4,))
    for name, connect in BRANCHED.items():
        found[name] = lambda connect=connect: around(connect)
    found["ConvLSTM1D"] = lambda: around(layers.ConvLSTM1D(5, 2, return_state=False), (3, 6, 3))
    found["ConvLSTM3D"] = lambda: conv_lstm_3d()
    found["Embedding"] = lambda: embedding()
    found["LSTM with states"] = lambda: encoder_and_decoder(layers.LSTM)
    found["GRU with states"] = lambda: encoder_and_decoder(layers.GRU)
    found["Bidirectional with states"] = lambda: bidirectional_states()
    later = {name for name in found if name.startswith("Adaptive") and not hasattr(layers, name)}
    return {name: make for name, make in found.items() if name not in later}


def conv_lstm_3d() -> keras.Model:
    inputs = keras.Input((2, 3, 3, 3, 2))
    x = layers.TimeDistributed(layers.Conv3D(4, 1), name="before")(inputs)
    x = layers.ConvLSTM3D(3, 2, return_sequences=True)(x)
    return keras.Model(inputs, layers.Dense(3, name="after")(layers.Flatten()(x)))


def embedding() -> keras.Model:
    inputs = keras.Input((6,), dtype="int32")
    x = layers.Embedding(5, 6, name="before")(inputs)
    return keras.Model(inputs, layers.Dense(3, name="after")(layers.Flatten()(x)))


def encoder_and_decoder(kind: type) -> keras.Model:
    inputs = keras.Input((5, 3))
    x = layers.Conv1D(6, 1, name="before")(inputs)
    _, *states = kind(4, return_state=True)(x)
    x = kind(4, return_sequences=True)(x, initial_state=states)
    return keras.Model(inputs, layers.Dense(3, name="after")(layers.Flatten()(x)))


def bidirectional_states() -> keras.Model:
    inputs = keras.Input((5, 3))
    x = layers.Conv1D(6, 1, name="before")(inputs)
    x, *states = layers.Bidirectional(layers.LSTM(4, return_state=True))(x)
    x = layers.Concatenate()([x, *states])
    return keras.Model(inputs, layers.Dense(3, name="after")(x))


CASES = cases()


def einsum_is_right() -> bool:
    """TensorFlow 2.18 with oneDNN multiplies wrongly here on some CPUs with AVX-512."""
    random = np.random.default_rng(0)
    for shape, columns in (((3, 6, 6, 3), 5), ((3, 6, 6, 3, 2), 4)):
        x = random.random(shape, np.float32)
        kernel = random.random((shape[-1], columns), np.float32)
        found = np.asarray(keras.ops.einsum("...x,xy->...y", x, kernel))
        if not np.allclose(found, x @ kernel, atol=1e-5):
            return False
    return True


@pytest.mark.parametrize("name", CASES)
def test_a_rule_tells_the_truth(name) -> None:
    if "EinsumDense" in name and not einsum_is_right():
        pytest.skip("the einsum of this TensorFlow is wrong on this CPU")
    model = CASES[name]()
    groups = networks.assert_exact(model)
    assert any("before" in group.layers("writes") for group in groups.removable)
    costs = CostModel(groups)
    assert costs.full.params == model.count_params()
    plan = networks.random_plan(groups, seed=1)
    small = remove_channels(model, plan, groups=groups)
    predicted = costs.count({group: len(kept) for group, kept in plan.keep.items()})
    assert predicted == CostModel(find_groups(small)).full
    assert predicted.params == small.count_params()


def test_a_layer_may_be_the_activation_of_another() -> None:
    dense = layers.Dense(5, activation=layers.LeakyReLU(0.1))
    try:
        layers.Dense.from_config(dense.get_config())
    except (TypeError, ValueError):
        pytest.skip("this Keras cannot open its own config of a layer as an activation")
    networks.assert_exact(around(dense))


def test_every_layer_with_a_rule_has_a_case() -> None:
    models = [build() for build in CASES.values()] + [around(make()) for make, _ in MIXING]
    met = {type(layer) for model in models for layer in model._flatten_layers()}
    known = {kind for kind in RULES if issubclass(kind, keras.Layer)}
    assert {kind.__name__ for kind in known - met if kind.__module__.startswith("keras.")} == set()


@pytest.mark.parametrize(
    ("groups", "filters", "widths"), [(2, 8, [6, 4]), (6, 18, [6]), (12, 24, [12])]
)
def test_grouped_channels_are_tied_in_the_way_that_leaves_more_to_choose(
    groups, filters, widths
) -> None:
    model = around(
        [layers.Conv2D(12, 1, name="wide"), layers.Conv2D(filters, 3, groups=groups, name="many")]
    )
    touching = [
        group.width
        for group in networks.assert_exact(model)
        if {"wide", "many"} & set(group.layers("writes"))
    ]
    assert touching == widths


MIXING = [
    (layers.Softmax, "normalised over by softmax"),
    (lambda: layers.Activation("softmax"), "normalised over by softmax"),
    (lambda: layers.Activation("sparsemax"), "activation 'sparsemax' of .* may mix channels"),
    (lambda: layers.LayerNormalization(name="n"), r"normalised over by 'n' \(LayerNorm.*\)"),
    (lambda: layers.UnitNormalization(name="n"), r"normalised over by 'n' \(UnitNorm.*\)"),
    (lambda: layers.GroupNormalization(1, name="n"), r"normalised over by 'n' \(GroupNorm.*\)"),
]
if hasattr(layers, "RMSNormalization"):
    MIXING.append(
        (lambda: layers.RMSNormalization(name="n"), r"normalised over by 'n' \(RMSNorm.*\)")
    )


@pytest.mark.parametrize(("make", "reason"), MIXING)
def test_layers_that_mix_channels_lock_them_and_say_so(make, reason) -> None:
    groups = networks.assert_exact(around(make()))
    assert re.fullmatch(reason, groups["before"].locked[0])


def test_a_convolution_over_the_axis_that_holds_channels_locks_them() -> None:
    steps = [layers.Permute((1, 3, 2)), layers.Conv2D(4, 1, name="mixer")]
    groups = networks.assert_exact(around(steps))
    assert groups["before"].locked == ("'mixer' mixes the axis that holds these channels",)


def test_a_layer_with_weights_and_without_a_rule_locks_what_it_touches() -> None:
    model = around(layers.SpectralNormalization(layers.Conv2D(4, 1), name="spectral"))
    groups = networks.assert_exact(model)
    (reason,) = groups["before"].locked
    assert reason == "Layer 'spectral' (SpectralNormalization) has no channel rule"


@keras.saving.register_keras_serializable("test_rules")
class Scale(keras.layers.Layer):
    def build(self, shape):
        self.factor = self.add_weight(shape=(shape[-1],), name="factor")

    def call(self, x):
        return x * self.factor


def test_a_custom_layer_is_locked_until_it_gets_a_rule(monkeypatch) -> None:
    model = around(Scale(name="scale"))
    assert find_groups(model)["before"].locked == ("Layer 'scale' (Scale) has no channel rule",)
    monkeypatch.delitem(RULES, Scale, raising=False)

    @rule(Scale)
    def scale(tracing: Tracing, layer: Scale, x: np.ndarray) -> np.ndarray:
        tracing.use(layer.factor, 0, "passes", tracing.on_axis(x, -1))
        return x

    groups = networks.assert_exact(model)
    assert groups["before"].layers("passes") == ("scale",)


def test_a_rule_that_returns_labels_of_another_shape_is_refused(monkeypatch) -> None:
    monkeypatch.setitem(RULES, layers.ReLU, lambda tracing, layer, x: x[..., :2])
    with pytest.raises(ModelError, match=r"rule of ReLU returned labels of shape .* for 'relu'"):
        find_groups(around(layers.ReLU(name="relu")))


def test_a_rule_that_fails_names_the_layer(monkeypatch) -> None:
    monkeypatch.setitem(RULES, layers.ReLU, lambda tracing, layer, x: x[7])
    with pytest.raises(ModelError, match=r"stopped at 'relu' \(ReLU\).* IndexError: .*report"):
        find_groups(around(layers.ReLU(name="relu")))


@pytest.mark.parametrize(
    "step",
    [
        lambda: layers.Conv2D(4, 3, data_format="channels_first", activation="relu"),
        lambda: layers.DepthwiseConv2D(3, depth_multiplier=2, data_format="channels_first"),
        lambda: layers.SeparableConv2D(4, 3, data_format="channels_first"),
        lambda: layers.Conv2DTranspose(4, 3, data_format="channels_first"),
        lambda: layers.Conv2D(6, 3, groups=3, data_format="channels_first"),
        lambda: layers.BatchNormalization(axis=1),
        lambda: layers.MaxPooling2D(2, data_format="channels_first"),
        lambda: layers.UpSampling2D(2, data_format="channels_first"),
        lambda: layers.GroupNormalization(3, axis=1),
        lambda: layers.GlobalAveragePooling2D(keepdims=True, data_format="channels_first"),
        lambda: layers.Reshape((6, 36)),
    ],
)
def test_channels_first_slims_like_channels_last(step) -> None:
    """The backend may not run it on a CPU: the same layer in the other format is the oracle."""

    def build(first: bool) -> keras.Model:
        layer = step()
        config = layer.get_config()
        if not first:
            for entry, value in (("data_format", "channels_last"), ("axis", -1)):
                if entry in config:
                    config[entry] = value
            if "target_shape" in config:
                config["target_shape"] = (36, 6)
        layer = type(layer).from_config(config)
        order = "channels_first" if first else "channels_last"
        inputs = keras.Input((3, 6, 6) if first else (6, 6, 3))
        x = layers.Conv2D(6, 1, name="before", data_format=order)(inputs)
        x = layer(x)
        x = layers.Flatten(data_format=order)(x)
        return networks.randomize(keras.Model(inputs, layers.Dense(3, name="after")(x)))

    first, last = build(True), build(False)
    plan = networks.random_plan(find_groups(last))
    expected = remove_channels(last, plan)
    plan = networks.random_plan(find_groups(first))
    found = remove_channels(first, plan)
    for one, other in zip(found.get_weights(), expected.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    assert ops.shape(found.outputs[0]) == (None, 3)


@pytest.mark.parametrize(
    "step",
    [
        layers.EinsumDense("btc,ts->bsc", (4, 6)),
        lambda x: layers.Permute((2, 1))(layers.Dense(5)(layers.Permute((2, 1))(x))),
    ],
)
def test_mixing_positions_lets_channels_pass(step) -> None:
    """As in the token mixing of an MLP-Mixer."""
    model = around(step, (6, 3))
    groups = networks.assert_exact(model)
    assert not groups["before"].locked
    plan = networks.random_plan(groups)
    predicted = CostModel(groups).count({name: len(kept) for name, kept in plan.keep.items()})
    assert predicted == CostModel(find_groups(remove_channels(model, plan))).full


def test_the_units_of_a_stateful_layer_stay() -> None:
    inputs = keras.Input(batch_shape=(2, 5, 3))
    x = layers.Conv1D(6, 1, name="before")(inputs)
    x = layers.LSTM(4, stateful=True, name="lstm")(x)
    groups = find_groups(keras.Model(inputs, layers.Dense(2)(x)))
    assert groups["lstm"].locked == ("kept between the calls of 'lstm'",)
    assert not groups["before"].locked


@pytest.mark.skipif(
    "use_gate" not in inspect.signature(layers.MultiHeadAttention).parameters,
    reason="attention in this Keras has no gate",
)
def test_a_gated_attention_loses_heads_and_values() -> None:
    groups = networks.assert_exact(
        around(lambda x: layers.MultiHeadAttention(3, 2, use_gate=True, name="mha")(x, x), (6, 3))
    )
    assert {group.width for group in groups.removable if "mha" in group.layers("writes")} >= {2, 3}


def test_an_attention_mask_is_locked_and_the_rest_followed() -> None:
    inputs, mask = keras.Input((5, 3)), keras.Input((5, 5), dtype="bool", name="mask")
    x = layers.Conv1D(6, 1, name="before")(inputs)
    x = layers.MultiHeadAttention(2, 3)(x, x, attention_mask=mask)
    model = networks.randomize(keras.Model([inputs, mask], layers.Dense(2)(layers.Flatten()(x))))
    groups = find_groups(model)
    plan = networks.random_plan(groups)
    data = [np.random.default_rng(0).normal(size=(2, 5, 3)).astype("float32"),
            np.tri(5, dtype=bool)[None].repeat(2, axis=0)]  # fmt: skip
    small, oracle = remove_channels(model, plan), networks.mask_channels(model, plan)
    np.testing.assert_allclose(small(data), oracle(data), rtol=1e-4, atol=1e-5)
    assert not groups["before"].locked


def test_the_work_of_a_custom_layer_is_that_of_a_matrix() -> None:
    class Matrix(keras.layers.Layer):
        def build(self, shape):
            self.matrix = self.add_weight(shape=(shape[-1], 5), name="matrix")

        def call(self, x):
            return x @ self.matrix

    inputs = keras.Input((4, 4, 3))
    model = keras.Model(inputs, Matrix()(inputs))
    assert CostModel(find_groups(model)).full.macs == 4 * 4 * 3 * 5
