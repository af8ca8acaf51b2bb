from __future__ import annotations

import io

import keras
import networks
import numpy as np
import pytest
from keras import layers
from rich.console import Console
from small_models import Recorder

from edgeprune.cost.budgets import Budget
from edgeprune.cost.cost_model import CostModel
from edgeprune.data import Samples
from edgeprune.errors import BudgetError, ClassError, DataError, EdgepruneError, ModelError
from edgeprune.pruning.one_shot import prune
from edgeprune.pruning.planning import make_plan, rank
from edgeprune.pruning.pruning_settings import Pruning
from edgeprune.recovery import RECOVERIES, list_contenders
from edgeprune.report.group_tables import describe_groups, list_groups
from edgeprune.scoring.collection import collect_statistics
from edgeprune.scoring.context import PruningContext
from edgeprune.scoring.criteria import CRITERIA
from edgeprune.support.progress import showing
from edgeprune.surgery.channel_removal import remove_channels
from edgeprune.tracing.groups import find_groups


def build() -> keras.Model:
    return networks.randomize(networks.build_residual_network())


def images(samples: int = 40) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(samples, 8, 8, 3)).astype(np.float32)


def answers(model: keras.Model, x: np.ndarray) -> np.ndarray:
    return np.asarray(model(x)).argmax(-1)


@pytest.fixture(scope="module")
def pruned():
    """A model pruned by its defaults with labels, and what it was made from."""
    model, x = build(), images()
    recorder = Recorder()
    weights = [weight.copy() for weight in model.get_weights()]
    with showing(recorder):
        found = prune(model, (x, answers(model, x)), budget="macs=60%")
    assert all(map(np.array_equal, weights, model.get_weights()))
    return model, found, recorder


def test_the_budget_is_met_and_the_costs_are_those_of_the_models(pruned) -> None:
    model, found, _ = pruned
    assert found.before == CostModel(find_groups(model)).full
    assert found.after.macs == CostModel(find_groups(found.model)).full.macs
    assert found.after.macs <= 0.6 * found.before.macs
    assert CostModel(find_groups(found.unrecovered)).full.macs == found.after.macs


def test_the_plan_makes_the_slim_model_and_the_proof_is_kept(pruned) -> None:
    model, found, _ = pruned
    again = remove_channels(model, found.plan)
    assert all(map(np.array_equal, again.get_weights(), found.unrecovered.get_weights()))
    assert found.plan.fingerprint == find_groups(model).fingerprint
    assert found.equivalence.relative < 1e-5
    assert found.equivalence.samples == 32
    for name, channels in found.plan.keep.items():
        assert len(channels) < found.groups[name].width


def test_every_contender_was_tried_and_folds_with_recalibration_too(pruned) -> None:
    _, found, _ = pruned
    tried = {(candidate.recovery, candidate.recalibrated) for candidate in found.candidates}
    (refit,) = {name for name, _ in tried} & {"refit", "refit_augmented"}
    contenders = list_contenders(mirrors=refit == "refit_augmented")
    assert tried == {(name, False) for name in contenders} | {("least_squares", True)}
    scores = [candidate.score for candidate in found.candidates]
    assert scores == sorted(scores, reverse=True)
    assert found.chosen == found.candidates[0]


@pytest.mark.parametrize(("sides", "refit"), [((1, 1), "refit_augmented"), ((1, -1), "refit")])
def test_mirrored_copies_serve_where_the_original_takes_them_for_the_same(sides, refit) -> None:
    """The one model tells bright images, the other those that are brighter on the left."""
    image = keras.Input((8, 8, 1))
    x = keras.layers.Conv2D(8, 1, activation="relu")(image)
    flat = keras.layers.Dense(2, name="head")(keras.layers.Flatten()(x))
    model = networks.randomize(keras.Model(image, flat))
    half = np.repeat(np.array(sides), 4)[None, :, None] * np.ones((8, 8, 8)) / 8
    kernel = np.stack([half, -half], axis=-1).reshape(-1, 2)
    model.get_layer("head").set_weights([kernel, -kernel.sum(0) * 0.5])
    first = model.layers[1]
    first.set_weights([np.ones((1, 1, 1, 8)), np.zeros(8)])
    x = np.random.default_rng(0).uniform(0, 1, (64, 8, 8, 1)).astype(np.float32)
    x[:, :, :4] += np.random.default_rng(1).uniform(-1, 1, (64, 1, 1, 1))
    y = model.predict(x, verbose=0).argmax(-1)
    found = prune(model, (x, y), budget="macs=60%", pruning=Pruning("auto", step=1), training=None)
    tried = {candidate.recovery for candidate in found.candidates}
    assert tried & {"refit", "refit_augmented"} == {refit}


