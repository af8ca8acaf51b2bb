from __future__ import annotations

import keras
import networks
import numpy as np
import pytest
from keras import layers

from edgeprune.data import Samples
from edgeprune.evaluation.evaluator import Evaluator, Score, hold_out, select

NO_TARGETS = np.zeros(0, np.int64)


def images(model: keras.Model, samples: int = 40) -> np.ndarray:
    shape = (samples, *model.inputs[0].shape[1:])
    return np.random.default_rng(7).normal(size=shape).astype(np.float32)


def build(activation: str | None = "softmax", outputs: int = 5) -> keras.Model:
    inputs = keras.Input((8,))
    x = layers.Dense(16, activation="relu")(inputs)
    x = layers.Dense(outputs, activation=activation, name="head")(x)
    return networks.randomize(keras.Model(inputs, x))


def disturb(model: keras.Model, amount: float) -> keras.Model:
    copy = keras.models.clone_model(model)
    generator = np.random.default_rng(0)
    copy.set_weights(
        [w + amount * generator.normal(size=w.shape).astype(w.dtype) for w in model.get_weights()]
    )
    return copy


ENDS = [("softmax", 5), (None, 5), ("sigmoid", 5), ("sigmoid", 1), (None, 1)]


@pytest.mark.parametrize(("activation", "outputs"), ENDS)
def test_the_closer_a_model_stays_the_better_its_grade(activation, outputs) -> None:
    model = build(activation, outputs)
    evaluator = Evaluator(model, Samples(images(model), NO_TARGETS))
    scores = [evaluator.evaluate(disturb(model, amount)) for amount in (0.0, 0.02, 0.1, 0.5)]
    assert scores == sorted(scores, reverse=True)
    assert len({score.closeness for score in scores}) == 4
    assert {score.accuracy for score in scores} == {0}


def test_answers_count_before_closeness() -> None:
    model = build()
    x = images(model, 300)
    answers = np.asarray(model(x)).argmax(-1)
    evaluator = Evaluator(model, Samples(x, answers))
    assert evaluator.evaluate(model).accuracy == 1
    worse = disturb(model, 0.1)
    expected = (np.asarray(worse(x)).argmax(-1) == answers).mean()
    assert evaluator.evaluate(worse).accuracy == pytest.approx(expected)
    assert Score(0.9, -5.0) > Score(0.8, -0.1) > Score(0.8, -0.2)


def test_closeness_is_the_cross_entropy_of_softmax_outputs() -> None:
    model, other = build(), build()
    other = disturb(model, 0.2)
    x = images(model)
    found = Evaluator(model, Samples(x, NO_TARGETS)).evaluate(other).closeness
    wanted, given = (np.asarray(net(x), np.float64) for net in (model, other))
    assert found == pytest.approx(float((wanted * np.log(given)).sum(-1).mean()), rel=1e-4)


def test_closeness_is_the_squared_error_of_what_are_no_classes() -> None:
    model = build(None, 1)
    other = disturb(model, 0.2)
    x = images(model)
    found = Evaluator(model, Samples(x, NO_TARGETS)).evaluate(other).closeness
    wanted, given = (np.asarray(net(x), np.float64) for net in (model, other))
    assert found == pytest.approx(-((wanted - given) ** 2).mean() / wanted.var(), rel=1e-3)


@pytest.mark.parametrize("activation", ["softmax", None])
def test_a_specialist_is_compared_with_the_kept_outputs(activation) -> None:
    model = build(activation)
    small = build(activation, 3)
    kept = [4, 0, 2]
    *rest, kernel, bias = model.get_weights()
    small.set_weights([*rest, kernel[:, kept], bias[kept]])
    x = images(model, 200)
    answers = np.asarray(model(x))[:, kept].argmax(-1)
    evaluator = Evaluator(model, Samples(x, np.array(kept)[answers]), (4, 0, 2))
    assert evaluator.evaluate(small).accuracy == 1
    order = [0, 2, 4]
    wrong = build(activation, 3)
    wrong.set_weights([*rest, kernel[:, order], bias[order]])
    assert evaluator.evaluate(small).closeness > evaluator.evaluate(wrong).closeness
    assert evaluator.evaluate(wrong).accuracy < 1


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_model_that_gives_no_numbers_loses_against_any_other(bad) -> None:
    model = build()
    broken = keras.models.clone_model(model)
    weights = model.get_weights()
    weights[0][0, 0] = bad
    broken.set_weights(weights)
    x = images(model)
    evaluator = Evaluator(model, Samples(x, np.asarray(model(x)).argmax(-1)))
    hopeless = disturb(model, 100)
    assert evaluator.evaluate(broken) == Score(0.0, -np.inf)
    assert evaluator.evaluate(broken) < evaluator.evaluate(hopeless)


