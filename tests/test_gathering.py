from __future__ import annotations

import keras
import numpy as np
import pytest
from click.testing import CliRunner
from keras import layers

from edgeprune.cli.commands import edgeprune
from edgeprune.data import Samples
from edgeprune.errors import BudgetError, PlanError
from edgeprune.evaluation.equivalence import check_equivalence
from edgeprune.evaluation.evaluator import Judge
from edgeprune.pruning.gathering import find_gatherable, prune_with_gathers
from edgeprune.pruning.pruning import prune
from edgeprune.surgery.channel_removal import cut, slim
from edgeprune.surgery.gathers import close_gathers, list_gathers, open_gathers
from edgeprune.surgery.plan import Plan
from edgeprune.tflite import convert
from edgeprune.tracing.groups import find_groups

FIRST, SECOND = "one_a", "two_a"


def build_residual_network(width: int = 16) -> keras.Model:
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(width, 3, padding="same", name="stem")(inputs)
    x = layers.ReLU()(layers.BatchNormalization()(x))
    for block in ("one", "two"):
        y = layers.Conv2D(width, 3, padding="same", name=f"{block}_a")(x)
        y = layers.ReLU()(layers.BatchNormalization()(y))
        y = layers.Conv2D(width, 3, padding="same", name=f"{block}_b")(y)
        x = layers.ReLU()(layers.Add()([x, layers.BatchNormalization()(y)]))
    x = layers.GlobalAveragePooling2D()(x)
    model = keras.Model(inputs, layers.Dense(4, name="head")(x))
    generator = np.random.default_rng(0)
    for weight in model.weights:
        if len(weight.shape) == 1:
            weight.assign(generator.uniform(0.5, 1.5, weight.shape))
    return model


def ignore_most_channels(model: keras.Model) -> None:
    """Let the first reader use four channels of the stream."""
    layer = model.get_layer(FIRST)
    kernel = keras.ops.convert_to_numpy(layer.kernel).copy()
    kernel[:, :, 4:] = 0
    layer.kernel.assign(kernel)


def draw_images(count: int = 24) -> np.ndarray:
    return np.random.default_rng(1).random((count, 8, 8, 3), dtype="float32")


def differ(one: keras.Model, other: keras.Model) -> float:
    images = draw_images(8)
    expected = np.asarray(one(images))
    return float(np.abs(np.asarray(other(images)) - expected).max() / np.abs(expected).max())


def count_takes(model: keras.Model) -> int:
    return sum(type(operation).__name__ == "Take" for operation in model.operations)


def test_readers_that_share_a_stream_and_do_enough_can_have_a_gather() -> None:
    groups = find_groups(build_residual_network())
    assert [reader.path for reader in find_gatherable(groups)] == [FIRST, SECOND]
    assert not find_gatherable(groups, least_macs=145)  # 9 taps to 16 channels


def test_an_open_gather_changes_nothing_but_whose_channels_may_go() -> None:
    model = build_residual_network()
    opened = open_gathers(model, [FIRST])
    groups = find_groups(opened)
    assert differ(model, opened) == 0
    assert not groups[f"{FIRST}:in"].locked
    assert groups[f"{FIRST}:in"].layers("reads") == (FIRST,)
    assert "read through a channel gather" in groups["stem"].reason


def test_a_gather_of_all_channels_leaves_no_trace() -> None:
    model = build_residual_network()
    closed = close_gathers(open_gathers(model, [FIRST]))
    assert count_takes(closed) == 0 and not list_gathers(closed)
    assert differ(model, closed) == 0


def test_slim_is_cut_with_gathers(tmp_path) -> None:
    model = build_residual_network()
    groups = find_groups(model)
    stream = groups["stem"].name
    plan = Plan(
        {stream: tuple(range(1, 15)), FIRST: (0, 5, 9)}, groups.fingerprint,
        gathers={FIRST: (0, 2, 3, 7), SECOND: (5, 14)},
    )  # fmt: skip
    smaller = slim(model, plan)
    assert smaller.get_layer(FIRST).kernel.shape == (3, 3, 3, 3)  # channel 0 left the stream
    assert smaller.get_layer(SECOND).kernel.shape[2] == 2
    assert smaller.get_layer("one_b").kernel.shape[3] == 14
    assert differ(cut(model, plan), smaller) < 1e-5
    assert differ(cut(model, Plan(plan.keep, plan.fingerprint)), smaller) > 1e-3
    smaller.save(tmp_path / "small.keras")
    again = keras.saving.load_model(tmp_path / "small.keras")
    assert differ(smaller, again) == 0
    assert Plan.from_json(plan.to_json()) == plan


