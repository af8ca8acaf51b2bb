"""A pruned model learns from the original: without labels, without harm, within its time."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest
from small_models import Recorder
from specialists import NUM_TRAIN, digits, make_classifier, measure_accuracy

from edgeprune.data import Samples
from edgeprune.distillation import Training
from edgeprune.distillation.fine_tuning import FineTuned, fine_tune
from edgeprune.distillation.objectives import attend, find_block_ends
from edgeprune.distillation.student import Student
from edgeprune.distillation.training_samples import ArraySource
from edgeprune.errors import DataError, ModelError
from edgeprune.evaluation.equivalence import predict
from edgeprune.pruning.one_shot import prune
from edgeprune.pruning.pruning_settings import Pruning
from edgeprune.support.progress import showing
from edgeprune.tracing.replica import duplicate

SHORT = Training(seconds=None, epochs=3, batch_size=32, learning_rate=2e-3, augmentation=None)


@pytest.fixture(scope="module")
def original() -> keras.Model:
    return make_classifier()


@pytest.fixture(scope="module")
def images() -> tuple[np.ndarray, np.ndarray]:
    x, y = digits()
    return x[:NUM_TRAIN].astype(np.float32), y[:NUM_TRAIN]


@pytest.fixture(scope="module")
def smaller(original, images) -> keras.Model:
    return prune(
        original,
        images,
        budget="macs=40%",
        training=None,
        pruning=Pruning(recovery="none", recalibration="off"),
    ).model


def divergence(model: keras.Model, original: keras.Model, inputs: np.ndarray) -> float:
    """Mean Kullback-Leibler divergence of a model's answers from the original's."""
    p, q = (np.maximum(predict(m, inputs).astype(float), 1e-12) for m in (original, model))
    return float((p * np.log(p / q)).sum(-1).mean())


def test_answers_come_closer_to_the_original_without_any_label(original, smaller, images):
    unseen = digits()[0][NUM_TRAIN:].astype(np.float32)
    tuned = fine_tune(smaller, original, images[0], settings=SHORT)
    before, after = (divergence(m, original, unseen) for m in (smaller, tuned.model))
    assert after < before / 2


def test_labels_raise_accuracy_where_the_original_says_nothing(original, smaller, images):
    silent = keras.models.clone_model(original)
    silent.set_weights([np.zeros_like(weight) for weight in original.get_weights()])
    settings = replace(SHORT, distillation=0.0)
    tuned = fine_tune(smaller, silent, images, settings=settings)
    unseen, targets = digits()[0][NUM_TRAIN:].astype(np.float32), digits()[1][NUM_TRAIN:]
    before, after = (measure_accuracy(predict(m, unseen), targets) for m in (smaller, tuned.model))
    assert after > before + 0.1


def test_what_is_better_than_its_original_is_not_dragged_down_to_it(original, images):
    """Recalibration can outdo a badly trained original, whose answers are no lesson then."""
    worse = keras.models.clone_model(original)
    worse.set_weights([weight[..., ::-1] for weight in original.get_weights()])
    settings = replace(SHORT, epochs=8)
    tuned = fine_tune(original, worse, images, settings=settings)
    assert tuned.before.accuracy > 0.9
    assert tuned.after.accuracy >= tuned.before.accuracy


def test_a_specialist_learns_its_classes_in_the_users_order(original, images):
    classes = (8, 3, 5)
    pruned = prune(
        original,
        images,
        budget="macs=40%",
        classes=classes,
        pruning=Pruning(recovery="none", recalibration="off"),
        training=None,
    )
    settings = replace(SHORT, epochs=15)
    tuned = fine_tune(pruned.model, original, images, settings=settings, classes=classes)
    chosen = np.isin(digits()[1], classes) & (np.arange(len(digits()[1])) >= NUM_TRAIN)
    inputs, targets = digits()[0][chosen].astype(np.float32), digits()[1][chosen]
    assert measure_accuracy(predict(tuned.model, inputs), targets, classes) > 0.9


def test_nothing_of_the_users_is_changed(original, smaller, images):
    models = (original, smaller)
    before = [[w.copy() for w in m.get_weights()] for m in models]
    trainable = [[layer.trainable for layer in m.layers] for m in models]
    data = images[0].copy()
    fine_tune(smaller, original, images, settings=SHORT)
    for model, weights, flags in zip(models, before, trainable, strict=True):
        for old, new in zip(weights, model.get_weights(), strict=True):
            np.testing.assert_array_equal(old, new)
        assert flags == [layer.trainable for layer in model.layers]
    np.testing.assert_array_equal(data, images[0])


def test_frozen_layers_learn_and_are_frozen_again(original, smaller, images):
    frozen = keras.models.clone_model(smaller)
    frozen.set_weights(smaller.get_weights())
    frozen.get_layer("first").trainable = False
    tuned = fine_tune(frozen, original, images, settings=SHORT).model
    assert not np.array_equal(
        tuned.get_layer("first").get_weights()[0], smaller.get_layer("first").get_weights()[0]
    )
    assert not tuned.get_layer("first").trainable
    assert tuned.get_layer("second").trainable


def test_the_result_is_a_plain_model_like_the_one_given(original, smaller, images, tmp_path):
    tuned = fine_tune(smaller, original, images, settings=SHORT).model
    assert tuned.get_config() == smaller.get_config()
    tuned.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    inputs = images[0][:8]
    np.testing.assert_allclose(predict(loaded, inputs), predict(tuned, inputs), atol=1e-6)


def test_steps_that_are_far_too_long_leave_the_model_as_it_was(original, smaller, images):
    settings = Training(seconds=None, epochs=1, learning_rate=1e6, augmentation=None)
    tuned = fine_tune(smaller, original, images, settings=settings)
    assert tuned.after == tuned.before
    for old, new in zip(smaller.get_weights(), tuned.model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_the_best_state_is_restored_not_the_last(original, smaller, images):
    tuned = fine_tune(smaller, original, images, settings=SHORT, validation=images)
    best = max(tuned.history, key=lambda entry: (entry.accuracy, entry.closeness))
    found = measure_accuracy(predict(tuned.model, images[0]), images[1])
    assert (tuned.after.accuracy, found) == (best.accuracy, pytest.approx(best.accuracy))


def test_training_stops_when_nothing_is_gained(original, images):
    """The original itself cannot come closer to itself."""
    settings = Training(
        seconds=None, epochs=50, evaluations=50, patience=2, augmentation=None, learning_rate=0.1
    )
    tuned = fine_tune(original, original, images[0], settings=settings)
    assert (tuned.stopped, len(tuned.history)) == ("patience", 2)


def test_training_and_validation_end_within_the_time_limit(original, smaller, images, monkeypatch):
    """On a clock on which a step takes one second, and grading five."""
    now = [0.0]

    def lasting(seconds: float, work):
        def do(*arguments):
            now[0] += seconds
            return work(*arguments)

        return do

    monkeypatch.setattr(Student, "step", lasting(1.0, Student.step))
    monkeypatch.setattr(Student, "answer", lasting(5.0, Student.answer))
    settings = replace(SHORT, seconds=120, epochs=None, batch_size=8, evaluations=4)
    tuned = fine_tune(smaller, original, images, settings=settings, clock=lambda: now[0])
    assert (tuned.stopped, len(tuned.history)) == ("time", 4)
    assert 110 < tuned.seconds <= 120
    assert tuned.steps == tuned.seconds - 5 * 5


def test_the_same_seed_gives_the_same_model(original, smaller, images):
    first, second = (fine_tune(smaller, original, images, settings="1epochs") for _ in range(2))
    assert_same_training(first, second, images[0])


def assert_same_training(first: FineTuned, second: FineTuned, inputs: np.ndarray) -> None:
    """Compare what is computed, not weights: the gradient of a bias before BatchNorm is rounding.

    AdamW makes steps of full length of it, which nothing that follows can see.
    """
    for one, other in zip(first.history, second.history, strict=True):
        assert (one.step, one.closeness) == pytest.approx((other.step, other.closeness), rel=0.02)
    answers = [predict(tuned.model, inputs) for tuned in (first, second)]
    np.testing.assert_allclose(*answers, atol=0.02)


class Interrupted(Recorder):
    """Presses Ctrl-C after some hundredths of the way."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self.left = after

    @contextlib.contextmanager
    def stage(self, name: str, total: int | None = None):
        with super().stage(name, total) as advance:

            def press() -> None:
                advance()
                self.left -= 1
                if not self.left:
                    raise KeyboardInterrupt

            yield press


