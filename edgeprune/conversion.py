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

from edgeprune import metadata
from edgeprune.errors import ConversionError
from edgeprune.files import replace_on_success
from edgeprune.noise import captured_stderr

if TYPE_CHECKING:
    import keras

SCHEMES = {
    "float32": "32-bit floats, as trained",
    "float16": "weights in 16-bit floats, half the size; computes in 32 bits on a CPU",
    "dynamic": "weights in 8-bit integers, activations quantized while running",
    "int8": "weights (per channel) and activations in 8-bit integers; needs calibration samples",
}
IO_TYPES = ("float32", "int8", "uint8")

_OTHER_FLOATS = ("float16", "bfloat16", "float64", "mixed_float16", "mixed_bfloat16")

Progress = Callable[[int, int], None]
Samples = np.ndarray | Sequence[np.ndarray] | Mapping[str, np.ndarray]


def convert(
    model: keras.Model,
    *,
    scheme: str = "int8",
    calibration: Samples | None = None,
    labels: Sequence[str] | None = None,
    io: str = "float32",
    path: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> bytes:
    """Convert a Keras model for TensorFlow Lite with a fixed batch of one.

    Boards run one sample at a time and accelerators accept static shapes only. The names of the
    signature are those that `tf.lite.TFLiteConverter.from_keras_model` would give. A model in
    mixed precision is converted in float32.

    Args:
        model: Functional or Sequential; it is not changed.
        scheme: one of `SCHEMES`.
        calibration: preprocessed samples for the value ranges of int8, `(n, ...)`; with several
            inputs a sequence in their order, or a mapping by input name. About 100 are enough.
        labels: class names in the order of the output; they travel inside the file as `labels.txt`.
        io: what goes in and out of an int8 model: "float32" (quantized inside), "int8" or "uint8".
        path: where to write the model as well; an existing file is replaced only by a complete one.
        progress: called with (samples done, samples) during calibration.

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
    _check_choices(scheme, io)
    _check_model(model)
    samples = None
    if scheme == "int8":
        samples = _calibration_samples(calibration, model)
    if labels is not None:
        _check_labels(labels, model)
    with _quiet() as captured:
        try:
            content = _convert(_in_float32(model), scheme, io, samples, progress)
        except ConversionError:
            raise
        except Exception as error:
            failure = ConversionError(_explanation(model, scheme, error))
            failure.add_note(captured())
            raise failure from error
        content = _finish(content, model, scheme, labels)
    if path is not None:
        with replace_on_success(path) as temporary:
            Path(temporary).write_bytes(content)
    return content


def _check_choices(scheme: str, io: str) -> None:
    if scheme not in SCHEMES:
        raise ConversionError(f"Unknown scheme '{scheme}'. Choose one of {', '.join(SCHEMES)}.")
    if io not in IO_TYPES:
        raise ConversionError(f"Unknown io type '{io}'. Choose one of {', '.join(IO_TYPES)}.")
    if io != "float32" and scheme != "int8":
        raise ConversionError(
            f"Input and output in {io} need scheme 'int8'; scheme '{scheme}' has float32 ones."
        )


def _check_model(model: Any) -> None:
    import keras

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
    for tensor in inputs:
        if None in tensor.shape[1:] or tensor.shape[0] not in (None, 1):
            raise ConversionError(
                f"Input '{tensor.name}' of model '{model.name}' has shape {tuple(tensor.shape)}, "
                "but a .tflite needs every size but the batch fixed, and a batch of one. Build the "
                "model again on keras.Input((height, width, channels)) and copy the weights."
            )


def _calibration_samples(calibration: Samples | None, model: keras.Model) -> dict[str, np.ndarray]:
    """Return the samples by input name, each of shape `(n, ...)`."""
    expected = {tensor.name: tuple(tensor.shape[1:]) for tensor in model.inputs}
    wanted = ", ".join(f"'{name}' (n, {str(shape)[1:]}" for name, shape in expected.items())
    wanted = wanted.replace(",)", ")")
    if calibration is None:
        raise ConversionError(
            f"Scheme 'int8' needs calibration samples for the ranges of its integers: {wanted}."
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


def _check_labels(labels: Sequence[str], model: keras.Model) -> None:
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


def _in_float32(model: keras.Model) -> keras.Model:
    """Return the model, or an equal one in float32 when it computes in other floats."""
    from edgeprune.replica import copy_weights, operations_by_path, replicate

    types = {getattr(layer, "compute_dtype", None) for layer in operations_by_path(model).values()}
    if types.isdisjoint(_OTHER_FLOATS):
        return model
    single, made = replicate(
        model,
        lambda path, layer: type(layer).from_config(_float32_config(layer.get_config())),
    )
    copy_weights(model, made)
    return single


def _float32_config(config: Any) -> Any:
    """Replace every dtype (policy) of a config, those of wrapped layers included."""
    if isinstance(config, list | tuple):
        return type(config)(_float32_config(entry) for entry in config)
    if not isinstance(config, dict):
        return config
    return {
        key: "float32" if key == "dtype" and _is_other_float(value) else _float32_config(value)
        for key, value in config.items()
    }


def _is_other_float(dtype: Any) -> bool:
    name = dtype.get("config", {}).get("name") if isinstance(dtype, dict) else dtype
    return name in _OTHER_FLOATS


def _convert(
    model: keras.Model,
    scheme: str,
    io: str,
    samples: Mapping[str, np.ndarray] | None,
    progress: Progress | None,
) -> bytes:
    import tensorflow as tf

    names = {tensor.name: _signature_name(tensor.name) for tensor in model.inputs}
    # Not from_keras_model: it keeps the batch dynamic, and writes to standard output.
    converter = tf.lite.TFLiteConverter.from_concrete_functions(*_trace(model, names))
    if scheme != "float32":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if scheme == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if samples is not None:
        types = {tensor.name: tensor.dtype for tensor in model.inputs}
        total = len(next(iter(samples.values())))

        def representative_dataset() -> Iterator[dict[str, np.ndarray]]:
            for index in range(total):
                yield {
                    names[name]: array[index : index + 1].astype(types[name])
                    for name, array in samples.items()
                }
                if progress is not None:
                    progress(index + 1, total)

        converter.representative_dataset = representative_dataset
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.inference_input_type = converter.inference_output_type = tf.as_dtype(io)
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


def _signature_name(name: str) -> str:
    """Return a name that a TensorFlow signature accepts."""
    return re.sub(r"[^A-Za-z0-9_.\-]", "_", name)


def _finish(content: bytes, model: keras.Model, scheme: str, labels: Sequence[str] | None) -> bytes:
    """Check what the converter wrote, put its tensors in order, and attach the labels."""
    import flatbuffers  # type: ignore[import-untyped]
    from tensorflow.lite.python import schema_py_generated as schema

    parsed = schema.ModelT.InitFromObj(schema.Model.GetRootAs(content, 0))
    if scheme == "int8":
        _check_integer(parsed, model.name)
    _order_tensors(parsed, [_signature_name(tensor.name) for tensor in model.inputs])
    if labels is not None:
        metadata.describe_labels(parsed, model.name, len(labels))
    builder = flatbuffers.Builder(len(content))
    builder.Finish(parsed.Pack(builder), b"TFL3")
    content = bytes(builder.Output())
    if labels is None:
        return content
    return metadata.attach_files(content, {metadata.LABELS: "".join(f"{x}\n" for x in labels)})


def _order_tensors(parsed: Any, inputs: Sequence[str]) -> None:
    """Put inputs and outputs into the order of the Keras model.

    The converter takes them from a hash map, so their order changes from one run to the next.
    """
    subgraph, signature = parsed.subgraphs[0], parsed.signatureDefs[0]
    signature.inputs.sort(key=lambda entry: inputs.index(entry.name.decode()))
    numbered = all(entry.name.startswith(b"output_") for entry in signature.outputs)
    signature.outputs.sort(key=lambda entry: (len(entry.name) * numbered, entry.name))
    subgraph.inputs = [entry.tensorIndex for entry in signature.inputs]
    subgraph.outputs = [entry.tensorIndex for entry in signature.outputs]


def _check_integer(parsed: Any, name: str) -> None:
    """Refuse an int8 model with operators that the converter left in float32."""
    from tensorflow.lite.python import schema_py_generated as schema

    operators = {
        code: operator
        for operator, code in vars(schema.BuiltinOperator).items()
        if not operator.startswith("_")
    }
    left: set[str] = set()
    for subgraph in parsed.subgraphs:
        for operator in subgraph.operators:
            code = parsed.operatorCodes[operator.opcodeIndex]
            kind = operators[max(code.builtinCode, code.deprecatedBuiltinCode)]
            tensors = [subgraph.tensors[i] for i in (*operator.inputs, *operator.outputs) if i >= 0]
            floats = any(tensor.type == schema.TensorType.FLOAT32 for tensor in tensors)
            if floats and kind not in ("QUANTIZE", "DEQUANTIZE"):
                left.add(kind)
    if left:
        raise ConversionError(
            f"Model '{name}' cannot be int8 throughout: TensorFlow Lite leaves "
            f"{', '.join(sorted(left))} in float. Use scheme 'dynamic' or 'float32', "
            "or replace these operators."
        )


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