def test_every_output_of_a_model_counts() -> None:
    inputs = keras.Input((8,))
    x = layers.Dense(16, activation="relu")(inputs)
    outputs = {"one": layers.Dense(3, name="one")(x), "two": layers.Dense(2, name="two")(x)}
    model = networks.randomize(keras.Model(inputs, outputs))
    evaluator = Evaluator(model, Samples(images(model), np.zeros(40, np.int64)))
    assert evaluator.evaluate(model).accuracy == 0
    for layer in ("one", "two"):
        other = disturb(model, 0)
        head = other.get_layer(layer)
        head.set_weights([3 * weight for weight in head.get_weights()])
        assert evaluator.evaluate(other).closeness < evaluator.evaluate(model).closeness


def test_a_model_with_a_list_of_one_input_is_judged_without_a_warning(recwarn) -> None:
    inputs = keras.Input((8,), name="numbers")
    model = keras.Model([inputs], [layers.Dense(3)(inputs)])
    Evaluator(model, Samples(images(model), NO_TARGETS)).evaluate(model)
    assert [str(warning.message) for warning in recwarn] == []


@pytest.mark.parametrize("count", [2, 3, 10, 101])
def test_held_out_samples_are_others_and_none_is_lost(count) -> None:
    inputs = np.arange(count, dtype=np.float32).reshape(-1, 1)
    samples = Samples(inputs, np.arange(count))
    kept, held = hold_out(samples, seed=1)
    together = np.concatenate([kept.targets, held.targets])
    assert sorted(together.tolist()) == list(range(count))
    assert len(held.targets) == max(1, round(count / 4))
    for part in (kept, held):
        np.testing.assert_array_equal(part.inputs[:, 0], part.targets)
    again = hold_out(samples, seed=1)[1]
    np.testing.assert_array_equal(again.targets, held.targets)
    if count > 3:
        assert not np.array_equal(hold_out(samples, seed=2)[1].targets, held.targets)


def test_a_single_sample_serves_both_and_a_large_share_leaves_one() -> None:
    kept, held = hold_out(Samples(np.ones((1, 2), np.float32), NO_TARGETS))
    assert (len(kept.inputs), len(held.inputs)) == (1, 1)
    kept, held = hold_out(Samples(np.ones((5, 2), np.float32), NO_TARGETS), share=1)
    assert (len(kept.inputs), len(held.inputs)) == (1, 4)
    assert kept.targets.size == held.targets.size == 0


def test_selected_samples_keep_their_targets() -> None:
    samples = Samples(np.arange(4, dtype=np.float32)[:, None], np.array([5, 6, 7, 8]))
    found = select(samples, np.array([2, 0]))
    assert (found.inputs[:, 0].tolist(), found.targets.tolist()) == ([2, 0], [7, 5])


@pytest.mark.parametrize("sizes", [(8, 8, 8), (400, 4, 40), (1, 1, 30), (3, 3, 3, 3, 3)])
def test_every_class_gives_its_share_of_the_held_out_samples(sizes) -> None:
    targets = np.repeat(np.arange(len(sizes)) * 7, sizes)  # sorted, and not counted from 0
    inputs = np.arange(len(targets), dtype=np.float32)[:, None]
    for seed in range(5):
        kept, held = hold_out(Samples(inputs, targets), seed=seed)
        together = np.concatenate([kept.inputs, held.inputs])[:, 0]
        assert sorted(together.tolist()) == list(range(len(targets)))
        np.testing.assert_array_equal(targets[held.inputs[:, 0].astype(int)], held.targets)
        assert len(held.targets) == max(1, round(len(targets) / 4))
        for number, size in enumerate(sizes):
            assert abs(int((held.targets == number * 7).sum()) - size / 4) < 1
        assert set(kept.targets) == set(targets.tolist())  # no class is only held out
