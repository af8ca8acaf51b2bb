from __future__ import annotations

import keras
import networks
import pytest
from keras import layers

from edgeprune.cost.cost_model import CostModel
from edgeprune.errors import ModelError
from edgeprune.surgery.channel_removal import remove_channels
from edgeprune.tracing.groups import find_groups

BUILDERS = [
    networks.build_residual_network,
    networks.build_mobile_network,
    networks.build_nested_network,
]


@pytest.mark.parametrize("build", BUILDERS)
def test_the_cost_of_a_plan_is_the_cost_of_the_slim_model(build) -> None:
    model = build()
    groups = find_groups(model)
    costs = CostModel(groups)
    for seed in range(3):
        plan = networks.random_plan(groups, seed)
        small = remove_channels(model, plan, groups=groups)
        predicted = costs.count({name: len(kept) for name, kept in plan.keep.items()})
        assert predicted.params == small.count_params()
        assert predicted == CostModel(find_groups(small)).full


def test_multiplications_are_counted_as_the_textbook_does() -> None:
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, strides=2, padding="same")(inputs)
    x = layers.DepthwiseConv2D(3, padding="same", depth_multiplier=2)(x)
    x = layers.SeparableConv2D(6, 3)(x)
    x = layers.Flatten()(x)
    model = keras.Model(inputs, layers.Dense(5)(x))
    expected = (
        4 * 4 * 3 * 3 * 3 * 4 + 4 * 4 * 3 * 3 * 4 * 2 + 2 * 2 * (3 * 3 * 8 + 8 * 6) + 2 * 2 * 6 * 5
    )
    assert CostModel(find_groups(model)).full.macs == expected


def test_a_shared_layer_costs_its_weights_once_and_its_work_twice() -> None:
    inputs = keras.Input((4,))
    shared = layers.Dense(4, name="shared")
    costs = CostModel(find_groups(keras.Model(inputs, shared(shared(inputs)))))
    assert (costs.full.macs, costs.full.params) == (32, 20)


def test_work_of_a_model_without_fixed_size_cannot_be_counted() -> None:
    inputs = keras.Input((None, None, 3))
    model = keras.Model(inputs, layers.Conv2D(4, 3)(inputs))
    costs = CostModel(find_groups(model))
    with pytest.raises(ModelError, match=r"MACs cannot be counted: .* no fixed height and width"):
        costs.spend("macs", {})
    assert costs.full.macs is None
    assert costs.spend("params", {}) == costs.full.params == model.count_params()
