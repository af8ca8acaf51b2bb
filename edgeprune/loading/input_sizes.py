"""Models for any number of samples of one size, rebuilt from models for others and proven equal."""

from __future__ import annotations

from collections.abc import Sequence

import keras
import numpy as np

from edgeprune.errors import ModelError
from edgeprune.loading.comparisons import (
    HALF_PRECISION,
    TOLERANCE,
    answer_in_full,
    computes_in_half,
    draw_inputs,
    relative_difference,
)
from edgeprune.support.printable import one_line
from edgeprune.tracing.opening import functional_form
from edgeprune.tracing.replica import copy_weights, replicate

Shape = tuple[int | None, ...]


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


def _is_same(
    model: keras.Model, made: keras.Model, old: Sequence[Shape], new: Sequence[Shape]
) -> bool:
    """Compare on random samples, where the batch was opened on twice as many as it had."""
    count = max(shape[0] or 1 for shape in old)
    parts = 1 if new[0][0] is not None else 2
    inputs = draw_inputs(model, [(parts * count, *shape[1:]) for shape in new])
    halves = zip(*(np.split(values, parts) for values in inputs), strict=True)
    answers = zip(*(answer_in_full(model, half) for half in halves), strict=True)
    allowed = HALF_PRECISION if computes_in_half(model) else TOLERANCE
    return all(
        relative_difference(found, np.concatenate(expected)) <= allowed
        for found, expected in zip(answer_in_full(made, inputs), answers, strict=True)
    )


def _written(size: Sequence[int | None]) -> str:
    return "x".join("any" if axis is None else str(axis) for axis in size)


def _listed(shapes: Sequence[Shape]) -> str:
    return ", ".join(map(str, shapes))
