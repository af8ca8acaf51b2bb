"""Classes, answers of yes or no, or numbers: told in one place, and the same everywhere."""

from __future__ import annotations

import keras
import networks
import numpy as np
import pytest
from keras import layers, ops

import edgeprune
from edgeprune.data import Samples
from edgeprune.errors import DataError, EdgepruneError, ModelError
from edgeprune.evaluation.evaluator import Evaluator
from edgeprune.recovery import heads
from edgeprune.recovery.heads import refit_head
from edgeprune.scoring.collection import collect_statistics
from edgeprune.scoring.context import PruningContext
from edgeprune.scoring.losses import Objective
from edgeprune.surgery.plan import Plan
from edgeprune.tracing.graph import build_graph
from edgeprune.tracing.groups import find_groups
from edgeprune.tracing.outputs import TASKS, output_kinds
from edgeprune.tracing.replica import replace_softmax

FEATURES = np.random.default_rng(0).normal(size=(240, 6)).astype(np.float32)
NONE = np.zeros(0, np.int64)


def nested(width: int, *ends: layers.Layer):
    return keras.Sequential([keras.Sequential([keras.Input((width,)), *ends])])


ENDS = {
    "activation": lambda x, n, a: layers.Dense(n, a, name="head")(x),
    "layer": lambda x, n, a: layers.Activation(a)(layers.Dense(n, name="head")(x)),
    "own layer": lambda x, n, a: {"softmax": layers.Softmax(), "sigmoid": layers.Activation(a)}[a](
        layers.Dense(n, name="head")(x)
    ),
    "operation": lambda x, n, a: getattr(ops, a)(layers.Dense(n, name="head")(x)),
    "nested": lambda x, n, a: keras.Sequential(
        [keras.Input((8,)), layers.Dense(n, name="head"), layers.Activation(a)]
    )(x),
    "nested twice": lambda x, n, a: nested(n, layers.Activation(a))(
        layers.Dense(n, name="head")(x)
    ),
    "reshaped": lambda x, n, a: layers.Reshape((n,))(layers.Dense(n, a, name="head")(x)),
    "behind nothing": lambda x, n, a: layers.Activation("linear")(
        layers.Dropout(0.5)(layers.Dense(n, a, name="head")(x))
    ),
}


def make(end: str, units: int, activation: str) -> keras.Model:
    inputs = keras.Input((6,))
    x = layers.Dense(8, activation="relu", name="hidden")(inputs)
    return networks.randomize(keras.Model(inputs, ENDS[end](x, units, activation)))


def linear(units: int = 2, seed: int = 0) -> keras.Model:
    inputs = keras.Input((6,))
    x = layers.Dense(24, activation="relu", name="hidden")(inputs)
    model = keras.Model(inputs, layers.Dense(units, name="head")(x))
    return networks.randomize(model, seed)


def tell(model: keras.Model, **known) -> str:
    (output,) = output_kinds(build_graph(model), **known)
    return output.task


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize(
    ("units", "activation", "task"),
    [(3, "softmax", "classify"), (1, "sigmoid", "binary"), (3, "sigmoid", "multilabel")],
)
def test_the_end_of_a_model_says_what_its_outputs_mean(end, units, activation, task) -> None:
    model = make(end, units, activation)
    assert tell(model) == tell(model, labelled=True) == task
    logits = np.asarray(replace_softmax(model)(FEATURES))
    squash = {"softmax": ops.softmax, "sigmoid": ops.sigmoid}[activation]
    assert logits.min() < 0
    np.testing.assert_allclose(squash(logits), model(FEATURES), atol=1e-5)


def test_several_linear_outputs_are_classes_only_where_somebody_says_so() -> None:
    model = linear(3)
    assert tell(model) == "regress"
    assert tell(model, labelled=True) == "classify"
    assert tell(linear(1), labelled=True) == "regress"
    for task in set(TASKS) - {"auto", "binary"}:
        assert tell(model, task=task) == task


def test_a_task_that_cannot_be_is_refused() -> None:
    data = FEATURES[:40]
    with pytest.raises(EdgepruneError, match=r"Unknown task 'rank'. Choose from: auto, classify"):
        edgeprune.prune(linear(), data, task="rank")
    with pytest.raises(ModelError, match=r"The task 'binary' needs one output; .* shape"):
        edgeprune.prune(linear(2), data, task="binary")
    with pytest.raises(ModelError, match="The task 'classify' needs at least two"):
        edgeprune.fine_tune(linear(1), linear(1), data, task="classify")


# All who ask agree.


