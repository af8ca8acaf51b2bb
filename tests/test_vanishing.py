"""Width zero: what goes with a branch, what must stay, and that the rest computes the same."""

from __future__ import annotations

import keras
import networks
import numpy as np
import pytest
from keras import layers

from edgeprune.cost.cost_model import CostModel
from edgeprune.errors import PlanError
from edgeprune.recovery.alignment import leave_out_constants
from edgeprune.surgery.channel_removal import mask_channels, remove_channels
from edgeprune.surgery.plan import Plan
from edgeprune.tracing.groups import Groups, find_groups


def conv(x, filters, name, size=3, **settings):
    """Convolution, BatchNorm, ReLU."""
    x = layers.Conv2D(filters, size, padding="same", name=name, **settings)(x)
    x = layers.BatchNormalization(name=f"{name}_norm")(x)
    return layers.ReLU(name=f"{name}_relu")(x)


def finish(inputs, x, name="net"):
    x = layers.GlobalAveragePooling2D()(x)
    return networks.randomize(keras.Model(inputs, layers.Dense(3, name="head")(x), name=name))


def build_blocks(rectified: bool = True) -> keras.Model:
    """Three residual blocks, ReLU behind the sums or not."""
    inputs = keras.Input((8, 8, 3))
    x = conv(inputs, 8, "stem")
    for block in range(3):
        y = conv(x, 6, f"block{block}")
        y = layers.Conv2D(8, 3, padding="same", name=f"end{block}")(y)
        y = layers.BatchNormalization(name=f"end{block}_norm")(y)
        x = layers.Add(name=f"sum{block}")([x, y])
        if rectified:
            x = layers.ReLU(name=f"after{block}")(x)
    return finish(inputs, x)


def build_shared_layers(shared: bool = True) -> keras.Model:
    """Blocks that use one Add and one ReLU everywhere, as people write it; or one for each use."""
    one_sum, one_relu = layers.Add(name="sum"), layers.ReLU(name="relu")
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(8, 3, padding="same", name="stem")(inputs)
    for block in range(3):
        y = layers.Conv2D(6, 3, padding="same", name=f"block{block}")(x)
        y = (one_relu if shared else layers.ReLU())(y)
        y = layers.Conv2D(8, 3, padding="same", name=f"end{block}")(y)
        x = (one_sum if shared else layers.Add())([x, y])
        x = (one_relu if shared else layers.ReLU())(x)
    return finish(inputs, x)


def build_bottleneck() -> keras.Model:
    inputs = keras.Input((8, 8, 3))
    x = conv(inputs, 8, "stem")
    y = conv(conv(x, 4, "narrow", 1), 5, "middle")
    return finish(inputs, x + layers.Conv2D(8, 1, name="wide")(y))


def build_gated() -> keras.Model:
    """An inverted bottleneck with a depthwise layer and a gate on the inner channels."""
    inputs = keras.Input((8, 8, 3))
    x = conv(inputs, 8, "stem")
    y = conv(x, 12, "expand", 1)
    y = layers.DepthwiseConv2D(3, padding="same", name="depthwise")(y)
    gate = layers.GlobalAveragePooling2D(keepdims=True)(y)
    gate = layers.Conv2D(4, 1, activation="relu", name="squeeze")(gate)
    gate = layers.Conv2D(12, 1, activation="sigmoid", name="excite")(gate)
    y = layers.Multiply(name="gate")([y, gate])
    return finish(inputs, layers.Add()([x, layers.Conv2D(8, 1, name="project")(y)]))


def build_cell() -> keras.Model:
    """Branches side by side."""
    inputs = keras.Input((8, 8, 3))
    x = conv(inputs, 8, "stem")
    first, second = conv(x, 4, "first", 1), conv(conv(x, 5, "inner"), 6, "second")
    x = layers.Concatenate(name="joined")([first, second])
    return finish(inputs, conv(x, 7, "last"))


def build_dense_block() -> keras.Model:
    inputs = keras.Input((8, 8, 3))
    x = conv(inputs, 6, "stem")
    for number in range(3):
        y = layers.Conv2D(4, 3, padding="same", name=f"growth{number}")(conv(x, 5, f"in{number}"))
        x = layers.Concatenate(name=f"joined{number}")([x, y])
    return finish(inputs, conv(x, 7, "last", 1))


