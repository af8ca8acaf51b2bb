"""What convert refuses before it starts: choices, models, samples and labels that do not fit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeprune.errors import ConversionError

if TYPE_CHECKING:
    import keras

    from edgeprune.data.preprocessing import Preprocess, Scaling

SCHEMES = {
    "float32": "32-bit floats, as trained",
    "float16": "weights in 16-bit floats, half the size; computes in 32 bits on a CPU",
    "dynamic": "weights in 8-bit integers, activations quantized while running",
    "int8": "weights (per channel) and activations in 8-bit integers; needs calibration samples",
    "int16x8": "weights in 8-bit, activations in 16-bit integers; needs calibration samples",
    "int8-qat": "int8 after a short training that knows the integers; needs training samples",
}
CALIBRATED = ("int8", "int16x8", "int8-qat")
"""Schemes with integer activations, whose ranges are taken from samples."""
INT8 = ("int8", "int8-qat")
IO_TYPES = ("float32", "int8", "uint8")

Samples = np.ndarray | Sequence[np.ndarray] | Mapping[str, np.ndarray]


def check_choices(scheme: str, io: str) -> None:
    """Refuse an unknown scheme, and integers in and out of a float model."""
    if scheme not in SCHEMES:
        raise ConversionError(f"Unknown scheme '{scheme}'. Choose one of {', '.join(SCHEMES)}.")
    if io not in IO_TYPES:
        raise ConversionError(f"Unknown io type '{io}'. Choose one of {', '.join(IO_TYPES)}.")
    if io != "float32" and scheme not in INT8:
        raise ConversionError(
            f"Input and output in {io} need scheme 'int8'; scheme '{scheme}' has float32 ones."
        )


def check_input(
    input_type: str | None,
    preprocess: Preprocess | None,
    model: keras.Model,
    scheme: str = "int8",
) -> Scaling | None:
    """Return the scaling that goes inside the model, or `None` where none does.

    Raises:
        ConversionError: an unknown type, a scaling that is no straight line, or a model that has
            several inputs or takes integers already.
    """
    if input_type in (None, "float32"):
        return None
    if input_type != "uint8":
        raise ConversionError(f"Unknown input '{input_type}'. Choose float32 or uint8.")
    if scheme == "int16x8":
        raise ConversionError(
            "Input uint8 is not to be had with scheme 'int16x8', which TensorFlow Lite gives float "
            "inputs. Use scheme 'int8', or leave the input as float32."
        )
    scaling = preprocess.scaling if preprocess is not None else None
    if scaling is None:
        found = "none was given" if preprocess is None else f"'{preprocess.name}' is a function"
        raise ConversionError(
            f"Input uint8 puts the scaling inside the model, and {found}. Say how the model was "
            "fed with --preprocess raw, unit, symmetric or 'standardize:mean=..;std=..'."
        )
    if len(model.inputs) != 1 or "float" not in str(model.inputs[0].dtype):
        kinds = ", ".join(f"'{tensor.name}' ({tensor.dtype})" for tensor in model.inputs)
        raise ConversionError(
            f"Input uint8 is for models with one input of floats; '{model.name}' has {kinds}. "
            "Leave the input as it is."
        )
    return scaling


def accept_model(model: Any) -> keras.Model:
    """Return a model, for any batch; refuse what is no Keras model on TensorFlow of fixed size."""
    import keras

    from edgeprune.tracing.layouts import channels_first_problem
    from edgeprune.tracing.replica import with_any_batch

    if not isinstance(model, keras.Model):
        raise ConversionError(
            f"convert takes a Keras 3 model, got {type(model).__name__}. "
            "Open files and models of older Keras with edgeprune.load_model."
        )
    if keras.backend.backend() != "tensorflow":
        raise ConversionError(
            f"Keras runs on {keras.backend.backend()} here, and TensorFlow Lite converts from "
            "TensorFlow: save the model and convert it with KERAS_BACKEND=tensorflow."
        )
    try:
        inputs = model.inputs
    except AttributeError:
        inputs = None
    if not inputs:
        raise ConversionError(
            f"Model '{model.name}' ({type(model).__name__}) has no fixed inputs. Call it on a "
            "keras.Input and wrap it: keras.Model(inputs, model(inputs))."
        )
    if problem := channels_first_problem(model):
        raise ConversionError(problem)
    model = with_any_batch(model)
    for tensor in model.inputs:
        if None in tensor.shape[1:] or tensor.shape[0] not in (None, 1):
            raise ConversionError(
                f"Input '{tensor.name}' of model '{model.name}' has shape {tuple(tensor.shape)}, "
                "but a .tflite needs every size but the batch fixed, and a batch of one. Give "
                "height and width, --input-size 96x96 or load_model(..., input_size=(96, 96)), or "
                "build the model again on keras.Input((height, width, channels)) and copy the "
                "weights."
            )
    return model


def read_calibration(
    calibration: Samples | None, model: keras.Model, scheme: str = "int8"
) -> dict[str, np.ndarray]:
    """Return the samples by input name, each of shape `(n, ...)`."""
    expected = {tensor.name: tuple(tensor.shape[1:]) for tensor in model.inputs}
    wanted = ", ".join(f"'{name}' (n, {str(shape)[1:]}" for name, shape in expected.items())
    wanted = wanted.replace(",)", ")")
    if calibration is None:
        raise ConversionError(
            f"Scheme '{scheme}' needs calibration samples for the ranges of its integers: {wanted}."
        )
    given: dict[str, Any]
    if isinstance(calibration, Mapping):
        given = dict(calibration)
    elif len(expected) == 1:
        given = {next(iter(expected)): calibration}
    else:
        given = dict(zip(expected, calibration, strict=False))
    if set(given) != set(expected) or len(calibration) != len(given) > 1:
        raise ConversionError(f"The calibration samples must name each input: {wanted}.")
    samples = {name: np.asarray(given[name]) for name in expected}
    for name, array in samples.items():
        if array.shape[1:] != expected[name] or len(array) == 0 or array.dtype.kind not in "fiub":
            raise ConversionError(
                f"The calibration samples have shape {array.shape} and type {array.dtype}; "
                f"the model takes {wanted}, n at least 1."
            )
        if not np.isfinite(array).all():
            raise ConversionError(f"The calibration samples for '{name}' hold NaN or infinity.")
    if len({len(array) for array in samples.values()}) > 1:
        raise ConversionError("The inputs have different numbers of calibration samples.")
    return samples


def check_targets(targets: np.ndarray | None, samples: Mapping[str, np.ndarray] | None) -> None:
    """Refuse targets that are not one class per calibration sample."""
    if targets is None or samples is None:
        return
    count = len(next(iter(samples.values())))
    if np.shape(targets) != (count,):
        raise ConversionError(
            f"The targets have shape {np.shape(targets)}; expected ({count},), the class of each "
            "calibration sample."
        )


def check_labels(labels: Sequence[str], model: keras.Model) -> None:
    """Refuse labels that cannot be lines of a file or do not name the values of an output."""
    for label in labels:
        if not label or label.splitlines() != [label]:
            raise ConversionError(
                f"Label {label!r} cannot be stored: labels.txt has one non-empty line per class."
            )
    sizes = [tensor.shape[-1] for tensor in model.outputs]
    binary = sizes == [1] and len(labels) == 2
    if len(labels) not in sizes and not binary:
        raise ConversionError(
            f"{len(labels)} labels do not fit model '{model.name}', which answers with "
            f"{' and '.join(map(str, sizes))} values."
        )