def test_an_interrupted_run_goes_on_where_it_was(original, smaller, images, tmp_path):
    place = tmp_path / "run.npz"
    whole = fine_tune(smaller, original, images, settings=SHORT)
    with pytest.raises(KeyboardInterrupt), showing(Interrupted(55)):
        fine_tune(smaller, original, images, settings=SHORT, checkpoint=place)
    assert place.exists()
    resumed = fine_tune(smaller, original, images, settings=SHORT, checkpoint=place)
    assert (resumed.steps, resumed.epochs) == (whole.steps, whole.epochs)
    assert not place.exists()
    assert_same_training(resumed, whole, images[0])


def test_a_checkpoint_of_another_run_is_left_aside(original, smaller, images, tmp_path):
    place = tmp_path / "run.npz"
    with pytest.raises(KeyboardInterrupt), showing(Interrupted(55)):
        fine_tune(smaller, original, images, settings=SHORT, checkpoint=place)
    other = replace(SHORT, epochs=1)
    with pytest.warns(UserWarning, match=r"checkpoint .* is of another model, .*starting anew"):
        tuned = fine_tune(smaller, original, images, settings=other, checkpoint=place)
    assert tuned.epochs == 1


def change_data(smaller, original, images):
    return smaller, original, (images[0] + np.float32(0.01), images[1])


