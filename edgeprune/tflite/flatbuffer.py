"""The inside of a `.tflite`: tensors and operators, read with the schema that a runtime brings."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from typing import Any

from edgeprune.errors import EdgepruneError, ModelError

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


@cache
def _operator_names() -> dict[int, str]:
    return _names(find_schema().BuiltinOperator)


@cache
def _type_names() -> dict[int, str]:
    return {code: name.lower() for code, name in _names(find_schema().TensorType).items()}


def _names(enumeration: type) -> dict[int, str]:
    return {code: name for name, code in vars(enumeration).items() if not name.startswith("_")}
