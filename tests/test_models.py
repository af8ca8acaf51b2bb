"""Whole models: how their parts are connected, opened, frozen and typed."""

from __future__ import annotations

import keras
import networks
import numpy as np
import pytest
from keras import layers, ops

from edgeprune.errors import ModelError
from edgeprune.surgery.channel_removal import remove_channels
from edgeprune.surgery.plan import Plan
from edgeprune.tracing.groups import find_groups
from edgeprune.tracing.replica import duplicate
from edgeprune.tracing.rules import RULES, rule


def test_a_shared_layer_and_a_shared_nested_model_stay_shared() -> None:
    block = keras.Sequential(
        [keras.Input((6, 6, 3)), layers.Conv2D(5, 3, name="inside")], name="block"
    )
    left, right = keras.Input((6, 6, 3), name="left"), keras.Input((6, 6, 3), name="right")
    shared = layers.Conv2D(4, 1, name="shared")
    x = layers.Concatenate()([shared(block(left)), shared(block(right))])
    model = keras.Model([left, right], layers.Dense(2)(layers.Flatten()(x)))
    groups = networks.assert_exact(model)
    assert {group.name for group in groups.removable} == {"block/inside", "shared"}
    small = remove_channels(model, Plan({"shared": (1, 2)}))
    assert sum(layer.name == "shared" for layer in small._flatten_layers()) == 1
    assert sum(layer.name == "inside" for layer in small._flatten_layers()) == 1


def test_a_layer_shared_between_a_model_and_the_one_inside_it() -> None:
    shared = layers.Conv2D(4, 1, name="shared")
    inner_input = keras.Input((6, 6, 4))
    inner = keras.Model(inner_input, layers.ReLU()(shared(inner_input)), name="inner")
    inputs = keras.Input((6, 6, 3))
    x = layers.Conv2D(4, 1, name="enter")(inputs)
    x = layers.Add()([inner(x), shared(x)])
    model = keras.Model(inputs, layers.Dense(2)(layers.Flatten()(x)))
    networks.assert_exact(model)
    assert duplicate(model).count_params() == model.count_params()


def test_models_nest_at_any_depth_and_stay_nested() -> None:
    x = inputs = keras.Input((6, 6, 3))
    x = layers.Conv2D(4, 1)(x)
    for depth in range(3):
        entrance = keras.Input(x.shape[1:])
        inside = layers.Conv2D(4 + depth, 3, padding="same", activation="relu")(entrance)
        model = keras.Model(entrance, inside, name=f"level_{depth}")
        outer = keras.Sequential([model, layers.Conv2D(5 + depth, 1)], name=f"around_{depth}")
        x = outer(x)
    model = keras.Model(inputs, layers.Dense(2)(layers.GlobalAveragePooling2D()(x)))
    networks.assert_exact(model)
    small = remove_channels(model, networks.random_plan(find_groups(model)))
    assert [layer.name for layer in small._flatten_layers(include_self=False)] == [
        layer.name for layer in model._flatten_layers(include_self=False)
    ]


def test_inputs_and_outputs_by_name_keep_their_structure() -> None:
    inputs = {"image": keras.Input((6, 6, 3), name="image"), "extra": keras.Input((4,), name="e")}
    x = layers.GlobalMaxPooling2D()(layers.Conv2D(6, 3, name="conv")(inputs["image"]))
    x = layers.Concatenate()([x, layers.Dense(5, name="dense")(inputs["extra"])])
    outputs = {"b": layers.Dense(2, name="b")(x), "a": layers.Dense(3, name="a")(x)}
    model = keras.Model(inputs, outputs)
    groups = networks.assert_exact(model)
    assert {group.name for group in groups.removable} == {"conv", "dense"}
    small = remove_channels(model, networks.random_plan(groups))
    data = {"image": np.ones((1, 6, 6, 3)), "extra": np.ones((1, 4))}
    assert {name: out.shape for name, out in small(data).items()} == {"a": (1, 3), "b": (1, 2)}