def test_stages_are_timed_and_told(pruned) -> None:
    _, found, recorder = pruned
    stages = ["tracing", "statistics", "choosing channels", "surgery and proof", "recovery"]
    assert list(found.seconds) == stages
    removable = len(found.groups.removable)
    assert ["ranking channels", removable, removable] in recorder.stages
    assert ["recovery", 3, 3] in recorder.stages


def test_the_model_is_the_candidate_that_validation_prefers() -> None:
    model, x = build(), images()
    found = prune(model, x[:30], validation=(x[30:], answers(model, x[30:])), recovery="refit")
    right = answers(found.model, x[30:]) == answers(model, x[30:])
    assert found.chosen.score.accuracy == pytest.approx(right.mean())
    assert {candidate.recovery for candidate in found.candidates} == {"refit"}


def test_without_labels_closeness_decides() -> None:
    model = build()
    found = prune(model, images(), recovery="none", recalibration="off")
    assert [candidate.name for candidate in found.candidates] == ["none"]
    assert found.chosen.score.accuracy == 0
    assert found.chosen.score.closeness < 0
    slim_weights = found.unrecovered.get_weights()
    assert all(map(np.array_equal, slim_weights, found.model.get_weights()))


def test_a_specialist_has_the_asked_classes_in_their_order() -> None:
    model, x = build(), images(60)
    y = answers(model, x)
    kept = tuple(np.argsort(-np.bincount(y, minlength=5))[:2].tolist())
    found = prune(model, (x, y), classes=kept, budget="params=70%", recovery="least_squares")
    assert found.plan.classes == kept
    assert found.model.output_shape == (None, 2)
    assert found.after.params <= 0.7 * found.before.params
    mine = np.isin(y, kept)
    right = np.array(kept)[answers(found.model, x[mine])] == y[mine]
    assert right.mean() > 0.6


def test_samples_of_other_classes_do_not_matter_to_a_specialist() -> None:
    model, x = build(), images(60)
    y = answers(model, x)
    kept = tuple(np.argsort(-np.bincount(y, minlength=5))[:2].tolist())
    mine = np.isin(y, kept)
    settings = {"classes": kept, "recovery": "none", "recalibration": "off"}
    plans = [
        prune(model, data, validation=(x[mine], y[mine]), **settings).plan
        for data in ((x, y), (x[mine], y[mine]))
    ]
    assert plans[0] == plans[1]


def test_the_same_seed_gives_the_same_model_and_another_another_split() -> None:
    model, x = build(), images()
    one, two, other = (
        prune(model, x, budget="macs=70%", recovery="least_squares", seed=seed)
        for seed in (5, 5, 6)
    )
    assert one.plan == two.plan
    assert all(map(np.array_equal, one.model.get_weights(), two.model.get_weights()))
    scores = [found.chosen.score.closeness for found in (one, two, other)]
    assert scores[0] == scores[1] != scores[2]


@pytest.mark.parametrize("criterion", CRITERIA)
def test_every_criterion_leads_to_a_model(criterion) -> None:
    found = prune(build(), images(20), criterion=criterion, recovery="mean", step=1)
    assert found.after.macs <= 0.5 * found.before.macs


def test_criteria_that_know_the_data_beat_the_norm() -> None:
    model, x = build(), images(200)
    lost = {}
    for criterion in ("l1", "greedy_least_squares"):
        found = prune(
            model, x, criterion=criterion, recovery="least_squares", recalibration="off", step=1
        )
        lost[criterion] = -found.chosen.score.closeness
    assert lost["greedy_least_squares"] < lost["l1"]


def test_a_recovery_that_gives_nan_loses(monkeypatch) -> None:
    def break_model(loss):
        broken = remove_channels(model, loss.plan)
        weights = broken.get_weights()
        broken.set_weights([np.full_like(weights[0], np.nan), *weights[1:]])
        return broken

    model, x = build(), images()
    monkeypatch.setitem(RECOVERIES, "refit_head", break_model)
    found = prune(model, (x, answers(model, x)))
    last = found.candidates[-1]
    assert last.recovery == "refit_head"
    assert last.score.closeness == -np.inf
    assert np.isfinite(np.asarray(found.model(x))).all()


