from __future__ import annotations

import keras
import networks
import pytest
from keras import layers

from edgeprune.errors import EquivalenceError
from edgeprune.evaluation.equivalence import check_equivalence
from edgeprune.surgery.channel_removal import remove_channels
from edgeprune.surgery.plan import Plan
from edgeprune.tracing.groups import find_groups
from edgeprune.tracing.rules import RULES


def check(model: keras.Model, plan: Plan):
    groups = find_groups(model)
    (inputs,) = networks.random_inputs(model)
    return check_equivalence(
        model, remove_channels(model, plan, groups=groups), plan, groups, inputs
    )


def lift_locks(tracing, layer, x):
    """A wrong rule: LayerNormalization mixes channels."""
    for weight in (layer.gamma, layer.beta):
        tracing.use(weight, 0, "passes", tracing.on_axis(x, -1))
    return x


def test_a_slim_model_is_proven_equal() -> None:
    model = networks.randomize(networks.build_residual_network())
    result = check(model, networks.random_plan(find_groups(model)))
    assert result.scale > 0 and result.relative < 1e-5
    assert result.samples == 6


def test_a_specialist_is_proven_equal_on_its_classes() -> None:
    model = networks.randomize(networks.build_residual_network())
    assert check(model, Plan({"stem": (0, 2, 5)}, classes=(3, 1))).relative < 1e-5


def test_a_wrong_rule_is_found_out(monkeypatch) -> None:
    monkeypatch.setitem(RULES, layers.LayerNormalization, lift_locks)
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(8, 3, name="conv")(inputs)
    x = layers.GlobalAveragePooling2D()(layers.LayerNormalization()(x))
    model = networks.randomize(keras.Model(inputs, layers.Dense(3)(x)))
    with pytest.raises(EquivalenceError, match="A channel rule of one of its layers is wrong"):
        check(model, Plan({"conv": (0, 1, 2)}))


def test_channels_that_a_rule_attributes_to_the_wrong_label_are_found_out(monkeypatch) -> None:
    honest = RULES[layers.Conv2D]

    def wrong(tracing, layer, x):
        made = honest(tracing, layer, x)
        return made[..., ::-1] if layer.name == "inner" else made

    monkeypatch.setitem(RULES, layers.Conv2D, wrong)
    model = networks.randomize(networks.build_residual_network())
    with pytest.raises(EquivalenceError, match="is not equal to the original"):
        check(model, Plan({"inner": (0, 1)}))


def test_a_model_of_another_shape_is_found_out() -> None:
    model = networks.randomize(networks.build_residual_network())
    groups = find_groups(model)
    (inputs,) = networks.random_inputs(model)
    with pytest.raises(EquivalenceError, match=r"shape \(5,\), the plan asks for \(2,\)"):
        check_equivalence(model, model, Plan(classes=(0, 1)), groups, inputs)


def test_a_model_that_gives_nan_is_found_out() -> None:
    model = networks.randomize(networks.build_residual_network())
    model.get_layer("head").bias.assign([float("nan")] * 5)
    with pytest.raises(EquivalenceError, match="error nan"):
        check(model, Plan())


def test_a_model_in_mixed_precision_is_compared_in_float32() -> None:
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(8, 3, dtype="mixed_float16", name="conv")(inputs)
    x = layers.GlobalAveragePooling2D(dtype="mixed_float16")(x)
    model = networks.randomize(keras.Model(inputs, layers.Dense(3, dtype="float32")(x)))
    assert check(model, Plan({"conv": (0, 2, 5)})).relative < 1e-6


def build_two_sided(wrong: bool) -> keras.Model:
    left, right = keras.Input((6,), name="left"), keras.Input((5,), name="right")
    a = layers.Dense(4, name="a")(left)
    b = layers.Dense(4, name="b")(right)
    second = layers.LayerNormalization()(b) if wrong else b
    outputs = [layers.Dense(2)(a), layers.Dense(2, activation="softmax")(second)]
    return networks.randomize(keras.Model({"left": left, "right": right}, outputs))


@pytest.mark.parametrize("wrong", [False, True])
def test_every_output_of_every_input_counts(wrong, monkeypatch) -> None:
    monkeypatch.setitem(RULES, layers.LayerNormalization, lift_locks)
    model = build_two_sided(wrong)
    groups = find_groups(model)
    plan = Plan({"a": (1, 2), "b": (0, 3)})
    inputs = dict(zip(("left", "right"), networks.random_inputs(model), strict=True))
    small = remove_channels(model, plan, groups=groups)
    if wrong:
        with pytest.raises(EquivalenceError, match="is not equal to the original"):
            check_equivalence(model, small, plan, groups, inputs)
    else:
        assert check_equivalence(model, small, plan, groups, inputs).relative < 1e-6