@pytest.mark.parametrize("by_name", [False, True])
def test_a_nested_model_may_be_called_with_a_list_or_a_dict(by_name) -> None:
    one, two = keras.Input((4,), name="one"), keras.Input((5,), name="two")
    merged = layers.Concatenate()([layers.Dense(3)(one), two])
    inner = keras.Model([one, two], layers.Dense(4, name="merge")(merged), name="inner")
    inputs = keras.Input((6,))
    first, second = layers.Dense(4, name="four")(inputs), layers.Dense(5, name="five")(inputs)
    x = inner({"two": second, "one": first} if by_name else [first, second])
    groups = networks.assert_exact(keras.Model(inputs, layers.Dense(2)(x)))
    assert groups["four"].width == 4 and groups["five"].layers("reads") == ("inner/merge",)


def test_an_output_that_nothing_uses_is_kept_and_locked_only_if_it_leaves_the_model() -> None:
    inputs = keras.Input((6, 6, 3))
    x = layers.Conv2D(6, 1, name="conv")(inputs)
    _, used = ops.split(x, [2], axis=-1)
    side = layers.Conv2D(4, 1, name="side")(x)
    model = keras.Model(inputs, [layers.Conv2D(3, 1)(used), side])
    groups = networks.assert_exact(model)
    assert groups["side"].locked == ("output of the model",)


def test_an_input_that_is_an_output_stays() -> None:
    inputs = keras.Input((6,), name="x")
    model = keras.Model(inputs, [inputs, layers.Dense(2)(layers.Dense(4, name="a")(inputs))])
    assert not networks.assert_exact(model)["a"].locked


def test_a_frozen_nested_model_stays_frozen_and_a_thawed_layer_in_it_thawed() -> None:
    model = networks.build_nested_network()
    encoder = model.get_layer("encoder")
    encoder.trainable = False
    encoder.get_layer("enter").trainable = True
    small = remove_channels(model, networks.random_plan(find_groups(model)))
    for name, layer in [("encoder", encoder), ("head", model.get_layer("head"))]:
        assert small.get_layer(name).trainable == layer.trainable
    assert [weight.path for weight in small.trainable_weights] == [
        weight.path for weight in model.trainable_weights
    ]
    encoder.trainable = True
    encoder.get_layer("block").trainable = False
    assert len(duplicate(model).trainable_weights) == len(model.trainable_weights)


def test_the_transfer_learning_idiom_keeps_its_training_argument() -> None:
    base_input = keras.Input((8, 8, 3))
    x = layers.BatchNormalization()(layers.Conv2D(6, 3, name="conv")(base_input))
    base = keras.Model(base_input, x, name="base")
    inputs = keras.Input((8, 8, 3))
    x = layers.GlobalAveragePooling2D()(base(inputs, training=False))
    model = keras.Model(inputs, layers.Dense(2)(x))
    networks.assert_exact(model)
    arguments = remove_channels(model, Plan()).get_layer("base")._inbound_nodes[-1].arguments
    assert arguments.kwargs["training"] is False


def test_mixed_precision_is_kept_and_exact_in_float32() -> None:
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(8, 3, dtype="mixed_float16", name="conv")(inputs)
    x = layers.BatchNormalization(dtype="mixed_float16")(x)
    x = layers.Bidirectional(layers.LSTM(4, dtype="mixed_float16"), dtype="mixed_float16")(
        layers.Reshape((36, 8), dtype="mixed_float16")(x)
    )
    model = keras.Model(inputs, layers.Dense(2, dtype="float32")(x))
    groups = networks.assert_exact(model, tolerance=2e-2)
    small = remove_channels(model, networks.random_plan(groups), groups=groups)
    assert [layer.dtype_policy.name for layer in small.layers] == [
        layer.dtype_policy.name for layer in model.layers
    ]


