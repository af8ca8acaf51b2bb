"""What cannot be followed is locked, with a reason that names the layer."""

from __future__ import annotations

import re

import keras
import networks
import pytest
from keras import layers
from networks import around

from edgeprune.tracing.groups import find_groups


def lock_of(steps, shape=(6, 6, 3)) -> str:
    """First reason why the channels of `before` are locked; the model is checked as well."""
    groups = networks.assert_exact(around(steps, shape), seeds=[0])
    (group,) = [found for found in groups if "before" in found.layers("writes")]
    return group.locked[0]


@keras.saving.register_keras_serializable("test_rules_locks")
class OwnCell(layers.SimpleRNNCell):
    """A cell that no rule knows."""


@pytest.mark.parametrize(
    ("step", "shape", "reason"),
    [
        (
            lambda x: layers.RNN(OwnCell(4, name="cell"), name="rnn")(x),
            (6, 3),
            "cell 'cell' of 'rnn' has no channel rule",
        ),
        (
            lambda x: layers.RNN([layers.GRUCell(4), layers.GRUCell(3)], name="rnn")(x),
            (6, 3),
            "cell '.*' of 'rnn' has no channel rule",
        ),
        (
            lambda x: layers.Bidirectional(layers.RNN(layers.GRUCell(4)), name="both")(x),
            (6, 3),
            "'both' wraps a layer without a rule for both directions",
        ),
        (
            lambda x: layers.TimeDistributed(layers.Dense(4), name="steps")(
                layers.Permute((2, 1))(x)
            ),
            (6, 3),
            "'steps/merge_time' repeats a layer over these channels",
        ),
        (
            lambda x: layers.EinsumDense("abcd,c->ab", (6,), name="e")(x),
            (6, 6, 3),
            "'e' .abcd,c->ab. mixes the axis that holds these channels",
        ),
        (
            lambda x: layers.MultiHeadAttention(2, 3, output_shape=(2, 3), name="mha")(x, x),
            (6, 3),
            r"'mha' \(MultiHeadAttention\) is called in an unusual way",
        ),
        (
            lambda x: layers.Concatenate(axis=1, name="join")(
                [layers.Permute((2, 1))(x), layers.Conv1D(6, 1)(x)]
            ),
            (6, 3),
            "'join' joins channels that lie on different axes",
        ),
        (
            lambda x: layers.AdditiveAttention(name="attention")([x, x]),
            (6, 3),
            r"Layer 'attention' \(AdditiveAttention\) has no channel rule",
        ),
    ],
)
def test_what_cannot_be_followed_is_locked_with_its_name(step, shape, reason) -> None:
    assert re.fullmatch(reason, lock_of(step, shape))


def test_quantized_and_lora_layers_are_locked() -> None:
    model = around(layers.Dense(4, name="lora"))
    model.get_layer("lora").enable_lora(2)
    assert find_groups(model)["before"].locked == ("'lora' (Dense) is quantized or has LoRA",)


@pytest.mark.parametrize("pooling", [layers.MaxPooling3D, layers.AveragePooling3D])
@pytest.mark.parametrize("groups", [2, 3, 6])
def test_pooling_over_an_axis_that_holds_channels_locks_them(pooling, groups) -> None:
    """Found by random networks: the labels kept the size that the axis had before."""
    inputs = keras.Input((3, 4, 3))
    x = layers.Conv2D(6, 1, name="before")(inputs)
    x = layers.Reshape((3, 4, groups, 6 // groups))(x)
    x = layers.GlobalAveragePooling3D()(pooling(2, name="pool")(x))
    model = networks.randomize(keras.Model(inputs, layers.Dense(3)(x)))
    networks.assert_exact(model)
    if groups > 2:
        assert find_groups(model)["before"].locked == (
            "'pool' mixes the axis that holds these channels",
        )


def test_attention_over_positions_that_hold_channels_locks_them() -> None:
    inputs = keras.Input((4, 3)), keras.Input((5, 6))
    query, values = (
        layers.Conv1D(4, 1)(inputs[0]),
        layers.Permute((2, 1))(layers.Conv1D(7, 1, name="before")(inputs[1])),
    )
    x = layers.MultiHeadAttention(2, 3, name="attention")(query, values)
    model = networks.randomize(keras.Model(inputs, layers.Dense(2)(layers.Flatten()(x))))
    networks.assert_exact(model)
    assert find_groups(model)["before"].locked == (
        "'attention' mixes the axis that holds these channels",
    )