def change_labels(smaller, original, images):
    return smaller, original, (images[0], np.roll(images[1], 1))


def change_plan(smaller, original, images):
    model = duplicate(smaller)
    kernel = np.asarray(model.weights[0])
    model.weights[0].assign(kernel[..., ::-1])
    return model, original, images


def change_original(smaller, original, images):
    model = duplicate(original)
    model.weights[-1].assign(np.asarray(model.weights[-1]) + 0.1)
    return smaller, model, images


def repeat_recovery(smaller, original, images):
    model = duplicate(smaller)
    for weight in model.weights:
        weight.assign(np.asarray(weight) * np.float32(1 + 1e-6))
    return model, original, images


@pytest.fixture(scope="module")
def interrupted(original, smaller, images, tmp_path_factory) -> Path:
    """The checkpoint of a run that was interrupted on its way."""
    place = tmp_path_factory.mktemp("interrupted") / "run.npz"
    with pytest.raises(KeyboardInterrupt), showing(Interrupted(55)):
        fine_tune(smaller, original, images, settings=SHORT, checkpoint=place)
    return place


@pytest.mark.parametrize(
    ("change", "anew"),
    [
        (change_data, True),
        (change_labels, True),
        (change_plan, True),
        (change_original, True),
        (repeat_recovery, False),
    ],
)
def test_a_checkpoint_knows_data_plan_and_original(
    original, smaller, images, interrupted, tmp_path, change, anew
):
    place = shutil.copy(interrupted, tmp_path / "run.npz")
    with warnings.catch_warnings(record=True) as told, contextlib.ExitStack() as stack:
        warnings.simplefilter("always")
        if anew:  # the start is enough
            stack.enter_context(pytest.raises(KeyboardInterrupt))
            stack.enter_context(showing(Interrupted(2)))
        fine_tune(*change(smaller, original, images), settings=SHORT, checkpoint=place)
    assert any("starting anew" in str(one.message) for one in told) == anew


def test_a_damaged_checkpoint_is_left_aside(original, smaller, images, tmp_path):
    place = tmp_path / "run.npz"
    place.write_bytes(b"no archive")
    tuned = fine_tune(smaller, original, images, settings=SHORT, checkpoint=place)
    assert tuned.epochs == 3


def test_attention_transfer_brings_block_ends_closer(original, images):
    slim = prune(
        original,
        images,
        budget="macs=60%",
        training=None,
        pruning=Pruning(recovery="none", recalibration="off"),
    ).model
    ends = find_block_ends(original, slim)
    assert ends == ["relu", "second"]
    without, with_maps = (
        fine_tune(slim, original, images, settings=replace(SHORT, epochs=2, features=weight)).model
        for weight in (0.0, 1e4)
    )

    def distance(model: keras.Model) -> float:
        maps = [
            np.asarray(attend(keras.Model(m.inputs, m.get_layer("second").output)(images[0][:100])))
            for m in (model, original)
        ]
        return float(np.square(maps[0] - maps[1]).mean())

    assert distance(with_maps) < distance(without)


