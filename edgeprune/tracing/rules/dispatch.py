"""From a call to the labels of its outputs: by a rule, by trying it out, or by locking."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import keras
import numpy as np

from edgeprune.errors import EdgepruneError, ModelError
from edgeprune.tracing.graph import TensorRef, map_structure
from edgeprune.tracing.labels import NO_LABEL
from edgeprune.tracing.rules.probing import probe
from edgeprune.tracing.rules.registry import RULES, Labels, Tracing


def apply_rule(tracing: Tracing, labels: Sequence[Labels]) -> list[Labels]:
    """Return the labels of a call's outputs.

    Args:
        tracing: the call and the label space.
        labels: of the input tensors.

    Raises:
        ModelError: a rule failed, or returned labels that do not fit the output.
    """
    try:
        made = _describe(tracing, labels)
    except EdgepruneError:
        raise
    except Exception as error:
        raise ModelError(
            f"Tracing stopped at '{tracing.call.path}' "
            f"({type(tracing.call.operation).__name__}), whose channel rule met what it does not "
            f"know: {type(error).__name__}: {error}. Please report the model."
        ) from error
    _check(tracing, made)
    made = [tracing.space.rectangular(one) for one in made]
    _divide(tracing, labels, made)
    _work_out_sizes(tracing)
    return made


def _describe(tracing: Tracing, labels: Sequence[Labels]) -> list[Labels]:
    operation = tracing.call.operation
    found = RULES.get(type(operation))
    kind = type(operation).__name__
    if getattr(operation, "quantization_mode", None) or getattr(operation, "lora_enabled", False):
        return tracing.opaque(f"'{tracing.call.path}' ({kind}) is quantized or has LoRA", labels)
    if found is not None:
        seen, given = _without_masks(tracing, labels)
        result = found(seen, operation, *given)
        return result if isinstance(result, list) else [result]
    if getattr(operation, "weights", ()):
        reason = f"Layer '{tracing.call.path}' ({kind}) has no channel rule"
        return tracing.opaque(reason, labels)
    return probe(tracing, labels)


def _without_masks(tracing: Tracing, labels: Sequence[Labels]) -> tuple[Tracing, list[Labels]]:
    """Lock what masks a call, and leave it out of what the rule sees."""
    masks = {
        argument.number
        for name, argument in tracing.call.kwargs.items()
        if name.endswith("mask") and isinstance(argument, TensorRef)
    }
    if not masks:
        return tracing, list(labels)
    pairs = list(zip(tracing.call.inputs, labels, strict=True))
    for ref, one in pairs:
        if ref.number in masks:
            tracing.space.lock(one, f"masks '{tracing.call.path}'")
    kept = [(ref, one) for ref, one in pairs if ref.number not in masks]
    call = replace(tracing.call, inputs=tuple(ref for ref, _ in kept))
    return replace(tracing, call=call), [one for _, one in kept]


def _check(tracing: Tracing, made: Sequence[Labels]) -> None:
    """Refuse what a rule returned if it cannot be the labels of the outputs."""
    shapes = tracing.output_shapes
    fits = len(made) == len(shapes) and all(
        len(shape) == one.ndim
        and all(
            size in (1, real) or real is None for size, real in zip(one.shape, shape, strict=True)
        )
        for one, shape in zip(made, shapes, strict=False)
    )
    if not fits:
        raise ModelError(
            f"The channel rule of {type(tracing.call.operation).__name__} returned labels of shape "
            f"{[one.shape for one in made]} for '{tracing.call.path}'. Expected one array per "
            f"output that broadcasts to {shapes} (shapes without the batch axis)."
        )


def _divide(tracing: Tracing, labels: Sequence[Labels], made: Sequence[Labels]) -> None:
    """Record tensors that hold some channels of another one, so that they never become empty."""
    given = [np.unique(one[one != NO_LABEL]) for one in labels]
    for one in made:
        held = np.unique(one[one != NO_LABEL])
        for other in given:
            if 0 < len(held) < len(other) and np.isin(held, other, assume_unique=True).all():
                tracing.space.divide(held)


def _work_out_sizes(tracing: Tracing) -> None:
    """Follow example shapes that differ from what the shapes of the graph say."""
    call, sizes = tracing.call, tracing.sizes
    missing = [ref for ref in call.outputs if ref.number not in sizes]
    if not missing or not any(ref.number in sizes for ref in call.inputs):
        return

    def to_symbol(argument: object) -> object:
        if isinstance(argument, TensorRef):
            shape = tracing.example_shape(argument)
            return keras.KerasTensor(argument.shape if shape is None else shape, argument.dtype)
        return argument

    try:
        specs = call.operation.compute_output_spec(
            *map_structure(to_symbol, call.args), **map_structure(to_symbol, dict(call.kwargs))
        )
    except Exception:  # the example does not fit the operation: its sizes stay unknown
        return
    for ref, spec in zip(call.outputs, keras.tree.flatten(specs), strict=True):
        if None not in spec.shape:
            sizes[ref.number] = tuple(spec.shape)