def build_nested_branch() -> keras.Model:
    inputs = keras.Input((8, 8, 3))
    x = conv(inputs, 8, "stem")
    branch = keras.Sequential(
        [
            keras.Input((8, 8, 8)),
            layers.Conv2D(6, 3, padding="same", activation="relu", name="inside"),
            layers.Conv2D(8, 3, padding="same", name="outside"),
        ],
        name="branch",
    )
    return finish(inputs, layers.Add()([x, branch(x)]))


def build_two_shared_runs() -> keras.Model:
    """A residual block that is run twice."""
    given = keras.Input((8, 8, 8))
    y = conv(given, 6, "inner")
    block = keras.Model(given, given + layers.Conv2D(8, 1, name="outer")(y), name="block")
    inputs = keras.Input((8, 8, 3))
    return finish(inputs, block(block(conv(inputs, 8, "stem"))))


def build_transformer_mlp() -> keras.Model:
    inputs = keras.Input((6, 8))
    x = layers.Dense(8, name="stem")(inputs)
    y = layers.LayerNormalization()(x)
    y = layers.Dense(16, activation="gelu", name="up")(y)
    x = layers.Add()([x, layers.Dense(8, name="down")(y)])
    x = layers.GlobalAveragePooling1D()(x)
    return networks.randomize(keras.Model(inputs, layers.Dense(3, name="head")(x)))


NETWORKS = {
    build.__name__.removeprefix("build_"): build
    for build in (
        build_blocks, build_shared_layers, build_bottleneck, build_gated, build_cell,
        build_dense_block, build_nested_branch, build_two_shared_runs, build_transformer_mlp,
    )
}  # fmt: skip
MAY_GO = {
    "blocks": ["block0", "block1", "block2"],
    "shared_layers": ["block0", "block1", "block2"],
    "bottleneck": ["narrow", "middle"],
    "gated": ["expand", "squeeze"],
    "cell": ["first", "inner", "second"],
    "dense_block": ["growth0", "growth1", "growth2"],
    "nested_branch": ["branch/inside"],
    "two_shared_runs": ["block/inner"],
    "transformer_mlp": ["up"],
}


def assert_equal_to_masked(model: keras.Model, groups: Groups, plan: Plan) -> keras.Model:
    small = remove_channels(model, plan, groups=groups)
    masked = mask_channels(model, plan, groups=groups)
    inputs = networks.random_inputs(model)
    assert networks.difference(masked, small, inputs) <= 1e-5
    assert networks.difference(model, small, inputs) > 1e-3  # or nothing was tested
    widths = {name: len(kept) for name, kept in plan.keep.items()}
    counted = CostModel(groups).count(widths)
    assert counted.params == small.count_params()
    assert counted.macs == CostModel(find_groups(small)).full.macs
    return small


@pytest.mark.parametrize("name", NETWORKS)
def test_every_branch_that_may_go_leaves_an_equal_model(name) -> None:
    model = NETWORKS[name]()
    groups = find_groups(model)
    assert set(MAY_GO[name]) <= set(groups.vanishing.branches) | {"inner"}
    distinct = {found.groups: branch for branch, found in groups.vanishing.branches.items()}
    for branch in list(distinct.values())[:2]:
        small = assert_equal_to_masked(model, groups, Plan({branch: ()}))
        assert len(find_groups(small).graph.calls) < len(groups.graph.calls)


@pytest.mark.parametrize("name", NETWORKS)
def test_branches_go_beside_narrowed_groups(name) -> None:
    model = NETWORKS[name]()
    groups = find_groups(model)
    plan = networks.random_branches(groups, seed=0, chance=0.9)
    if plan.emptied:
        assert_equal_to_masked(model, groups, plan)


def test_what_only_a_branch_needs_goes_with_it() -> None:
    groups = find_groups(build_bottleneck())
    assert groups.vanishing.close({"middle"}).groups == {"narrow", "middle"}
    assert groups.vanishing.close({"narrow"}).groups == {"narrow", "middle"}
    gated = find_groups(build_gated())
    assert gated.vanishing.close({"expand"}).groups == {"expand", "squeeze"}
    assert gated.vanishing.close({"squeeze"}).groups == {"squeeze"}