def test_several_outputs_are_pruned_together() -> None:
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(16, 3, activation="relu", name="conv")(inputs)
    x = layers.GlobalAveragePooling2D()(x)
    outputs = {"kind": layers.Dense(3, name="kind")(x), "age": layers.Dense(1, name="age")(x)}
    model = networks.randomize(keras.Model(inputs, outputs))
    found = prune(model, images())
    assert sorted(found.model.output_names) == sorted(model.output_names)
    assert found.after.macs <= 0.5 * found.before.macs
    with pytest.raises(ClassError, match="has 2 outputs"):
        prune(model, images(), classes=[0])


def test_half_precision_is_pruned() -> None:
    policy = keras.DTypePolicy("mixed_float16")
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(16, 3, dtype=policy, name="one")(inputs)
    x = layers.BatchNormalization(dtype=policy)(x)
    x = layers.ReLU(dtype=policy)(x)
    x = layers.SeparableConv2D(16, 3, activation="relu", dtype=policy, name="two")(x)
    x = layers.GlobalAveragePooling2D(dtype=policy)(x)
    outputs = layers.Dense(3, activation="softmax", dtype="float32", name="head")(x)
    model = networks.randomize(keras.Model(inputs, outputs))
    found = prune(model, images())
    assert found.after.macs <= 0.5 * found.before.macs
    assert found.model.get_layer("two").dtype_policy.name == "mixed_float16"


def test_a_model_that_nothing_is_known_of_still_meets_the_budget() -> None:
    inputs = keras.Input((6, 3))
    x = layers.Conv1D(16, 3, activation="relu", name="conv")(inputs)
    x = layers.LSTM(6, name="lstm")(x)
    model = networks.randomize(keras.Model(inputs, layers.Activation("tanh")(x)))
    x = np.random.default_rng(0).normal(size=(12, 6, 3)).astype(np.float32)
    found = prune(model, x, budget="macs=70%")
    assert found.after.macs <= 0.7 * found.before.macs


def test_a_whole_budget_changes_nothing() -> None:
    model, x = build(), images()
    found = prune(model, x, budget="macs=100%", recalibration="off")
    assert found.plan.keep == {}
    assert found.after == found.before
    np.testing.assert_allclose(found.model(x), model(x), rtol=1e-5)


def test_a_group_that_no_known_layer_reads_is_ranked_and_priced_by_its_filters() -> None:
    inputs = keras.Input((6, 3))
    x = layers.Conv1D(8, 3, name="conv")(inputs)
    model = networks.randomize(keras.Model(inputs, layers.GRU(4, name="gru")(x)))
    groups = find_groups(model)
    x = np.random.default_rng(0).normal(size=(6, 6, 3)).astype(np.float32)
    context = PruningContext(groups, collect_statistics(groups, x))
    ranking = rank(context, groups["conv"], "greedy_least_squares")
    norms = np.abs(model.get_layer("conv").get_weights()[0]).sum((0, 1))
    np.testing.assert_array_equal(ranking.order, np.argsort(-norms))
    power = np.sort(norms**2)[::-1]
    expected = 1 - np.append(0, np.cumsum(power)) / power.sum()
    np.testing.assert_allclose(ranking.error, expected, atol=1e-6)


