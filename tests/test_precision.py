"""TF32 is off while it would blur a proof, and afterwards what it was before."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from specialists import digits, make_classifier

from edgeprune.data import Samples
from edgeprune.distillation.fine_tuning import fine_tune
from edgeprune.distillation.student import Student
from edgeprune.evaluation.equivalence import check_equivalence, predict
from edgeprune.evaluation.evaluator import Evaluator
from edgeprune.pruning.one_shot import prune
from edgeprune.recovery.heads import refit_head
from edgeprune.recovery.recalibration import recalibrate
from edgeprune.recovery.refitting import refit
from edgeprune.scoring.collection import collect_statistics
from edgeprune.surgery.plan import Plan
from edgeprune.tracing.groups import find_groups
from edgeprune.tracing.inference import full_float32

tf32 = tf.config.experimental


@pytest.fixture(autouse=True)
def as_tensorflow_ships():
    tf32.enable_tensor_float_32_execution(True)
    yield
    tf32.enable_tensor_float_32_execution(True)


def test_tensorflow_computes_in_full_precision_inside_only():
    with full_float32("tensorflow"):
        assert not tf32.tensor_float_32_execution_enabled()
    assert tf32.tensor_float_32_execution_enabled()


def test_an_error_inside_restores_what_was_before():
    with pytest.raises(KeyError), full_float32("tensorflow"):
        raise KeyError
    assert tf32.tensor_float_32_execution_enabled()


def test_jax_computes_in_full_precision_inside_only():
    jax = pytest.importorskip("jax")
    before = jax.config.jax_default_matmul_precision
    with full_float32("jax"):
        assert jax.config.jax_default_matmul_precision == "highest"
    assert jax.config.jax_default_matmul_precision == before


def test_pytorch_computes_in_full_precision_inside_only():
    torch = pytest.importorskip("torch")
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = True
    try:
        with full_float32("torch"):
            assert not torch.backends.cudnn.allow_tf32
            assert not torch.backends.cuda.matmul.allow_tf32
        assert torch.backends.cudnn.allow_tf32
    finally:
        torch.backends.cudnn.allow_tf32 = before


ENABLED: set[bool] = set()


@keras.saving.register_keras_serializable("precision")
class Watching(keras.layers.Layer):
    """Notes whether TF32 is on whenever it computes, also in compiled functions."""

    def call(self, x):
        def note() -> None:
            ENABLED.add(tf32.tensor_float_32_execution_enabled())

        tf.py_function(note, [], [])
        return x


IMAGES = digits()[0][:60].astype(np.float32)
COMPARISONS = {
    "prune": lambda model, groups: prune(model, IMAGES, pruning="chapr"),
    "check_equivalence": lambda model, groups: check_equivalence(
        model, model, Plan(), groups, IMAGES
    ),
    "predict": lambda model, groups: predict(model, IMAGES),
    "predict compiled": lambda model, groups: predict(model, np.repeat(IMAGES, 20, axis=0)),
    "Evaluator": lambda model, groups: Evaluator(model, Samples(IMAGES, NO_TARGETS)).evaluate(
        model
    ),
    "collect_statistics": lambda model, groups: collect_statistics(groups, IMAGES),
    "recalibrate": lambda model, groups: recalibrate(model, IMAGES),
    "refit": lambda model, groups: refit(model, groups, Plan(), IMAGES),
    "refit_head": lambda model, groups: refit_head(model, groups, Plan(), IMAGES),
}
NO_TARGETS = np.zeros(0, np.int64)


def watch() -> keras.Model:
    model = make_classifier()
    watched = keras.Model(model.inputs, Watching()(model.outputs[0]))
    ENABLED.clear()
    return watched


@pytest.mark.parametrize("name", COMPARISONS)
def test_what_proves_compares_or_solves_computes_in_full_precision(name):
    model = watch()
    groups = find_groups(model)  # which tries layers on labels, in any precision
    ENABLED.clear()
    COMPARISONS[name](model, groups)
    assert True not in ENABLED


def test_training_may_be_fast_but_what_it_is_judged_by_is_exact():
    model = watch()
    seen: list[set[bool]] = []
    answer = Student.answer

    def note(self, *args):
        ENABLED.clear()
        result = answer(self, *args)
        seen.append(set(ENABLED))
        return result

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Student, "answer", note)
        fine_tune(model, model, IMAGES, settings="1epochs")
    assert len(seen) > 1
    assert all(found == {False} for found in seen)
