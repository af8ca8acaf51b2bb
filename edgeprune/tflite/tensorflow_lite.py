"""TensorFlow's converter: where Keras ends and TensorFlow Lite begins."""

from __future__ import annotations

import contextlib
import logging
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeprune.errors import ConversionError, EdgepruneError
from edgeprune.support.progress import stage
from edgeprune.support.standard_error import captured_stderr

if TYPE_CHECKING:
    import keras


def to_tflite(
    model: keras.Model,
    names: Mapping[str, str],
    scheme: str,
    samples: Mapping[str, np.ndarray] | None = None,
    *,
    io: tuple[str, str] = ("float32", "float32"),
) -> bytes:
    """Convert with TensorFlow's own means, its calibration included.

    Args:
        model: in float32.
        names: signature name by input name.
        scheme: float32, float16, dynamic, int8 or int16x8.
        samples: for the ranges of the last two, by input name.
        io: what goes in and what comes out of an int8 model.
    """
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
    with stage("calibration", total) as advance:

        def representative_dataset() -> Iterator[dict[str, np.ndarray]]:
            for index in range(total):
                yield {
                    names[name]: array[index : index + 1].astype(types[name])
                    for name, array in samples.items()
                }
                advance()

        converter.representative_dataset = representative_dataset
        converter.target_spec.supported_ops = [_OPERATORS[scheme](tf.lite.OpsSet)]
        converter.inference_input_type, converter.inference_output_type = map(tf.as_dtype, io)
        return converter.convert()


_OPERATORS: Mapping[str, Callable[[Any], Any]] = {
    "int8": lambda sets: sets.TFLITE_BUILTINS_INT8,
    "int16x8": lambda sets: sets.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8,
}


def _trace(model: keras.Model, names: Mapping[str, str]) -> tuple[list[Any], Any]:
    """Return the model's function for a batch of one, and what keeps its variables alive."""
    import keras
    import tensorflow as tf

    from edgeprune.tracing.opening import functional_form

    def call(**tensors: Any) -> dict[str, Any]:
        flat = [tensors[name] for name in names.values()]
        inputs = keras.tree.pack_sequence_as(functional_form(model).input, flat)
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
    from edgeprune.tracing.opening import functional_form

    form = functional_form(model)
    return {
        "inputs": [signature_name(tensor.name) for tensor in form.inputs],
        "outputs": list(form.output)
        if isinstance(form.output, dict)
        else [f"output_{index}" for index in range(len(form.outputs))],
    }


def signature_name(name: str) -> str:
    """Return a name that a TensorFlow signature accepts."""
    return re.sub(r"[^A-Za-z0-9_.\-]", "_", name)


@contextlib.contextmanager
def explaining(model: keras.Model, scheme: str) -> Iterator[None]:
    """Turn whatever the converter raises into one line, with its own words as a note.

    Raises:
        ConversionError: that line. Other errors of edgeprune pass.
    """
    with _quiet() as captured:
        try:
            yield
        except EdgepruneError:
            raise
        except Exception as error:
            failure = ConversionError(_explain(model, scheme, error))
            failure.add_note(captured())
            raise failure from error


def _explain(model: keras.Model, scheme: str, error: Exception) -> str:
    """Say in one line why the converter gave up."""
    if isinstance(error, ImportError):
        return f"Conversion needs TensorFlow ({error}): pip install 'edgeprune[tensorflow]'."
    text = str(error)
    narrow = re.search(r"not yet supported for op: '(\w+)'", text)
    if narrow:
        return (
            f"Model '{model.name}' cannot be {scheme}: TensorFlow Lite has no 16-bit form of "
            f"{narrow[1]}. Use scheme 'int8' or 'dynamic', or replace this operator."
        )
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
