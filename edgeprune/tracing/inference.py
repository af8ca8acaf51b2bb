"""A model's answers to many samples, compiled."""

from __future__ import annotations

import keras
import numpy as np

from edgeprune.tracing.opening import functional_form

# XLA's convolutions on CPUs are slower than those of TensorFlow and PyTorch themselves.
COMPILES = keras.backend.backend() == "jax"


def make_answerable(model: keras.Model) -> keras.Model:
    """Return a model with the same layers that `answer` takes; the model itself stays as it is.

    Args:
        model: a model with a graph, see `functional_form`.

    Raises:
        ModelError: it has none.
    """
    form = functional_form(model)
    answerable = keras.Model(form.inputs, form.outputs)
    answerable.compile(jit_compile=COMPILES)
    return answerable


def answer(model: keras.Model, inputs: np.ndarray, batch_size: int) -> list[np.ndarray]:
    """Return every output of a compiled model; all batches are of one size, compiled once.

    Args:
        model: compiled, with one input.
        inputs: `(n, ...)`.
        batch_size: samples per call; the last ones are filled up.

    Example:
        >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
        >>> answer(make_answerable(model), np.ones((5, 3), np.float32), 2)[0].shape
        (5, 2)
    """
    batches = []
    for start in range(0, len(inputs), batch_size):
        batch = inputs[start : start + batch_size]
        missing = batch_size - len(batch)
        if missing:
            batch = np.concatenate([batch, np.repeat(batch[:1], missing, axis=0)])
        outputs = keras.tree.flatten(model.predict_on_batch(batch))
        batches.append([np.asarray(output)[: batch_size - missing] for output in outputs])
    return [np.concatenate(parts).astype(np.float32) for parts in zip(*batches, strict=True)]