def test_heights_and_widths_may_be_open() -> None:
    inputs = keras.Input((None, None, 3))
    x = layers.Conv2D(6, 3, padding="same", name="first")(inputs)
    down = layers.MaxPooling2D(2)(x)
    down = layers.Conv2D(8, 3, padding="same", activation="relu", name="second")(down)
    up = layers.Conv2DTranspose(6, 2, strides=2, name="up")(down)
    x = layers.Concatenate()([x, up])
    x = layers.Reshape((-1, 12))(x)
    model = keras.Model(inputs, layers.Dense(4)(x))
    groups = networks.assert_exact(model)
    assert {group.name for group in groups.removable} == {"first", "second", "up"}


class Block(keras.layers.Layer):
    """A residual block as people write it, without get_config."""

    def __init__(self, filters, **kwargs):
        super().__init__(**kwargs)
        self.first = layers.Conv2D(filters, 3, padding="same", name="first")
        self.norm = layers.BatchNormalization(name="norm")
        self.second = layers.Conv2D(filters, 3, padding="same", name="second")

    def call(self, x, training=None):
        y = ops.relu(self.norm(self.first(x), training=training))
        return x + self.second(y)


class Network(keras.Model):
    def __init__(self):
        super().__init__(name="network")
        self.stem = layers.Conv2D(6, 3, name="stem")
        self.blocks = [Block(6, name=f"block_{number}") for number in range(2)]
        self.pool = layers.GlobalAveragePooling2D()
        self.head = layers.Dense(3, name="head")

    def call(self, x):
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.head(self.pool(x))


def test_a_custom_layer_made_of_layers_is_opened() -> None:
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(6, 1, name="stem")(inputs)
    x = Block(6, name="block")(x)
    model = keras.Model(inputs, layers.Dense(3)(layers.GlobalAveragePooling2D()(x)))
    groups = networks.assert_exact(model)
    assert groups["stem"].layers("writes") == ("stem", "block/second")
    assert groups["block/first"].locked == ()


def test_a_sequential_model_may_hold_custom_layers_and_models() -> None:
    model = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            layers.Conv2D(6, 1, name="stem"),
            Block(6, name="block"),
            Network(),
            layers.Dense(2, name="last"),
        ]
    )
    groups = networks.assert_exact(model)
    assert {group.name for group in groups.removable} >= {"stem", "block/first", "network/stem"}


def test_a_subclassed_model_becomes_a_functional_one_that_plain_keras_opens(tmp_path) -> None:
    model = Network()
    data = np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype(np.float32)
    model(data)
    networks.randomize(model)
    groups = find_groups(model)
    assert {group.name for group in groups.removable} >= {"stem", "block_0/first"}
    whole = remove_channels(model, Plan())
    np.testing.assert_allclose(whole(data), model(data), rtol=1e-5, atol=1e-6)
    plan = networks.random_plan(groups)
    small = remove_channels(model, plan)
    expected = networks.mask_channels(model, plan)(data)
    np.testing.assert_allclose(small(data), expected, rtol=1e-4, atol=1e-5)
    small.save(tmp_path / "small.keras")
    np.testing.assert_array_equal(
        keras.models.load_model(tmp_path / "small.keras")(data), small(data)
    )


def test_a_subclassed_model_inside_a_functional_one_is_opened() -> None:
    inputs = keras.Input((8, 8, 3))
    model = keras.Model(inputs, layers.Dense(2)(Network()(inputs)))
    groups = networks.assert_exact(model)
    assert not groups["network/stem"].locked and not groups["network/head"].locked


def test_opening_a_subclassed_model_leaves_it_as_it_was() -> None:
    model = Network()
    model(np.zeros((1, 8, 8, 3)))
    weights = [weight.numpy() for weight in model.weights]
    find_groups(model)
    assert all(map(np.array_equal, weights, model.get_weights()))
    assert model(np.zeros((1, 8, 8, 3))).shape == (1, 3)
    assert [w.path for w in model.weights] == [w.path for w in model.weights]


