"""Finite `tf.data` pipelines. TensorFlow is not imported: who has one has imported it."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from edgeprune.data.arrays import Shape, fits, make_dataset
from edgeprune.data.classes import check_names
from edgeprune.data.dataset import Dataset
from edgeprune.errors import DataError

# A shuffled pipeline gives another order each time it is read, so it is read once and kept.
MOST_BYTES = 2**30
BATCH_SIZE = 256
INFINITE = -1


def is_stream(source: Any) -> bool:
    """Say whether this is a `tf.data.Dataset`."""
    tensorflow = sys.modules.get("tensorflow")
    return tensorflow is not None and isinstance(source, tensorflow.data.Dataset)


def load_stream(
    stream: Any, input_shape: Shape, classes: tuple[str, ...] | None, labelled: bool = True
) -> Dataset:
    """Read a pipeline of (x, y) once, batched or not, into memory."""
    spec = stream.element_spec
    if not isinstance(spec, tuple) or len(spec) not in (2, 3) or not hasattr(spec[0], "shape"):
        raise DataError(
            f"The tf.data.Dataset gives {spec}. Expected pairs (sample, target); use .map() to "
            "make them."
        )
    if int(stream.cardinality()) == INFINITE:
        raise DataError("The tf.data.Dataset never ends. Drop .repeat(), or limit it with .take().")
    names = getattr(stream, "class_names", None)
    own_names = check_names(names) if names else None
    batches = stream if _is_batched(spec[0].shape, input_shape) else stream.batch(BATCH_SIZE)
    inputs: list[np.ndarray] = []
    targets: list[np.ndarray] = []
    num_bytes = 0
    try:
        for x, y, *_ in batches.as_numpy_iterator():
            num_bytes += x.nbytes
            if num_bytes > MOST_BYTES:
                raise DataError(
                    f"The tf.data.Dataset holds more than {MOST_BYTES / 2**30:.0f} GiB, and it is "
                    "kept in memory. Limit it with .take(), or give the folder or the .npz file."
                )
            inputs.append(x)
            targets.append(y)
    except DataError:
        raise
    except Exception as error:  # the pipeline is the user's own code and may raise anything
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"Reading the tf.data.Dataset failed: {reason}") from error
    if not inputs:
        raise DataError("The tf.data.Dataset has no samples.")
    splits = {"all": np.arange(sum(map(len, inputs)))}
    return make_dataset(
        "tf.data", (inputs, targets), splits, input_shape, classes, own_names, labelled
    )


def _is_batched(shape: Any, input_shape: Shape) -> bool:
    if shape.rank is None:
        raise DataError(
            "The tf.data.Dataset does not say how many axes its samples have. Use .map() with "
            "tf.ensure_shape to say it."
        )
    sizes = tuple(shape.as_list())
    for accepted in (input_shape, input_shape[:-1]) if input_shape[-1:] == (1,) else (input_shape,):
        if fits(sizes, accepted):
            return False
        if fits(sizes[1:], accepted):
            return True
    return len(sizes) > len(input_shape)  # it does not fit: the consumer will say how
