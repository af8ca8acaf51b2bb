"""Proof that a model moved to Keras 3 still computes what it did: outputs against outputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from edgeprune.errors import ModelError
from edgeprune.loading.legacy_worker import sample
from edgeprune.loading.parts import Architecture
from edgeprune.loading.references import Reference
from edgeprune.support.printable import one_line
from edgeprune.tracing.inference import full_float32
from edgeprune.tracing.opening import functional_form

TOLERANCE = 1e-5
# Rounding adds up differently inside; a layer that differs by more was not moved correctly,
# also where a saturated softmax hides it.
LAYER_TOLERANCE = 1e-3
HALF_PRECISION = 2e-2
_UNKNOWN_SIZE = 64


def check_same_outputs(architecture: Architecture, reference: Reference, origin: str) -> float:
    """Compare a moved model with what tf_keras computed from the same file.

    Returns:
        The largest difference of an output, relative to the largest output.

    Raises:
        ModelError: they differ by more than rounding; gives the numbers and the first layer.
    """
    model = architecture.model
    watched = _watched_layers(architecture, reference)
    graph = keras.Model(model.inputs, [*model.outputs, *(x.output for x in watched.values())])
    try:
        with keras.device("cpu:0"):
            values = keras.tree.flatten(graph(_inputs(reference, model), training=False))
    except Exception as error:
        raise ModelError(f"'{origin}' does not run in Keras 3: {one_line(error)}.") from error
    outputs, values = values[: len(model.outputs)], values[len(model.outputs) :]
    differences = {
        name: relative_difference(sample(keras.ops.convert_to_numpy(value)), reference.layers[name])
        for name, value in zip(watched, values, strict=True)
    }
    worst = max(
        relative_difference(keras.ops.convert_to_numpy(output), expected)
        for output, expected in zip(outputs, reference.outputs, strict=True)
    )
    half = computes_in_half(model)
    tolerance, inside = (HALF_PRECISION,) * 2 if half else (TOLERANCE, LAYER_TOLERANCE)
    first = next((name for name, value in differences.items() if not value < inside), None)
    if not worst < tolerance or first is not None:
        where = ""
        if first is not None:
            where = (
                f"; the first layer to differ is '{first}' ({type(watched[first]).__name__}), by "
                f"{differences[first]:.1e} of its largest value"
            )
        raise ModelError(
            f"'{origin}' does not compute the same in Keras 3: the outputs differ from those of "
            f"tf_keras by {worst:.1e} of the largest (allowed: {tolerance:.0e}){where}. Rebuild "
            "the model in Keras 3, or report the file."
        )
    return worst


def relative_difference(values: np.ndarray, expected: np.ndarray) -> float:
    """Give the largest difference relative to the largest expected value.

    Example:
        >>> relative_difference(np.array([1.0, 4.1]), np.array([1.0, 4.0])).__round__(3)
        0.025
    """
    if values.shape != expected.shape:
        return float("inf")
    finite = np.isfinite(expected)
    if not np.array_equal(np.isfinite(values), finite):
        return float("inf")
    if not finite.any():
        return 0.0
    values, expected = values[finite].astype("float64"), expected[finite].astype("float64")
    difference = float(np.max(np.abs(values - expected)))
    return difference / (float(np.max(np.abs(expected))) or 1.0)


def draw_inputs(
    model: keras.Model, shapes: Sequence[Sequence[int | None]] | None = None
) -> list[np.ndarray]:
    """Draw the inputs of a comparison, the same for every model with these inputs.

    Args:
        model: with a graph.
        shapes: of its inputs, batch included, where not its own; what is open becomes 2 and 64.
    """
    generator = np.random.default_rng(20181)
    drawn = []
    tensors = functional_form(model).inputs
    for tensor, given in zip(tensors, shapes or [x.shape for x in tensors], strict=True):
        shape = [given[0] or 2, *(size or _UNKNOWN_SIZE for size in given[1:])]
        is_float = "float" in tensor.dtype
        values = generator.normal(size=shape) if is_float else generator.integers(0, 2, shape)
        drawn.append(values.astype("float32" if tensor.dtype == "bfloat16" else tensor.dtype))
    return drawn


@full_float32()
def answer_in_full(model: keras.Model, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Give every output of a model, as float32."""
    form = functional_form(model)
    given = keras.tree.pack_sequence_as(form._inputs_struct, list(inputs))
    outputs = keras.tree.flatten(form(given, training=False))
    return [keras.ops.convert_to_numpy(keras.ops.cast(one, "float32")) for one in outputs]


def computes_in_half(model: keras.Model) -> bool:
    """Whether a layer of a model computes in 16 bits."""
    layers = model._flatten_layers(include_self=False)
    return any(layer.compute_dtype in ("float16", "bfloat16") for layer in layers)


def _watched_layers(architecture: Architecture, reference: Reference) -> dict[str, keras.Layer]:
    return {
        part.name: part.layer
        for part in architecture.parts
        if part.name in reference.layers
        and not part.parts
        and keras.utils.is_keras_tensor(part.layer.output)
    }


def _inputs(reference: Reference, model: keras.Model) -> Any:
    return [
        keras.ops.convert_to_tensor(array, dtype=tensor.dtype)
        for array, tensor in zip(reference.inputs, model.inputs, strict=True)
    ]