def test_plans_of_a_subclassed_model_fit_its_next_trace() -> None:
    model = Network()
    model(np.zeros((1, 8, 8, 3)))
    plan = networks.random_plan(find_groups(model))
    other = Network()
    other(np.zeros((1, 8, 8, 3)))
    assert remove_channels(other, plan).count_params() < other.count_params()


class Unfollowable(keras.Model):
    def __init__(self):
        super().__init__(name="unfollowable")
        self.dense = layers.Dense(3)

    def call(self, x):
        return self.dense(x) if float(x[0, 0]) > 0 else self.dense(-x)


def test_a_subclassed_model_that_cannot_be_followed_is_refused_with_the_way_out() -> None:
    model = Unfollowable()
    model(np.ones((1, 4), np.float32))
    with pytest.raises(
        ModelError, match=r"'unfollowable' \(Unfollowable\) is subclassed"
    ) as caught:
        find_groups(model)
    assert "build it as keras.Model(inputs, outputs)" in str(caught.value)


def test_a_subclassed_model_that_was_never_called_is_refused_with_the_way_out() -> None:
    with pytest.raises(ModelError, match="Call it on data once so that it knows its input shape"):
        find_groups(Network())


def test_a_layer_with_weights_of_its_own_besides_layers_is_not_opened() -> None:
    class Scaled(Block):
        def build(self, shape):
            self.factor = self.add_weight(shape=(), name="factor")

        def call(self, x):
            return super().call(x) * self.factor

    inputs = keras.Input((8, 8, 3))
    x = Scaled(6, name="block")(layers.Conv2D(6, 1, name="stem")(inputs))
    model = keras.Model(inputs, layers.Dense(3)(layers.Flatten()(x)))
    (reason,) = find_groups(model)["stem"].locked
    assert reason == "Layer 'block' (Scaled) has no channel rule"


def test_a_rule_for_a_layer_made_of_layers_keeps_it_closed(monkeypatch) -> None:
    class Closed(Block):
        pass

    monkeypatch.setattr("edgeprune.tracing.opening.SEALED_TYPES", {Closed})
    monkeypatch.setitem(RULES, Closed, lambda tracing, layer, x: tracing.opaque("closed", [x])[0])
    inputs = keras.Input((8, 8, 3))
    x = Closed(6, name="block")(layers.Conv2D(6, 1, name="stem")(inputs))
    model = keras.Model(inputs, layers.Dense(3)(layers.Flatten()(x)))
    assert find_groups(model)["stem"].locked == ("closed",)


def test_registering_a_rule_seals_the_type() -> None:
    from edgeprune.tracing.opening import SEALED_TYPES

    class Own(Block):
        pass

    try:
        rule(Own)(lambda tracing, layer, x: x)
        assert Own in SEALED_TYPES and Own in RULES
    finally:
        SEALED_TYPES.discard(Own)
        RULES.pop(Own, None)


def test_a_layer_that_cannot_be_rebuilt_is_named() -> None:
    class Shift(keras.layers.Layer):
        def __init__(self, amounts, **kwargs):
            super().__init__(**kwargs)
            self.amounts = np.asarray(amounts)

        def call(self, x):
            return x + 1.0

    inputs = keras.Input((4,))
    x = Shift(np.ones(3), name="shift")(layers.Dense(5)(inputs))
    model = keras.Model(inputs, layers.Dense(2)(x))
    with pytest.raises(
        ModelError, match=r"'shift' \(Shift\) cannot be built again from its config"
    ):
        remove_channels(model, Plan())


def test_masks_travel_through_the_new_model() -> None:
    inputs = keras.Input((5,), dtype="int32")
    x = layers.Embedding(6, 4, mask_zero=True, name="embed")(inputs)
    x = layers.LSTM(5, name="lstm", return_sequences=True)(x)
    x = layers.LSTM(4, name="last")(x)
    groups = networks.assert_exact(keras.Model(inputs, layers.Dense(2)(x)))
    assert {group.name for group in groups.removable} >= {"embed", "last"}
