"""Keras to `.tflite`, for one sample at a time, in the number format the board is good at."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeprune.conversion.attachments import describe_model
from edgeprune.conversion.checks import (
    Samples,
    check_choices,
    check_input,
    check_labels,
    check_model,
    read_calibration,
)
from edgeprune.conversion.content import finish
from edgeprune.datasets.preprocessing import Preprocess, parse_preprocess
from edgeprune.errors import ConversionError, EdgepruneError
from edgeprune.files import replace_on_success
from edgeprune.noise import captured_stderr
from edgeprune.progress import SILENT, Progress

if TYPE_CHECKING:
    import keras

DRAFT_SAMPLES = 4


def convert(
    model: keras.Model,
    *,
    scheme: str = "int8",
    calibration: Samples | None = None,
    labels: Sequence[str] | None = None,
    io: str = "float32",
    input: str | None = None,
    preprocess: str | Preprocess | None = None,
    provenance: Mapping[str, Any] | None = None,
    path: str | os.PathLike[str] | None = None,
    progress: Progress = SILENT,
) -> bytes:
    """Convert a Keras model for TensorFlow Lite with a fixed batch of one.

    Boards run one sample at a time and accelerators accept static shapes only. The names of the
    signature are those that `tf.lite.TFLiteConverter.from_keras_model` would give. A model in
    mixed precision is converted in float32.

    Args:
        model: Functional or Sequential; it is not changed.
        scheme: one of `edgeprune.conversion.SCHEMES`.
        calibration: preprocessed samples for the value ranges of int8, `(n, ...)`; with several
            inputs a sequence in their order, or a mapping by input name. About 100 are enough.
        labels: class names in the order of the output; they travel inside the file as `labels.txt`.
        io: what goes in and out of an int8 model: "float32" (quantized inside), "int8" or "uint8".
        input: "uint8" puts the scaling of `preprocess` inside the model, which then takes stored
            values, 0 to 255, in every scheme; by default the input is as `io` says and scaled
            outside.
        preprocess: how stored values become inputs: raw, unit, symmetric or
            'standardize:mean=..;std=..'; written into the file for whoever prepares the samples.
        provenance: how the model came about, written into the file as JSON.
        path: where to write the model as well; an existing file is replaced only by a complete one.
        progress: told after every calibration sample.

    Returns:
        The content of the `.tflite` file.

    Raises:
        ConversionError: the model, the samples or the labels do not fit, or TensorFlow Lite has no
            form for an operator. What the converter wrote is in the notes of the exception.

    Example:
        >>> import keras                                                     # doctest: +SKIP
        >>> model = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten(),
        ...                           keras.layers.Dense(3)])                # doctest: +SKIP
        >>> content = convert(model, scheme="float32", labels=["cat", "dog", "fox"],
        ...                   path="model.tflite")                           # doctest: +SKIP
    """
    from edgeprune.conversion.raw_input import take_bytes
    from edgeprune.precision import in_float32

    check_choices(scheme, io)
    given = None if preprocess is None else parse_preprocess(preprocess)
    check_model(model)
    inside = check_input(input, given, model)
    samples = read_calibration(calibration, model) if scheme == "int8" else None
    if labels is not None:
        check_labels(labels, model)
    names = {tensor.name: _signature_name(tensor.name) for tensor in model.inputs}
    with _explaining(model, scheme):
        source = in_float32(model)
        raw = None if inside is None else take_bytes(source, inside, scheme, samples)
        if raw is not None:
            source, samples = raw.model, raw.samples
        content = _convert(source, names, scheme, (input or io, io), samples, progress)
        attachments = describe_model(model, labels, given, inside is not None, provenance)
        content = finish(content, model.name, list(names.values()), scheme, attachments, raw)
    if path is not None:
        with replace_on_success(path) as temporary:
            Path(temporary).write_bytes(content)
    return content


def draft(model: keras.Model) -> bytes:
    """Convert a model to int8 with ranges made up, to look at its operators; its answers are wrong.

    What has no form in int8 stays in float.

    Args:
        model: Functional or Sequential, with inputs of fixed size; it is not changed.

    Raises:
        ConversionError: TensorFlow Lite has no form at all for an operator.
    """
    from edgeprune.precision import in_float32

    check_model(model)
    generator = np.random.default_rng(0)
    samples = {
        tensor.name: generator.uniform(0, 1, (DRAFT_SAMPLES, *tensor.shape[1:]))
        for tensor in model.inputs
    }
    names = {tensor.name: _signature_name(tensor.name) for tensor in model.inputs}
    types = ("float32", "float32")
    with _explaining(model, "int8"):
        return _convert(in_float32(model), names, "int8", types, samples, SILENT)


@contextlib.contextmanager
def _explaining(model: keras.Model, scheme: str) -> Iterator[None]:
    """Turn whatever the converter raises into one line, with its own words as a note."""
    with _quiet() as captured:
        try:
            yield
        except EdgepruneError:
            raise
        except Exception as error:
            failure = ConversionError(_explanation(model, scheme, error))
            failure.add_note(captured())
            raise failure from error


def _convert(
    model: keras.Model,
    names: Mapping[str, str],
    scheme: str,
    io: tuple[str, str],
    samples: Mapping[str, np.ndarray] | None,
    progress: Progress,
) -> bytes:
    import tensorflow as tf

    # Not from_keras_model: it keeps the batch dynamic, and writes to standard output.
    converter = tf.lite.TFLiteConverter.from_concrete_functions(*_trace(model, names))
    if scheme != "float32":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if scheme == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if samples is None:
        return converter.convert()
    total = len(next(iter(samples.values())))
    types = {tensor.name: tensor.dtype for tensor in model.inputs}
    with progress.stage("calibration", total) as advance:

        def representative_dataset() -> Iterator[dict[str, np.ndarray]]:
            for index in range(total):
                yield {
                    names[name]: array[index : index + 1].astype(types[name])
                    for name, array in samples.items()
                }
                advance()

        converter.representative_dataset = representative_dataset
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.inference_input_type, converter.inference_output_type = map(tf.as_dtype, io)
        return converter.convert()


def _trace(model: keras.Model, names: Mapping[str, str]) -> tuple[list[Any], Any]:
    """Return the model's function for a batch of one, and what keeps its variables alive."""
    import keras
    import tensorflow as tf

    def call(**tensors: Any) -> dict[str, Any]:
        flat = [tensors[name] for name in names.values()]
        single = isinstance(model, keras.Sequential)
        inputs = flat[0] if single else keras.tree.pack_sequence_as(model.input, flat)
        outputs = model(inputs, training=False)
        if isinstance(outputs, dict):
            return outputs
        return {f"output_{i}": tensor for i, tensor in enumerate(keras.tree.flatten(outputs))}

    specifications = {
        names[tensor.name]: tf.TensorSpec((1, *tensor.shape[1:]), tensor.dtype, names[tensor.name])
        for tensor in model.inputs
    }
    holder = tf.Module()
    holder.kept = [variable.value for variable in model.variables]
    function = tf.function(call, autograph=False)
    return [function.get_concrete_function(**specifications)], holder