def test_the_plan_names_only_groups_that_shrink() -> None:
    model = build()
    groups = find_groups(model)
    statistics = collect_statistics(groups, images())
    budget = Budget("macs", 0.9)
    plan = make_plan(PruningContext(groups, statistics, (1, 0)), CostModel(groups), budget)
    assert plan.classes == (1, 0)
    assert plan.keep
    assert all(len(kept) < groups[name].width for name, kept in plan.keep.items())


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"method": "magic"}, EdgepruneError, r"Unknown method 'magic'\. Choose from: auto, spec"),
        ({"criterion": "l3"}, EdgepruneError, r"Unknown criterion 'l3'\. Choose from: l1, "),
        ({"allocation": "even"}, EdgepruneError, r"'even'\. Choose from: branches"),
        ({"time_limit": -1}, EdgepruneError, r"The time limit must be at least 0 seconds\. Got -1"),
        ({"recovery": "magic"}, EdgepruneError, r"Unknown recovery 'magic'\. Choose from: auto, n"),
        ({"recalibration": "yes"}, EdgepruneError, r"'yes'\. Choose from: auto, on, off\."),
        ({"step": 0}, EdgepruneError, r"The step of widths must be at least 1\. Got 0\."),
        ({"budget": "macs=1%"}, BudgetError, "The budget macs=1% cannot be met: this model can go"),
        ({"budget": "half"}, BudgetError, "Cannot read the budget 'half'"),
        ({"classes": [0, 7]}, ClassError, r"The model has no outputs \[7\]"),
        ({"data": images(0)}, DataError, r"The data has shape \(0, 8, 8, 3\)"),
        ({"validation": images()[..., :1]}, DataError, "The validation data has shape"),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_refused_before_work_starts(
    monkeypatch, settings, error, message
) -> None:
    def start(*args, **kwargs):
        raise AssertionError("work has started")

    monkeypatch.setattr("edgeprune.pruning.one_shot.collect_statistics", start)
    arguments = {"data": images(4)} | settings
    with pytest.raises(error, match=message):
        prune(build(), **arguments)


def test_broken_weights_and_several_inputs_are_refused() -> None:
    model = build()
    weights = model.get_weights()
    weights[0][0, 0, 0, 0] = np.nan
    model.set_weights(weights)
    with pytest.raises(ModelError, match="Weight 'kernel' of layer 'stem' holds numbers that are"):
        prune(model, images(4))
    one, two = keras.Input((2,)), keras.Input((2,))
    pair = keras.Model([one, two], layers.Dense(2)(layers.Add()([one, two])))
    with pytest.raises(ModelError, match="2 inputs; pruning needs exactly one"):
        prune(pair, np.zeros((4, 2)))


def test_samples_as_the_data_sets_give_them_are_taken() -> None:
    model, x = build(), images()
    data = Samples(x, answers(model, x))
    found = prune(model, data, recovery="mean", recalibration="on")
    assert [candidate.name for candidate in found.candidates] == ["mean + BatchNorm"]
    assert found.chosen.score.accuracy > 0


def build_open(height: int | None = None) -> keras.Model:
    inputs = keras.Input((height, height, 3))
    x = layers.Conv2D(16, 3, padding="same", name="first")(inputs)
    x = layers.ReLU()(layers.BatchNormalization()(x))
    x = layers.DepthwiseConv2D(3, padding="same", name="depthwise")(x)
    x = layers.Conv2D(24, 1, activation="relu", name="second")(x)
    x = layers.GlobalAveragePooling2D()(x)
    return networks.randomize(keras.Model(inputs, layers.Dense(4, "softmax", name="head")(x)))


@pytest.mark.parametrize(
    "allocation", ["branches", "gain", "submodular", "global", "sensitivity", "uniform"]
)
def test_an_input_of_any_size_is_pruned_for_parameters(allocation) -> None:
    images = np.random.default_rng(0).random((40, 12, 12, 3), np.float32)
    how = Pruning(allocation=allocation)
    open_, fixed = (
        prune(build_open(size), images, budget="params=60%", pruning=how) for size in (None, 12)
    )
    assert open_.after.params == open_.model.count_params() <= 0.6 * open_.before.params
    assert open_.after.macs is None
    assert open_.plan.keep == fixed.plan.keep
    np.testing.assert_allclose(open_.model(images), fixed.model(images), atol=1e-3)
    bigger = np.random.default_rng(1).random((2, 20, 20, 3), np.float32)
    assert open_.model(bigger).shape == (2, 4)


def test_an_input_of_any_size_has_no_budget_of_macs_and_its_groups_are_shown() -> None:
    model = build_open()
    with pytest.raises(ModelError, match=r"MACs cannot be counted.*or budget params"):
        prune(model, np.zeros((8, 12, 12, 3), np.float32), budget="macs=50%")
    groups = find_groups(model)
    costs = CostModel(groups)
    listed = list_groups(groups, costs)
    assert "milliseconds" not in listed
    assert listed["macs"] is None
    assert all(entry["macs_share"] is None for entry in listed["groups"])
    assert sum(entry["params_share"] for entry in listed["groups"]) > 1
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(describe_groups(groups, costs))
    assert (
        f"MACs unknown (input of any size: --input-size), {model.count_params():,} parameters"
        in (console.export_text())
    )
