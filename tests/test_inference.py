"""Compiled answers are those of the model called batch by batch."""

from __future__ import annotations

import keras
import numpy as np
from small_models import classifier

from edgeprune.evaluation import equivalence as verification
from edgeprune.evaluation.equivalence import predict


def test_compiled_answers_equal_plain_ones_and_leave_the_model_alone(monkeypatch) -> None:
    model = classifier()
    inputs = np.random.default_rng(0).normal(size=(70, *model.input_shape[1:])).astype(np.float32)
    plain = predict(model, inputs, batch_size=32)
    monkeypatch.setattr(verification, "COMPILED_FROM", 10)
    compiled = predict(model, inputs, batch_size=32)
    assert compiled.shape == plain.shape
    np.testing.assert_allclose(compiled, plain, rtol=1e-4, atol=1e-5 * np.abs(plain).max())
    assert not model.compiled


def test_subclassed_models_are_answered_too(monkeypatch) -> None:
    class Outer(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.dense = keras.layers.Dense(3)

        def call(self, inputs):
            return self.dense(inputs)

    model = Outer()
    inputs = np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32)
    plain = predict(model, inputs)
    monkeypatch.setattr(verification, "COMPILED_FROM", 10)
    np.testing.assert_allclose(predict(model, inputs), plain, rtol=1e-5, atol=1e-6)