def test_samples_are_read_as_needed(original, smaller, images):
    class Counting(ArraySource):
        most = 0

        def read(self, indices: np.ndarray) -> np.ndarray:
            self.most = max(self.most, len(indices))
            return super().read(indices)

    source = Counting(Samples(*images))
    fine_tune(smaller, original, source, settings=SHORT, validation=images)
    assert source.most == SHORT.batch_size


def test_progress_counts_to_a_hundred(original, smaller, images):
    recorder = Recorder()
    with showing(recorder):
        fine_tune(smaller, original, images, settings=SHORT)
    ((name, total, steps),) = recorder.stages
    assert (name, total) == ("training", 100)
    assert steps > 90


def test_a_regression_model_with_two_outputs_is_followed():
    keras.utils.set_random_seed(2)
    inputs = keras.Input((6,))
    hidden = keras.layers.Dense(16, activation="relu", name="hidden")(inputs)
    outputs = [
        keras.layers.Dense(1, name="height")(hidden),
        keras.layers.Dense(4, activation="sigmoid", name="marks")(hidden),
    ]
    original = keras.Model(inputs, outputs)
    samples = np.random.default_rng(0).normal(size=(400, 6)).astype(np.float32)
    pruned = prune(
        original,
        samples,
        budget="params=60%",
        pruning=Pruning(step=1, recovery="none", recalibration="off"),
        training=None,
    )
    settings = replace(SHORT, epochs=20, learning_rate=0.01)
    tuned = fine_tune(pruned.model, original, samples, settings=settings)

    def error(model: keras.Model) -> float:
        pairs = zip(model(samples), original(samples), strict=True)
        return sum(float(np.square(np.asarray(a) - np.asarray(b)).mean()) for a, b in pairs)

    assert error(tuned.model) < error(pruned.model) / 2


def test_a_model_of_other_classes_is_refused(original, smaller, images):
    with pytest.raises(ModelError, match="Expected a pruned model and what it was made from"):
        fine_tune(smaller, original, images, settings=SHORT, classes=(1, 2))


def test_a_label_that_the_model_does_not_know_is_refused(original, smaller, images):
    with pytest.raises(DataError, match="class index 106, which is none of the model's outputs"):
        fine_tune(smaller, original, (images[0], images[1] + 99 * (images[1] == 7)), settings=SHORT)


def test_a_source_without_validation_is_refused(original, smaller, images):
    with pytest.raises(DataError, match="needs validation samples beside it"):
        fine_tune(smaller, original, ArraySource(Samples(*images)), settings=SHORT)


BACKEND_RUN = """
import sys
for name in {absent}: sys.modules[name] = None
import keras, numpy as np
from edgeprune.distillation import Training
from edgeprune.distillation.fine_tuning import FineTuned, fine_tune
L = keras.layers
def net(width):
    return keras.Sequential([
        keras.Input((8, 8, 2)), L.Conv2D(width, 3, use_bias=False), L.BatchNormalization(),
        L.ReLU(), L.GlobalAveragePooling2D(), L.Dropout(0.1), L.Dense(3, activation="softmax")])
keras.utils.set_random_seed(1)
original, smaller = net(12), net(4)
inputs = np.random.default_rng(0).normal(size=(128, 8, 8, 2)).astype("float32")
settings = Training(seconds=None, epochs=8, batch_size=16, learning_rate=1e-2, features=1.0)
tuned = fine_tune(smaller, original, inputs, settings=settings)
assert keras.backend.backend() == "{backend}"
print(tuned.after.closeness > tuned.before.closeness, tuned.steps)
"""


@pytest.mark.parametrize("backend", ["tensorflow", "jax", "torch"])
def test_every_backend_fine_tunes(backend: str):
    if backend != "tensorflow":
        pytest.importorskip(backend)
    absent = () if backend == "tensorflow" else ("tensorflow", "tf_keras")
    result = subprocess.run(
        [sys.executable, "-c", BACKEND_RUN.format(backend=backend, absent=absent)],
        env={**os.environ, "KERAS_BACKEND": backend},
        cwd=Path(__file__).resolve().parent.parent,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == ["True", "48"]
