"""Recovery after whole branches have gone, and pruning that takes them out from end to end."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from test_vanishing import build_blocks, build_cell, build_gated, build_shared_layers

import edgeprune
from edgeprune.allocation import ALLOCATIONS
from edgeprune.distillation import Training
from edgeprune.pruning.one_shot import prune
from edgeprune.pruning.pruning_settings import Pruning
from edgeprune.pruning.rounds import prune_in_rounds
from edgeprune.recovery import RECOVERIES, RecoveryContext, recalibrate
from edgeprune.scoring.collection import collect_statistics
from edgeprune.surgery.channel_removal import remove_channels
from edgeprune.surgery.plan import Plan
from edgeprune.tracing.groups import find_groups

SAMPLES = np.random.default_rng(0).normal(size=(96, 8, 8, 3)).astype(np.float32)


def build_idle_blocks() -> keras.Model:
    """A network whose middle block does next to nothing."""
    model = build_blocks()
    norm = model.get_layer("end1_norm")
    gamma, *others = norm.get_weights()
    norm.set_weights([1e-3 * gamma, *others])
    return model


def error(model: keras.Model, other: keras.Model) -> float:
    difference = model(SAMPLES, training=False) - other(SAMPLES, training=False)
    return float(np.square(difference).mean())


def open_recovery(model: keras.Model, plan: Plan) -> RecoveryContext:
    groups = find_groups(model)
    statistics = collect_statistics(groups, SAMPLES)
    small = remove_channels(model, plan, groups=groups)
    return RecoveryContext(small, groups, plan, statistics, SAMPLES, mirrors=False)


@pytest.mark.parametrize(
    ("build", "name"),
    [*((build_blocks, name) for name in RECOVERIES), (build_cell, "refit"), (build_gated, "refit")],
)
def test_every_recovery_runs_where_branches_are_gone(build, name) -> None:
    model = build()
    branch = "first" if build is build_cell else next(iter(find_groups(model).vanishing.branches))
    stem = tuple(range(find_groups(model)["stem"].width - 1))
    context = open_recovery(model, Plan({branch: (), "stem": stem}))
    recovered = RECOVERIES[name](context)
    if name != "none":
        assert error(model, recovered) < error(model, context.smaller)
    assert np.isfinite(np.asarray(recalibrate(recovered, SAMPLES)(SAMPLES))).all()


def test_the_mean_of_what_is_gone_stays() -> None:
    """After the fold by means a block that gives constants is not missed."""
    model = build_blocks(rectified=False)
    kernel = model.get_layer("block1").kernel
    kernel.assign(np.zeros(kernel.shape))  # it sees nothing
    last = np.array(model.get_layer("end1").kernel)
    last[[0, 0, 0, 1, 1, 2, 2, 2], [0, 1, 2, 0, 2, 0, 1, 2]] = 0  # one tap: no border
    model.get_layer("end1").kernel.assign(last)
    context = open_recovery(model, Plan({"block1": ()}))
    assert error(model, context.smaller) > 1e-4
    assert error(model, RECOVERIES["mean"](context)) < 1e-8


def test_a_refit_leaves_no_operator_of_a_branch() -> None:
    context = open_recovery(build_blocks(), Plan({"block1": ()}))
    paths = {call.path for call in find_groups(context.refitted).graph.calls}
    assert not {"sum1", "after1", "block1", "end1", "end1_norm"} & paths


@pytest.mark.parametrize("gone", [("block0",), ("block1",), ("block0", "block2")])
def test_layers_that_are_used_everywhere_are_refitted_like_others(gone) -> None:
    found = []
    for shared in (True, False):
        model = build_shared_layers(shared)
        plan = Plan({**dict.fromkeys(gone, ()), "stem": tuple(range(7))})
        found.append(np.asarray(open_recovery(model, plan).refitted(SAMPLES)))
    np.testing.assert_allclose(found[0], found[1], rtol=1e-4, atol=1e-5)


def test_frozen_statistics_of_a_user_are_no_constant_of_ours() -> None:
    """Converted models have momentum 1; their BatchNormalization stays, and is recalibrated."""
    model = build_blocks()
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 1.0
    context = open_recovery(model, Plan({"block1": ()}))
    paths = {call.path for call in find_groups(context.refitted).graph.calls}
    assert {"stem_norm", "block0_norm", "end2_norm"} <= paths
    again = recalibrate(context.smaller, SAMPLES)
    before, after = (m.get_layer("stem_norm").get_weights()[2] for m in (context.smaller, again))
    assert np.abs(before - after).max() > 1e-3
    assert again.get_layer("sum1").get_weights()[1].max() == 0


def test_pruning_takes_branches_out_and_proves_it() -> None:
    model = build_idle_blocks()
    pruned = prune(model, SAMPLES, budget="params=70%", pruning=Pruning(step=4), training="fast")
    assert pruned.plan.emptied == {"block1"}
    assert pruned.after.params <= 0.7 * pruned.before.params
    assert pruned.model.count_params() <= 0.7 * model.count_params()
    assert Plan.from_json(pruned.plan.to_json()) == pruned.plan


def test_rounds_take_branches_out_in_the_last_one() -> None:
    how = Training(seconds=None, epochs=1, rounds=2)
    pruned, _ = prune_in_rounds(
        build_idle_blocks(), SAMPLES, budget="params=70%", pruning=Pruning(step=4), training=how
    )
    assert pruned.plan.emptied == {"block1"}
    assert pruned.equivalence.relative < 1e-4


def test_blends_keep_branches_gone() -> None:
    how = Pruning("blending", allocation="branches", step=4, search_seconds=5)
    pruned = edgeprune.prune(
        build_idle_blocks(), SAMPLES, budget="params=70%", pruning=how, training="fast"
    )
    assert pruned.plan.emptied == {"block1"}


def test_methods_of_papers_keep_every_branch() -> None:
    assert Pruning("auto").find_method().allocation == "branches"
    others = [Pruning(name).find_method().allocation for name in ("specialist", "catro", "chapr")]
    assert "branches" not in others
    assert "branches" in ALLOCATIONS