def test_the_last_path_stays() -> None:
    groups = find_groups(build_cell())
    groups.vanishing.close({"first"})
    groups.vanishing.close({"second"})
    with pytest.raises(PlanError, match="nothing of the input would reach an output"):
        groups.vanishing.close({"first", "second"})
    for name in ("stem", "last"):
        assert "nothing of the input would reach" in groups.vanishing.explain(name)
    with pytest.raises(PlanError, match="nothing of the input"):
        remove_channels(build_cell(), Plan({"stem": ()}))


def test_an_input_that_was_used_stays_used() -> None:
    first, second = keras.Input((4,), name="a"), keras.Input((4,), name="b")
    x = layers.Dense(6, name="left")(first)
    y = layers.Dense(6, name="end")(layers.Dense(5, name="right")(second))
    model = networks.randomize(keras.Model([first, second], layers.Dense(2)(x + y)))
    reason = find_groups(model).vanishing.explain("right")
    assert reason == "an input of the model would not be used any more"


def test_locked_groups_stay_with_their_reason() -> None:
    groups = find_groups(build_cell())
    with pytest.raises(PlanError, match=r"'head' cannot shrink: output of the model"):
        groups.vanishing.close({"head"})


def test_no_layer_is_left_without_an_inside() -> None:
    """The values of an attention are a group that only the layer itself reads."""
    inputs = keras.Input((6, 8))
    x = layers.Dense(8, name="stem")(inputs)
    y = layers.MultiHeadAttention(2, 3, name="attention")(x, x)
    x = layers.GlobalAveragePooling1D()(layers.Add()([x, y]))
    model = networks.randomize(keras.Model(inputs, layers.Dense(3, name="head")(x)))
    groups = find_groups(model)
    inside = [group.name for group in groups.removable if group.name != "stem"]
    assert inside
    for name in inside:
        assert groups.vanishing.explain(name) == "'attention' would have nothing left inside"


def test_a_border_is_never_wrong() -> None:
    """A constant that meets zeros around a map is no constant: such branches go whole or not."""
    inputs = keras.Input((8, 8, 3))
    x = conv(inputs, 8, "stem")
    y = layers.Conv2D(8, 3, padding="same", name="inner")(conv(x, 6, "first"))
    tied = layers.Conv2D(8, 3, padding="same", name="after")(y)
    model = finish(inputs, layers.Add()([x, y, tied]))  # the channels of `inner` are those of x
    groups = find_groups(model)
    assert "'after'" in groups.vanishing.explain("first")


def test_sums_without_constants_are_sums_of_the_rest() -> None:
    model = build_blocks()
    groups = find_groups(model)
    small = remove_channels(model, Plan({"block1": ()}), groups=groups)
    left = leave_out_constants(small, groups, Plan({"block1": ()}))
    names = [call.path for call in find_groups(left).graph.calls]
    assert not {"sum1", "after1", "block1", "end1"} & set(names)
    inputs = networks.random_inputs(model)
    shifted = mask_channels(model, Plan({"block1": ()}), groups=groups)
    norm = shifted.get_layer("end1_norm")
    gamma, _, mean, variance = norm.get_weights()
    bias = shifted.get_layer("end1").bias
    scale = gamma / np.sqrt(variance + norm.epsilon)
    norm.set_weights([gamma, (mean - np.asarray(bias)) * scale, mean, variance])  # adds nothing
    assert networks.difference(shifted, left, inputs) <= 1e-5


def test_a_narrowed_model_can_be_pruned_again() -> None:
    model = build_blocks(rectified=False)
    small = remove_channels(model, Plan({"block0": ()}))
    groups = find_groups(small)
    assert_equal_to_masked(small, groups, Plan({"block1": (), "stem": (0, 2, 3)}))


@pytest.mark.parametrize("name", ["blocks", "cell", "gated"])
def test_a_model_without_branches_is_saved_and_opened_again(name, tmp_path) -> None:
    model = NETWORKS[name]()
    branch = next(iter(find_groups(model).vanishing.branches))
    small = remove_channels(model, Plan({branch: ()}))
    small.save(tmp_path / "small.keras")
    again = keras.models.load_model(tmp_path / "small.keras")
    assert networks.difference(small, again, networks.random_inputs(model)) <= 1e-6
