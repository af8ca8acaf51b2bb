"""TensorFlow's converter: where Keras ends and TensorFlow Lite begins."""

from __future__ import annotations

import contextlib
import logging
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from edgeprune.errors import ConversionError, EdgepruneError
from edgeprune.support.standard_error import captured_stderr
from edgeprune.tflite.conversion_checks import INT8
from edgeprune.tflite.flatbuffer_edits import list_float_operators
from edgeprune.tracing.keras_internals import restored_scopes

if TYPE_CHECKING:
    import keras


def to_tflite(model: keras.Model, names: Mapping[str, str], scheme: str) -> bytes:
    """Convert to a number format that needs no samples.

    Args:
        model: in float32.
        names: signature name by input name.
        scheme: float32, float16 or dynamic.
    """
    import tensorflow as tf

    # Not from_keras_model: it keeps the batch dynamic, and writes to standard output.
    converter = tf.lite.TFLiteConverter.from_concrete_functions(*_trace(model, names))
    if scheme != "float32":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if scheme == "float16":
        converter.target_spec.supported_types = [tf.float16]
    return converter.convert()


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


class FloatOperatorsError(Exception):
    """Operators of an integer model stayed in float.

    Args:
        kinds: of the operators.
    """

    def __init__(self, kinds: Sequence[str]) -> None:
        super().__init__(", ".join(kinds))
        self.kinds = kinds


def check_integer(parsed: Any) -> None:
    """Refuse an integer model with operators that the quantizer left in float32.

    Raises:
        FloatOperatorsError: that; `explaining` makes a line of it.
    """
    if left := list_float_operators(parsed):
        raise FloatOperatorsError(left)


@contextlib.contextmanager
def explaining(model: keras.Model, scheme: str) -> Iterator[None]:
    """Turn whatever the converter raises into one line, with its own words as a note.

    Raises:
        ConversionError: that line. Other errors of edgeprune pass.
    """
    with _quiet() as captured, restored_scopes():
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
    left = error.kinds if isinstance(error, FloatOperatorsError) else []
    narrow = left or re.findall(r"not yet supported for op: '(\w+)'", text)
    if narrow:
        ways = "Leave it in float with --fallback 1%, or take" if scheme in INT8 else "Take"
        return (
            f"Model '{model.name}' cannot be {scheme} throughout: TensorFlow Lite has no form in "
            f"{'8' if scheme in INT8 else '16'}-bit integers of {_locate(model, narrow)}. "
            f"{ways} --quantize dynamic or float32."
        )
    if scheme == "int16x8" and any("int" in tensor.dtype for tensor in model.inputs):
        return (
            f"Model '{model.name}' takes integers, which TensorFlow Lite cannot do in int16x8. "
            "Take --quantize int8 or dynamic."
        )
    operators = sorted(set(re.findall(r"'tf\.(\w+)' op is neither", text)))
    if operators:
        return (
            f"Model '{model.name}' cannot be converted: TensorFlow Lite has no operator for "
            f"{_locate(model, operators)}. Replace what uses it by other layers."
        )
    reason = text.strip().splitlines()[0] if text.strip() else type(error).__name__
    return f"TensorFlow Lite cannot convert model '{model.name}' to {scheme}: {reason}"


def _locate(model: keras.Model, kinds: Sequence[str]) -> str:
    """Return kinds of operators with the Keras layer that each is in, as far as that is known."""
    import tensorflow as tf

    from edgeprune.tracing.graph import build_graph, run

    def plain(kind: str) -> str:
        return kind.replace("_", "").lower()

    graph = build_graph(model)
    found: dict[str, str] = {}

    def watch(call: Any, args: Any, kwargs: Any) -> Any:
        known = len(tf.compat.v1.get_default_graph().get_operations())
        result = call.operation(*args, **kwargs)
        for made in tf.compat.v1.get_default_graph().get_operations()[known:]:
            found.setdefault(plain(made.type), call.path)
        return result

    with contextlib.suppress(Exception):  # the message is worth more than its details
        tf.function(
            lambda *inputs: run(graph, inputs, watch), autograph=False
        ).get_concrete_function(
            *(tf.TensorSpec((1, *ref.shape[1:]), ref.dtype) for ref in graph.inputs)
        )
    places = {kind: found.get(plain(kind)) for kind in kinds}
    return ", ".join(
        f"{kind} (layer '{place}')" if place else kind for kind, place in places.items()
    )


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