@pytest.mark.parametrize("end", ENDS)
def test_all_parts_take_a_model_for_the_same(end) -> None:
    model = make(end, 3, "softmax")
    groups = find_groups(model)
    statistics = collect_statistics(groups, FEATURES)
    assert Objective(groups, FEATURES, NONE).classifies
    assert PruningContext(groups, statistics)._compares
    wanted = Evaluator(model, Samples(FEATURES, NONE))
    other = np.asarray(model(FEATURES), np.float64)
    expected = float((other * np.log(other)).sum(-1).mean())
    assert wanted.evaluate(model).closeness == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("end", ENDS)
def test_the_head_refit_ignores_what_softmax_does_not_see_wherever_softmax_lies(
    end, monkeypatch
) -> None:
    model = make(end, 3, "softmax")
    seen = []
    fit = heads.fit_ridge
    monkeypatch.setattr(heads, "fit_ridge", lambda x, y: (seen.append(y), fit(x, y))[1])
    shifted = keras.models.clone_model(model)
    weights = model.get_weights()
    weights[-1] = weights[-1] + 7 + np.array([1, 0, 0], np.float32)
    shifted.set_weights(weights)
    refit_head(shifted, find_groups(model), Plan(), FEATURES)
    np.testing.assert_allclose(seen[0].mean(axis=1), 0, atol=1e-4)


def test_a_regressor_with_two_outputs_is_judged_by_its_error_and_not_as_a_classifier() -> None:
    model, other = linear(2), linear(2)
    head = other.get_layer("head")
    kernel, bias = head.get_weights()
    head.set_weights([kernel, bias + 3])  # softmax would not see it
    for targets in (NONE, FEATURES[:, :2]):
        pruned = edgeprune.prune(model, (FEATURES, targets), budget="macs=100%", pruning="chapr")
        assert pruned.tasks == ("regress",)
        assert {candidate.score.accuracy for candidate in pruned.candidates} == {0.0}
    evaluator = Evaluator(model, Samples(FEATURES, NONE))
    wanted, found = np.asarray(model(FEATURES)), np.asarray(other(FEATURES))
    error = float(np.square(wanted - found).mean() / wanted.var())
    assert evaluator.evaluate(other).closeness == pytest.approx(-error, rel=1e-3)


def test_fine_tuning_takes_the_error_of_a_regressor_away() -> None:
    model, start = linear(2), linear(2)
    kernel, bias = start.get_layer("head").get_weights()
    start.get_layer("head").set_weights([kernel, bias + np.float32(0.5)])

    def error(found: keras.Model) -> float:
        return float(np.square(np.asarray(found(FEATURES)) - np.asarray(model(FEATURES))).mean())

    how = edgeprune.Training(seconds=None, epochs=40, batch_size=32, learning_rate=2e-2)
    tuned = edgeprune.fine_tune(start, model, (FEATURES, FEATURES[:, :2]), settings=how)
    assert error(tuned.model) < 0.1 * error(start)


def test_one_label_per_sample_makes_linear_outputs_classes() -> None:
    model = linear(3)
    labels = np.asarray(model(FEATURES)).argmax(-1)
    pruned = edgeprune.prune(model, (FEATURES, labels), budget="macs=60%", pruning="chapr")
    assert pruned.tasks == ("classify",)
    assert pruned.chosen.score.accuracy > 0.5
    told = edgeprune.prune(
        model, (FEATURES, labels), budget="macs=60%", pruning="chapr", task="regress"
    )
    assert told.tasks == ("regress",)
    assert told.chosen.score.accuracy == 0


def test_answers_of_yes_or_no_are_counted_against_labels() -> None:
    for activation, task in (("sigmoid", "auto"), ("linear", "binary")):
        inputs = keras.Input((6,))
        model = keras.Model(inputs, layers.Dense(1, activation, name="head")(inputs))
        networks.randomize(model)
        outputs = np.asarray(model(FEATURES))[:, 0]
        labels = (outputs > (0.5 if activation == "sigmoid" else 0)).astype(np.int64)
        wrong = labels.copy()
        wrong[:60] = 1 - wrong[:60]
        found = Evaluator(model, Samples(FEATURES, wrong), task=task).evaluate(model)
        assert found.accuracy == 0.75


def test_targets_that_are_no_classes_are_refused_for_a_classifier() -> None:
    model = make("activation", 3, "softmax")
    with pytest.raises(DataError, match="Expected class indices"):
        edgeprune.prune(model, (FEATURES, FEATURES[:, 0]))


def test_rounds_keep_the_task_that_the_first_one_found() -> None:
    model = linear(3)
    how = edgeprune.Training(seconds=None, epochs=2, rounds=2)
    pruned, _ = edgeprune.prune_in_rounds(
        model, FEATURES, budget="macs=60%", classes=(2, 0), pruning="chapr", training=how
    )
    assert pruned.tasks == ("classify",)
