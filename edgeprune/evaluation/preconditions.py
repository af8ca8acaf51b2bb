"""What must hold before pruning starts: of the model, the classes and the samples."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from edgeprune.data import Samples
from edgeprune.data.class_targets import is_one_hot
from edgeprune.data.dataset import READ_BATCH
from edgeprune.errors import ClassError, DataError, ModelError
from edgeprune.evaluation.evaluator import select
from edgeprune.tracing.graph import build_graph
from edgeprune.tracing.groups import Groups, find_head
from edgeprune.tracing.layouts import channels_first_problem
from edgeprune.tracing.outputs import Task, output_kinds
from edgeprune.tracing.replica import operations_by_path

ArrayData = Samples | np.ndarray | tuple[np.ndarray, np.ndarray]


def check_model(model: keras.Model) -> None:
    """Refuse models that cannot be pruned whatever is asked for.

    Raises:
        ModelError: it has several inputs, a batch that cannot change, weights that are not finite,
            or an order of axes that the backend does not convolve here.
    """
    if problem := channels_first_problem(model):
        raise ModelError(problem)
    if len(model.inputs) != 1:
        raise ModelError(
            f"Model '{model.name}' has {len(model.inputs)} inputs; pruning needs exactly one."
        )
    batch = model.inputs[0].shape[0]
    if batch not in (None, 1) and not _takes_one_sample(model):
        raise ModelError(
            f"Model '{model.name}' computes with {batch} samples at once and with no other number. "
            "Build it again on an input of any batch, keras.Input(shape), and copy the weights."
        )
    for path, operation in operations_by_path(model).items():
        for weight in getattr(operation, "weights", []):
            values = keras.ops.convert_to_numpy(weight)
            if values.dtype.kind == "f" and not np.isfinite(values).all():
                raise ModelError(
                    f"Weight '{weight.name}' of layer '{path}' holds numbers that are not finite "
                    "(NaN or infinity). Expected a trained model; look at how it was trained or "
                    "saved."
                )


def _takes_one_sample(model: keras.Model) -> bool:
    shape = [1, *(size or 32 for size in model.inputs[0].shape[1:])]
    try:
        outputs = model(keras.ops.zeros(shape, model.inputs[0].dtype), training=False)
    except Exception:  # of Keras or the backend
        return False
    return all(output.shape[0] == 1 for output in keras.tree.flatten(outputs))


def check_classes(groups: Groups, classes: tuple[int, ...] | None) -> None:
    """Refuse classes that cannot be cut out.

    Raises:
        ClassError: the model does not have them, or its output is no list of classes.
    """
    if classes is None:
        return
    head = find_head(groups)
    if not classes or len(set(classes)) < len(classes):
        raise ClassError(f"Expected outputs to keep, each once. Got {list(classes)}.")
    missing = [number for number in classes if not 0 <= number < head.width]
    if missing:
        raise ClassError(
            f"The model has no outputs {missing}: it has {head.width}, numbered from 0 to "
            f"{head.width - 1}."
        )


def make_samples(
    model: keras.Model,
    data: Any,
    classes: tuple[int, ...] | None = None,
    *,
    task: Task = "auto",
    name: str = "data",
) -> Samples:
    """Return samples as arrays of the right types; with classes, only those of these classes.

    Args:
        model: with one input, which they must fit.
        data: `(n, ...)` inputs, alone or in a pair with class indices `(n,)` or, for a classifier,
            one-hot rows `(n, classes)`; or `Samples`.
        classes: outputs that will be kept.
        task: what the outputs mean, see `output_kinds`. Targets of regressors are left out, and
            several for one sample: such models are compared with the original alone.
        name: of the data in errors.

    Raises:
        DataError: they are empty, of another shape, not finite, or their targets are no indices.

    Example:
        >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3)])
        >>> make_samples(model, (np.eye(2), [2, 0]), classes=(0, 1)).inputs
        array([[0., 1.]], dtype=float32)
    """
    pair: Any = data if isinstance(data, tuple) and len(data) == 2 else (data, [])
    if isinstance(data, Samples):
        pair = data.inputs, data.targets
    inputs = np.asarray(pair[0], np.float32)
    expected = tuple(model.inputs[0].shape[1:])
    fits = len(inputs.shape) == len(expected) + 1 and all(
        size in (None, found) for size, found in zip(expected, inputs.shape[1:], strict=True)
    )
    if not fits or not len(inputs):
        shape = ", ".join("any" if size is None else str(size) for size in expected)
        raise DataError(
            f"The {name} has shape {inputs.shape}; model '{model.name}' takes samples of shape "
            f"({shape}), so at least one of them in an array of shape (n, {shape})."
        )
    parts = range(0, len(inputs), READ_BATCH)
    if not all(np.isfinite(inputs[start : start + READ_BATCH]).all() for start in parts):
        raise DataError(f"The {name} holds numbers that are not finite (NaN or infinity).")
    indices = _read_targets(model, np.asarray(pair[1]), len(inputs), classes, task, name)
    samples = Samples(inputs, indices)
    if classes is None or not indices.size:
        return samples
    kept = np.nonzero(np.isin(indices, classes))[0]
    if not kept.size:
        raise DataError(f"The {name} has no sample of the classes to keep, {list(classes)}.")
    return samples if len(kept) == len(inputs) else select(samples, kept)


def _read_targets(
    model: keras.Model,
    targets: np.ndarray,
    count: int,
    classes: tuple[int, ...] | None,
    task: Task,
    name: str,
) -> np.ndarray:
    """Return class indices, or none where targets of this model are no classes."""
    graph = build_graph(model)
    if is_one_hot(targets) and targets.shape == (count, model.outputs[0].shape[-1]):
        kinds = output_kinds(graph, task, labelled=True)
        if len(kinds) == 1 and kinds[0].task == "classify":
            targets = targets.argmax(axis=1)
    whole = targets.dtype.kind in "iub" or (
        targets.dtype.kind == "f" and np.array_equal(targets, np.round(targets))
    )
    indices = bool(whole and targets.size == count and targets.min() >= 0)
    kinds = output_kinds(graph, task, labelled=indices or classes is not None)
    several = targets.ndim > 1 and targets.shape[1:] != (1,)
    other = kinds[0].task == "regress" or (kinds[0].task == "multilabel" and several)
    if len(kinds) == 1 and other and targets.dtype.kind in "iubf" and len(targets) in (0, count):
        return np.zeros(0, np.int64)
    if targets.size and not indices:
        raise DataError(
            f"The {name} has targets of shape {targets.shape} and type {targets.dtype} for {count} "
            f"samples. Expected class indices, shape ({count},), or none."
        )
    return targets.reshape(-1).astype(np.int64)