def signature_names(model: keras.Model) -> dict[str, list[str]]:
    """Return the names that the inputs and outputs of a model have in its `.tflite`, in order."""
    output = model.output if not isinstance(model.output, (list, tuple)) else None
    return {
        "inputs": [_signature_name(tensor.name) for tensor in model.inputs],
        "outputs": list(output)
        if isinstance(output, dict)
        else [f"output_{index}" for index in range(len(model.outputs))],
    }


def _signature_name(name: str) -> str:
    """Return a name that a TensorFlow signature accepts."""
    return re.sub(r"[^A-Za-z0-9_.\-]", "_", name)


def _explanation(model: keras.Model, scheme: str, error: Exception) -> str:
    """Say in one line why the converter gave up."""
    if isinstance(error, ImportError):
        return f"Conversion needs TensorFlow ({error}): pip install 'edgeprune[tensorflow]'."
    text = str(error)
    operators = sorted(set(re.findall(r"'tf\.(\w+)' op is neither", text)))
    if operators:
        return (
            f"Model '{model.name}' cannot be converted: TensorFlow Lite has no operator for "
            f"{', '.join(operators)}. Replace the layers that use them."
        )
    reason = text.strip().splitlines()[0] if text.strip() else type(error).__name__
    return f"TensorFlow Lite cannot convert model '{model.name}' to {scheme}: {reason}"


@contextlib.contextmanager
def _quiet() -> Iterator[Callable[[], str]]:
    """Keep TensorFlow's remarks, from C++ and from Python, off the terminal."""
    loggers = [logging.getLogger(name) for name in ("tensorflow", "absl")]
    levels = [logger.level for logger in loggers]
    with captured_stderr() as captured, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield captured
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
