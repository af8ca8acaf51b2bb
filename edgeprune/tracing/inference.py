"""A model's answers to many samples, compiled, and in full float32 where they are compared."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from importlib import import_module

import keras
import numpy as np

from edgeprune.tracing.opening import functional_form

# XLA's convolutions on CPUs are slower than those of TensorFlow and PyTorch themselves.
COMPILES = keras.backend.backend() == "jax"


def make_answerable(model: keras.Model) -> keras.Model:
    """Return a model with the same layers that `answer` takes; the model itself stays as it is.

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


@contextlib.contextmanager
def full_float32(backend: str | None = None) -> Iterator[None]:
    """Switch TF32 off while a block, or as a decorator a function, runs.

    GPUs since Ampere multiply float32 with ten bits of mantissa unless told otherwise, which is
    enough to train and too little to prove that two models are equal or to solve for kernels.

    Args:
        backend: `tensorflow`, `jax` or `torch`; by default the one that Keras runs on.
    """
    name = keras.backend.backend() if backend is None else backend
    if name == "tensorflow":
        settings = import_module("tensorflow").config.experimental
        before = settings.tensor_float_32_execution_enabled()
        settings.enable_tensor_float_32_execution(False)
        try:
            yield
        finally:
            settings.enable_tensor_float_32_execution(before)
    elif name == "jax":
        with import_module("jax").default_matmul_precision("highest"):
            yield
    elif name == "torch":
        backends = import_module("torch").backends
        places = (backends.cudnn, backends.cuda.matmul)
        allowed = [place.allow_tf32 for place in places]
        for place in places:
            place.allow_tf32 = False
        try:
            yield
        finally:
            for place, value in zip(places, allowed, strict=True):
                place.allow_tf32 = value
    else:
        yield
