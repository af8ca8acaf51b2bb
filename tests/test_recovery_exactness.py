"""What can be removed without a trace is: logits stay, with every recovery that can know of it."""

from __future__ import annotations

import keras
import networks
import numpy as np
import pytest
from keras import layers

from edgeprune.recovery import RECOVERIES, RecoveryContext
from edgeprune.recovery.refitting import refit
from edgeprune.scoring.collection import collect_statistics
from edgeprune.surgery.channel_removal import remove_channels
from edgeprune.surgery.plan import Plan
from edgeprune.tracing.groups import find_groups
from edgeprune.tracing.replica import replace_softmax

EVERYWHERE = 10**6


def build(padding: str) -> keras.Model:
    inputs = keras.Input((9, 8, 3))
    x = layers.Conv2D(7, 3, name="writer")(inputs)
    x = layers.Conv2D(6, 3, padding=padding, activation="relu", name="consumer")(x)
    x = layers.GlobalAveragePooling2D()(x)
    return networks.randomize(keras.Model(inputs, layers.Dense(4, activation="softmax")(x)))


def change_last_channel(model: keras.Model, kind: str) -> None:
    """Make the last channel of the writer a copy, a combination of others, or a constant."""
    writer = model.get_layer("writer")
    kernel, bias = writer.get_weights()
    mixture = {
        "duplicate": np.array([0, 1, 0, 0, 0, 0]),
        "combination": np.array([0.5, 0, -1, 0, 2, 0]),
        "constant": np.zeros(6),
    }[kind]
    kernel[..., 6] = kernel[..., :6] @ mixture
    bias[6] = bias[:6] @ mixture + (3 if kind == "constant" else 0)
    writer.set_weights([kernel, bias])


CASES = [
    ("duplicate", "same", ("correlated", "affine", "least_squares", "refit", "refit_head")),
    ("duplicate", "valid", ("correlated", "affine", "least_squares", "refit", "refit_head")),
    ("combination", "same", ("least_squares", "refit", "refit_head")),
    ("combination", "valid", ("least_squares", "refit", "refit_head")),
    ("constant", "valid", ("mean", "affine", "least_squares", "refit", "refit_head")),
]


@pytest.mark.parametrize(
    ("kind", "padding", "recovery"),
    [(kind, padding, recovery) for kind, padding, able in CASES for recovery in able],
)
def test_a_superfluous_channel_leaves_identical_logits(kind, padding, recovery) -> None:
    model = build(padding)
    change_last_channel(model, kind)
    x = np.random.default_rng(1).normal(size=(60, 9, 8, 3)).astype(np.float32)
    groups, plan = find_groups(model), Plan({"writer": (0, 1, 2, 3, 4, 5)})
    statistics = collect_statistics(groups, x, positions=EVERYWHERE)
    smaller = remove_channels(model, plan)
    recovered = RECOVERIES[recovery](RecoveryContext(smaller, groups, plan, statistics, x))
    one, two, cut = (np.asarray(replace_softmax(m)(x)) for m in (model, recovered, smaller))
    # A ridge of 1e-4 of the mean variance pulls the folds that solve a system.
    assert np.abs(one - two).max() < 2e-3 * np.abs(one - cut).max()


@pytest.mark.parametrize("build_network", [networks.build_residual_network,
                                           networks.build_mobile_network,
                                           networks.build_nested_network])  # fmt: skip
def test_a_refit_of_everything_at_full_width_returns_the_original(
    build_network, monkeypatch
) -> None:
    """Every layer is solved although nothing is missing, and the solution is what it was."""
    monkeypatch.setattr(
        "edgeprune.recovery.refitting._find_shrunk",
        lambda groups, ranks: {axis.layer for axis in groups.axes if axis.role == "reads"},
    )
    model = networks.randomize(build_network())
    x = np.random.default_rng(1).normal(size=(40, *model.inputs[0].shape[1:])).astype(np.float32)
    groups, plan = find_groups(model), Plan()
    recovered = refit(remove_channels(model, plan), groups, plan, x)
    one, two = (np.asarray(replace_softmax(net)(x)) for net in (model, recovered))
    assert np.abs(one - two).max() < 1e-5 * np.abs(one).max()
