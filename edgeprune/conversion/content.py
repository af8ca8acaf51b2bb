"""What is done to the bytes that the converter wrote: checked, put in order, labelled."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from edgeprune import metadata
from edgeprune.errors import ConversionError
from edgeprune.flatbuffer import operator_kind, parse_model, type_name

if TYPE_CHECKING:
    from edgeprune.conversion.raw_input import RawInput


def finish(
    content: bytes,
    model: str,
    inputs: Sequence[str],
    scheme: str,
    files: Mapping[str, str],
    raw: RawInput | None = None,
) -> bytes:
    """Check what the converter wrote, put its tensors in order, and attach what travels along.

    Args:
        content: of the `.tflite`.
        model: name of the Keras model.
        inputs: signature names in the order of the Keras model.
        scheme: int8 must be int8 throughout.
        files: text by name of file, to attach; `labels.txt` names the values of the output.
        raw: what the bytes of the input mean, where the scaling is inside.

    Raises:
        ConversionError: operators of an int8 model stayed in float32, or there is no room for
            temporary files.
    """
    import flatbuffers  # type: ignore[import-untyped]

    parsed = parse_model(content)
    if not parsed.signatureDefs:  # the converter goes another way when it cannot save the model
        raise ConversionError(
            "TensorFlow could not write the model to the folder for temporary files, "
            f"'{tempfile.gettempdir()}'. Make room there, or name another folder in TMPDIR."
        )
    if scheme == "int8":
        _check_integer(parsed, model)
    _order_tensors(parsed, inputs)
    if raw is not None:
        raw.describe(parsed)
    if files:
        labels = files.get(metadata.LABELS, "").splitlines()
        metadata.describe_model(parsed, model, len(labels), list(files))
    builder = flatbuffers.Builder(len(content))
    builder.Finish(parsed.Pack(builder), b"TFL3")
    content = bytes(builder.Output())
    return metadata.attach_files(content, files) if files else content


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
    left: set[str] = set()
    for subgraph in parsed.subgraphs:
        for operator in subgraph.operators:
            kind = operator_kind(parsed, operator)
            tensors = [subgraph.tensors[i] for i in (*operator.inputs, *operator.outputs) if i >= 0]
            floats = any(type_name(tensor) == "float32" for tensor in tensors)
            if floats and kind not in ("QUANTIZE", "DEQUANTIZE"):
                left.add(kind)
    if left:
        raise ConversionError(
            f"Model '{model}' cannot be int8 throughout: TensorFlow Lite leaves "
            f"{', '.join(sorted(left))} in float. Use scheme 'dynamic' or 'float32', "
            "or replace these operators."
        )
