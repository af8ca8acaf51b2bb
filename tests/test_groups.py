from __future__ import annotations

import keras
import networks
import pytest
from keras import layers

from edgeprune.errors import ClassError
from edgeprune.tracing.groups import find_groups, find_head


def test_residual_channels_go_together() -> None:
    groups = find_groups(networks.build_residual_network())
    stream = groups["stem"]
    assert stream.layers("writes") == ("stem", "outer")
    assert stream.layers("reads") == ("inner", "last")
    assert stream.layers("passes") == ("stem_norm",)
    assert (stream.width, stream.locked) == (8, ())


def test_inputs_and_outputs_are_locked_with_their_names() -> None:
    groups = find_groups(networks.build_residual_network())
    assert groups["stem:in"].locked == ("input of the model 'image'",)
    assert groups["head"].locked == ("normalised over by softmax", "output of the model")
    assert {group.name for group in groups.removable} == {"stem", "inner", "last"}


def test_a_gate_belongs_to_the_channels_it_gates() -> None:
    groups = find_groups(networks.build_mobile_network())
    assert groups["stem"].layers("writes") == ("stem", "expand")
    assert groups["stem"].width == 8


def test_a_group_prints_as_one_line_that_says_who_writes_and_who_reads() -> None:
    groups = find_groups(networks.build_residual_network())
    assert str(groups["last"]) == "last: 12 channels, last -> head"
    assert str(groups["head"]).endswith("locked: normalised over by softmax; output of the model")
    assert len(str(groups).splitlines()) == len(groups)


def test_a_flattened_map_holds_each_channel_once_per_position() -> None:
    inputs = keras.Input((4, 4, 3))
    x = layers.Flatten()(layers.Conv2D(5, 3, name="conv")(inputs))
    groups = find_groups(keras.Model(inputs, layers.Dense(2, name="head")(x)))
    (consumer,) = [m for m in groups["conv"].members if m.role == "reads"]
    assert consumer.channels.tolist() == [0, 1, 2, 3, 4] * 4


def test_a_layer_called_twice_ties_what_it_reads() -> None:
    inputs = keras.Input((4, 4, 3))
    shared = layers.Conv2D(4, 1, name="shared")
    a, b = layers.Conv2D(6, 1, name="a")(inputs), layers.Conv2D(6, 1, name="b")(inputs)
    groups = find_groups(keras.Model(inputs, [shared(a), shared(b)]))
    (read,) = [group for group in groups if "shared" in group.layers("reads")]
    assert set(read.layers("writes")) == {"a", "b"} and read.width == 6


def test_groups_of_equal_architectures_have_equal_fingerprints() -> None:
    first = find_groups(networks.build_residual_network())
    assert first.fingerprint == find_groups(networks.build_residual_network()).fingerprint
    assert first.fingerprint != find_groups(networks.build_mobile_network()).fingerprint


def test_tracing_does_not_touch_the_model() -> None:
    model = networks.randomize(networks.build_nested_network())
    before = [weight.copy() for weight in model.get_weights()]
    config = model.get_config()
    find_groups(model)
    assert model.get_config() == config
    assert all((a == b).all() for a, b in zip(before, model.get_weights(), strict=True))


@pytest.mark.parametrize("activation", ["softmax", None])
def test_the_head_is_the_group_of_the_classes(activation) -> None:
    inputs = keras.Input((4, 4, 3))
    x = layers.Conv2D(7, 1, name="head")(inputs)
    x = layers.GlobalAveragePooling2D()(x)
    model = keras.Model(inputs, layers.Activation(activation)(x) if activation else x)
    assert find_head(find_groups(model)).name == "head"


def test_a_model_with_two_outputs_has_no_head() -> None:
    inputs = keras.Input((3,))
    model = keras.Model(inputs, [layers.Dense(2)(inputs), layers.Dense(2)(inputs)])
    with pytest.raises(ClassError, match="has 2 outputs; a specialist needs exactly one"):
        find_head(find_groups(model))


def test_classes_that_are_read_inside_the_model_cannot_be_cut_out() -> None:
    inputs = keras.Input((3,))
    x = layers.Dense(4, name="scores")(inputs)
    model = keras.Model(inputs, layers.Add()([x, layers.Dense(4, name="again")(x)]))
    with pytest.raises(ClassError, match="found at 'scores'"):
        find_head(find_groups(model))
