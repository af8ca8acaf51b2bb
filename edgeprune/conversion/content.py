"""What is done to the bytes that the converter wrote: checked, put in order, labelled."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from typing import Any

from edgeprune import metadata
from edgeprune.errors import ConversionError


def finish(
    content: bytes,
    model: str,
    inputs: Sequence[str],
    scheme: str,
    labels: Sequence[str] | None,
) -> bytes:
    """Check what the converter wrote, put its tensors in order, and attach the labels.

    Args:
        content: of the `.tflite`.
        model: name of the Keras model.
        inputs: signature names in the order of the Keras model.
        scheme: int8 must be int8 throughout.
        labels: class names, or None.

    Raises:
        ConversionError: operators of an int8 model stayed in float32, or there is no room for
            temporary files.
    """
    import flatbuffers  # type: ignore[import-untyped]
    from tensorflow.lite.python import schema_py_generated as schema

    parsed = schema.ModelT.InitFromObj(schema.Model.GetRootAs(content, 0))
    if not parsed.signatureDefs:  # the converter goes another way when it cannot save the model
        raise ConversionError(
            "TensorFlow could not write the model to the folder for temporary files, "
            f"'{tempfile.gettempdir()}'. Make room there, or name another folder in TMPDIR."
        )
    if scheme == "int8":
        _check_integer(parsed, model)
    _order_tensors(parsed, inputs)
    if labels is not None:
        metadata.describe_labels(parsed, model, len(labels))
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


def _check_integer(parsed: Any, model: str) -> None:
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
            f"Model '{model}' cannot be int8 throughout: TensorFlow Lite leaves "
            f"{', '.join(sorted(left))} in float. Use scheme 'dynamic' or 'float32', "
            "or replace these operators."
        )
