"""Pruning in rounds ends where one plan would, and trains towards the original all the way."""

from __future__ import annotations

import numpy as np
import pytest
from specialists import NUM_TRAIN, digits, make_classifier, measure_accuracy

from edgeprune.distillation import Training
from edgeprune.errors import EdgepruneError
from edgeprune.evaluation.equivalence import predict
from edgeprune.pruning.rounds import compose, prune_in_rounds
from edgeprune.surgery.channel_removal import remove_channels
from edgeprune.surgery.plan import Plan
from edgeprune.tracing.groups import find_groups


def test_two_plans_in_turn_equal_their_composition():
    model = make_classifier()
    groups = find_groups(model)
    first = Plan({"first": tuple(range(1, 16, 2)), "second": tuple(range(0, 64, 3))})
    second = Plan({"first": (0, 2, 3, 7)})
    whole = compose(first, second, groups)
    inputs = digits()[0][:20].astype(np.float32)
    in_turn, at_once = (
        remove_channels(remove_channels(model, first), second),
        remove_channels(model, whole, groups=groups),
    )
    np.testing.assert_array_equal(predict(in_turn, inputs), predict(at_once, inputs))


def test_rounds_meet_the_budget_and_keep_the_users_classes():
    x, y = digits()
    images = x[:NUM_TRAIN].astype(np.float32), y[:NUM_TRAIN]
    model = make_classifier()
    settings = Training(
        seconds=None, epochs=30, rounds=2, batch_size=32, learning_rate=2e-3, augmentation=None
    )
    pruned, trainings = prune_in_rounds(
        model, images, budget="macs=25%", training=settings, classes=(8, 3, 5), pruning="chapr"
    )
    assert [round(training.epochs) for training in trainings] == [10, 20]
    assert pruned.after.macs <= 0.25 * pruned.before.macs
    again = remove_channels(model, pruned.plan)
    assert [w.shape for w in again.weights] == [w.shape for w in pruned.model.weights]
    chosen = np.isin(y, (8, 3, 5)) & (np.arange(len(y)) >= NUM_TRAIN)
    found = predict(pruned.model, x[chosen].astype(np.float32))
    assert measure_accuracy(found, y[chosen], (8, 3, 5)) > 0.85


def test_rounds_refuse_budgets_that_they_cannot_divide():
    images = digits()[0][:100].astype(np.float32)
    with pytest.raises(EdgepruneError, match="Rounds work with budgets of macs and params"):
        prune_in_rounds(make_classifier(), images, budget="size=20KB")