def test_an_opened_pruned_and_closed_model_is_the_one_of_the_plan() -> None:
    model = build_residual_network()
    opened = open_gathers(model, [FIRST, SECOND])
    kept = (1, 4, 6, 12)
    pruned = close_gathers(slim(opened, Plan({f"{FIRST}:in": kept})))
    assert count_takes(pruned) == 1
    assert differ(slim(model, Plan(gathers={FIRST: kept})), pruned) == 0


@pytest.mark.parametrize(
    ("gathers", "message"),
    [
        ({FIRST: (0,)}, "has layer 'one_a' read channels that are gone"),
        ({"nowhere": (1,)}, "names layer 'nowhere', which reads no channels"),
    ],
)
def test_a_gather_of_what_is_gone_is_refused(gathers, message) -> None:
    model = build_residual_network()
    with pytest.raises(PlanError, match=message):
        slim(model, Plan({"stem": tuple(range(1, 16))}, gathers=gathers))


def test_pruning_with_gathers_meets_the_budget_and_is_proven() -> None:
    model, images = build_residual_network(), draw_images(64)
    ignore_most_channels(model)
    options = {"budget": "macs=50%", "validation": images[32:], "method": "chapr", "step": 1}
    plain = prune(model, images[:32], **options)
    pruned = prune_with_gathers(model, images[:32], **options, least_macs=1)
    assert 1 <= len(pruned.plan.gathers[FIRST]) <= 8  # of 16, four of which it uses
    assert pruned.after.macs <= pruned.before.macs / 2
    assert pruned.equivalence.relative < 1e-4
    check_equivalence(model, pruned.slim, pruned.plan, find_groups(model), images[:8])
    shapes = [[tuple(w.shape) for w in m.weights if len(w.shape) > 1]
              for m in (pruned.slim, pruned.model)]  # fmt: skip
    assert shapes[0] == shapes[1]
    assert not list_gathers(pruned.model)
    judge = Judge(model, Samples(images[32:], np.zeros(0, np.int64)))
    assert judge.grade(pruned.model) > judge.grade(plain.model)
    content = convert(pruned.model, scheme="int8", calibration=images[:16])
    assert b"TFL3" in content[:8]


def test_where_no_reader_does_enough_the_result_is_the_plain_one() -> None:
    model, images = build_residual_network(), draw_images(32)
    pruned = prune_with_gathers(model, images, budget="macs=60%", method="chapr", least_macs=1e9)
    assert not pruned.plan.gathers
    assert pruned.plan == prune(model, images, budget="macs=60%", method="chapr").plan


def test_a_budget_of_something_else_is_refused() -> None:
    with pytest.raises(BudgetError, match=r"macs and params\. Got one of size"):
        prune_with_gathers(build_residual_network(), draw_images(32), budget="size=20KB")


def test_the_command_refuses_such_a_budget_before_it_loads_anything(tmp_path) -> None:
    np.savez(tmp_path / "images.npz", x=draw_images(), y=np.zeros(24, int))
    arguments = ["prune", "nowhere.keras", "--data", str(tmp_path / "images.npz"), "--gathers"]
    refused = CliRunner().invoke(edgeprune, [*arguments, "--budget", "size=20KB"])
    assert isinstance(refused.exception, BudgetError)
    assert "Gathers work with budgets of macs and params" in str(refused.exception)


def test_the_command_prunes_with_gathers(tmp_path) -> None:
    model = build_residual_network()
    ignore_most_channels(model)
    model.save(tmp_path / "model.keras")
    images = draw_images(120)
    np.savez(tmp_path / "images.npz", x=images, y=np.arange(120) % 4)
    small = tmp_path / "small.keras"
    arguments = ["prune", str(tmp_path / "model.keras"), "--data", str(tmp_path / "images.npz")]
    done = CliRunner().invoke(
        edgeprune, [*arguments, "--gathers", "--budget", "macs=60%", "--out", str(small)]
    )
    assert done.exit_code == 0, done.output
    plan = Plan.load(small.with_suffix(".plan.json"))
    found = keras.saving.load_model(small)
    assert count_takes(found) == len(plan.gathers)
    shapes = [[tuple(w.shape) for w in m.weights if len(w.shape) > 1]
              for m in (slim(model, plan), found)]  # fmt: skip
    assert shapes[0] == shapes[1]
