"""Models for any number of samples of one size, rebuilt from models for others and proven equal."""

from __future__ import annotations

from collections.abc import Sequence

import keras
import numpy as np

from edgeprune.errors import ModelError
from edgeprune.support.printable import one_line
from edgeprune.tracing.inference import full_float32
from edgeprune.tracing.opening import functional_form
from edgeprune.tracing.replica import copy_weights, replicate

Shape = tuple[int | None, ...]
TOLERANCE = 1e-5


def set_input_sizes(model: keras.Model, size: Sequence[int] | None = None) -> keras.Model:
    """Return a model for batches of any size, its inputs of the given one where theirs is open.

    Args:
        model: with a graph; returned as it is if nothing has to change, and, without a size, if
            its batch cannot be opened.
        size: of every axis between batch and channels.

    Raises:
        ModelError: the inputs have another number of axes or a fixed size that differs, or the
            model cannot be rebuilt.
    """
    form = functional_form(model)
    old = [tuple(tensor.shape) for tensor in form.inputs]
    new = [_fill(model, shape, size) for shape in old]
    states = any(getattr(layer, "stateful", False) for layer in model._flatten_layers())
    if new == old or (states and size is None):
        return model
    reason = "one of its layers keeps a state between batches"
    for inside in (True, False) if not states else ():  # of nested models, called at several sizes
        try:
            made, operations = replicate(model, shapes=new, inside=inside)
            copy_weights(model, operations)
            if _is_same(model, made, old, new):
                return made
            reason = "it computes something else there"
        except Exception as error:  # of Keras or the backend, on a model that nobody knows
            reason = one_line(error)
    if size is None:
        return model
    raise ModelError(
        f"Model '{model.name}' cannot be rebuilt for inputs of shape {_listed(new)}, its own are "
        f"{_listed(old)}: {reason}. Build it with the size it is used with, and copy "
        "the weights."
    )


def _fill(model: keras.Model, shape: Shape, size: Sequence[int] | None) -> Shape:
    batch = shape[0] if shape[0] == 1 else None
    if size is None:
        return (batch, *shape[1:])
    inner = shape[1:-1] or shape[1:]
    if len(inner) != len(size):
        raise ModelError(
            f"--input-size {_written(size)} does not fit model '{model.name}', whose input has the "
            f"shape {shape}: expected {len(inner)} sizes between batch and channels."
        )
    if any(known not in (None, given) for known, given in zip(inner, size, strict=True)):
        raise ModelError(
            f"--input-size {_written(size)} differs from the size that model '{model.name}' was "
            f"built and trained with, {_written(inner)}. Leave it out."
        )
    return (batch, *size, *shape[1 + len(size) :])


@full_float32()
def _is_same(
    model: keras.Model, made: keras.Model, old: Sequence[Shape], new: Sequence[Shape]
) -> bool:
    """Compare on random samples, twice as many as the model takes at once."""
    generator = np.random.default_rng(20181)
    count = max([shape[0] or 1 for shape in old])
    batches = []
    for _ in range(2):
        drawn = []
        for tensor, shape in zip(functional_form(model).inputs, new, strict=True):
            full = [count, *(axis or 64 for axis in shape[1:])]
            is_float = "float" in tensor.dtype
            values = generator.normal(size=full) if is_float else generator.integers(0, 2, full)
            drawn.append(values.astype(tensor.dtype if tensor.dtype != "bfloat16" else "float32"))
        batches.append(drawn)

    def ask(one: keras.Model, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        form = functional_form(one)
        answers = form(keras.tree.pack_sequence_as(form._inputs_struct, inputs), training=False)
        return [
            np.asarray(keras.ops.convert_to_numpy(x), float) for x in keras.tree.flatten(answers)
        ]

    together = [np.concatenate(pair) for pair in zip(*batches, strict=True)]
    whole = ask(made, together) if new[0][0] is None else ask(made, batches[0])
    parts = [ask(model, batch) for batch in (batches if new[0][0] is None else batches[:1])]
    expected = [np.concatenate(pair) for pair in zip(*parts, strict=True)]
    return all(
        one.shape == other.shape
        and np.max(np.abs(one - other)) <= TOLERANCE * max(float(np.max(np.abs(other))), 1e-30)
        for one, other in zip(whole, expected, strict=True)
    )


def _written(size: Sequence[int | None]) -> str:
    return "x".join("any" if axis is None else str(axis) for axis in size)


def _listed(shapes: Sequence[Shape]) -> str:
    return ", ".join(map(str, shapes))
