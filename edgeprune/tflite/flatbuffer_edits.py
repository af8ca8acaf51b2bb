"""What conversion asks of and does to the inside of a `.tflite`, beyond reading it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from edgeprune.tflite.flatbuffer import operator_kind, type_name


def pack(parsed: Any) -> bytes:
    """Return the content of a `.tflite` for a `ModelT`."""
    import flatbuffers  # type: ignore[import-untyped]

    builder = flatbuffers.Builder(1024)
    builder.Finish(parsed.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def activations(parsed: Any) -> Iterator[int]:
    """Yield the float tensors of the first subgraph that are computed or put in, by index."""
    subgraph = parsed.subgraphs[0]
    computed = {index for operator in subgraph.operators for index in operator.outputs}
    for index in sorted(computed | set(subgraph.inputs)):
        if type_name(subgraph.tensors[index]) == "float32":
            yield int(index)


def list_float_operators(parsed: Any) -> list[str]:
    """Return the kinds of operators that compute in float, without those that only convert."""
    left: set[str] = set()
    for subgraph in parsed.subgraphs:
        for operator in subgraph.operators:
            kind = operator_kind(parsed, operator)
            tensors = [subgraph.tensors[i] for i in (*operator.inputs, *operator.outputs) if i >= 0]
            floats = any(type_name(tensor) == "float32" for tensor in tensors)
            if floats and kind not in ("QUANTIZE", "DEQUANTIZE", "CAST"):
                left.add(kind)
    return sorted(left)


def order_tensors(parsed: Any, inputs: list[str]) -> None:
    """Put inputs and outputs into the order of the Keras model.

    The converter takes them from a hash map, so their order changes from one run to the next.

    Args:
        parsed: `ModelT`, changed in place.
        inputs: signature names in the order of the Keras model.
    """
    subgraph, signature = parsed.subgraphs[0], parsed.signatureDefs[0]
    signature.inputs.sort(key=lambda entry: inputs.index(entry.name.decode()))
    numbered = all(entry.name.startswith(b"output_") for entry in signature.outputs)
    signature.outputs.sort(key=lambda entry: (len(entry.name) * numbered, entry.name))
    subgraph.inputs = [entry.tensorIndex for entry in signature.inputs]
    subgraph.outputs = [entry.tensorIndex for entry in signature.outputs]
