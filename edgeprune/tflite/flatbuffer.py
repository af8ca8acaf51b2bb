"""The inside of a `.tflite`: tensors and operators, read with the schema that a runtime brings."""

from __future__ import annotations

import math
from functools import cache
from importlib import import_module
from typing import Any

from edgeprune.errors import EdgepruneError, ModelError

_WIDTHS = {"int8": 1, "uint8": 1, "bool": 1, "int16": 2, "float16": 2, "int64": 8, "float64": 8}
_MODULES = (
    "ai_edge_litert.schema_py_generated",
    "tensorflow.lite.python.schema_py_generated",
)


@cache
def find_schema() -> Any:
    """Return the module with the classes of the TFLite schema.

    Raises:
        EdgepruneError: nothing that is installed brings it.
    """
    for name in _MODULES:
        try:
            return import_module(name)
        except ImportError:
            continue
    raise EdgepruneError(
        "Reading the operators of a .tflite needs ai-edge-litert or TensorFlow: "
        "pip install ai-edge-litert"
    )


def parse_model(content: bytes, name: str = "the model") -> Any:
    """Return the `ModelT` of a `.tflite`.

    Args:
        content: of the file.
        name: how to call it in the message.

    Raises:
        ModelError: it is damaged.
    """
    schema = find_schema()
    try:
        return schema.ModelT.InitFromObj(schema.Model.GetRootAs(content, 0))
    except Exception as error:  # the consumer follows offsets wherever a damaged file points
        raise ModelError(f"{name} is damaged: its operators cannot be read.") from error


def operator_kind(parsed: Any, operator: Any) -> str:
    """Return the name of an operator as the schema spells it: `CONV_2D`; a custom one's own."""
    code = parsed.operatorCodes[operator.opcodeIndex]
    if code.customCode:
        return code.customCode.decode(errors="replace")
    return _operator_names()[max(code.builtinCode, code.deprecatedBuiltinCode)]


def type_name(tensor: Any) -> str:
    """Return the type of a tensor as the schema spells it, in lower case: `int8`."""
    return _type_names()[tensor.type]


def count_activation_bytes(parsed: Any) -> int:
    """Return the most bytes that computed tensors take at one time, run in the file's order.

    A runtime with a perfect memory plan needs this much; real ones need a little more.
    """
    subgraph = parsed.subgraphs[0]
    last = {index: len(subgraph.operators) for index in subgraph.outputs}
    for number in range(len(subgraph.operators) - 1, -1, -1):
        for index in subgraph.operators[number].inputs:
            last.setdefault(int(index), number)
    computed = {
        index: _count_bytes(tensor)
        for index, tensor in enumerate(subgraph.tensors)
        if parsed.buffers[tensor.buffer].data is None
    }
    alive = {int(index) for index in subgraph.inputs}
    most = 0
    for number, operator in enumerate(subgraph.operators):
        alive.update(int(index) for index in operator.outputs)
        most = max(most, sum(computed.get(index, 0) for index in alive))
        alive = {index for index in alive if last.get(index, -1) > number}
    return most


def _count_bytes(tensor: Any) -> int:
    width = _WIDTHS.get(type_name(tensor), 4)
    return width * math.prod(abs(int(size)) for size in tensor.shape)


@cache
def _operator_names() -> dict[int, str]:
    return _names(find_schema().BuiltinOperator)


@cache
def _type_names() -> dict[int, str]:
    return {code: name.lower() for code, name in _names(find_schema().TensorType).items()}


def _names(enumeration: type) -> dict[int, str]:
    return {code: name for name, code in vars(enumeration).items() if not name.startswith("_")}
