"""Operations of TensorFlow graphs that Keras 2 saved as layers, in terms of `keras.ops`."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops


def call_graph_operation(config: dict[str, Any], inputs: Any) -> Any:
    """Apply the operation that a `TensorFlowOpLayer` stands for.

    Args:
        config: of the layer: its node as protobuf writes it in JSON, and constant operands.
        inputs: a tensor, or a list of them.
    """
    node = config["node_def"]
    operands = list(inputs) if isinstance(inputs, list | tuple) else [inputs]
    for position, value in sorted((int(k), v) for k, v in (config.get("constants") or {}).items()):
        operands.insert(position, value)
    attributes = {name: _attribute(value) for name, value in (node.get("attr") or {}).items()}
    return GRAPH_OPERATIONS[node["op"]](operands, attributes)


def _attribute(value: dict[str, Any]) -> Any:
    kind, content = next(iter(value.items()), ("", None))
    if kind == "i":
        return int(str(content))
    if kind == "s":
        return base64.b64decode(str(content)).decode("ascii")
    if kind == "list" and isinstance(content, dict):
        return [_attribute({kind: one}) for kind, many in content.items() for one in many]
    return content


def axes(axis: Any) -> Any:
    """Give axes in the form that Keras takes."""
    return tuple(axis) if isinstance(axis, list) else axis


def reduction(operation: Callable[..., Any]) -> Callable[..., Any]:
    """Give a reduction of TensorFlow by that of Keras."""

    def reduce(input_tensor: Any, axis: Any = None, keepdims: bool = False) -> Any:
        return operation(input_tensor, axis=axes(axis), keepdims=bool(keepdims))

    return reduce


def constant(value: Any) -> Any:
    """Give numbers that a file lists as an array, and anything else as it is."""
    is_list = isinstance(value, list) and not any(map(keras.utils.is_keras_tensor, value))
    array = np.asarray(value) if is_list else None
    if array is None:
        return value
    return array.astype("float32") if array.dtype.kind == "f" else array


def matmul(a: Any, b: Any, transpose_a: bool = False, transpose_b: bool = False) -> Any:
    """Multiply matrices."""
    a, b = constant(a), constant(b)
    a = ops.swapaxes(a, -1, -2) if transpose_a else a
    return ops.matmul(a, ops.swapaxes(b, -1, -2) if transpose_b else b)


def pool(kind: str, x: Any, size: Any, strides: Any, padding: str, data_format: str) -> Any:
    """Pool over height and width; sizes are written for one, two or all four axes."""
    require_channels_last(data_format)
    function = ops.max_pool if kind == "max" else ops.average_pool
    height_and_width = _two(size)
    return function(x, height_and_width, _two(strides), padding.lower(), "channels_last")


def _two(sizes: Any) -> tuple[int, int]:
    sizes = sizes if isinstance(sizes, list | tuple) else [sizes]
    if len(sizes) == 4 and (sizes[0], sizes[3]) != (1, 1):
        raise ValueError("it pools over samples or channels")
    inner = list(sizes[1:3]) if len(sizes) == 4 else list(sizes)
    return int(inner[0]), int(inner[-1])


def require_channels_last(data_format: str | None) -> None:
    """Refuse the other order of axes.

    Raises:
        ValueError: it is meant.
    """
    if str(data_format or "NHWC").startswith("NC"):
        raise ValueError("channels first has no counterpart here")


def bias_add(value: Any, bias: Any, data_format: str | None = None) -> Any:
    """Add one number per channel."""
    require_channels_last(data_format)
    return ops.add(value, constant(bias))


def space_to_depth(x: Any, block_size: int, data_format: str = "NHWC") -> Any:
    """Move blocks of neighbours into the channels."""
    require_channels_last(data_format)
    _, height, width, channels = x.shape
    rows, columns = height // block_size, width // block_size
    blocks = ops.reshape(x, (-1, rows, block_size, columns, block_size, channels))
    moved = ops.transpose(blocks, (0, 1, 3, 2, 4, 5))
    return ops.reshape(moved, (-1, rows, columns, block_size * block_size * channels))


def depth_to_space(x: Any, block_size: int, data_format: str = "NHWC") -> Any:
    """Move channels out into blocks of neighbours."""
    require_channels_last(data_format)
    _, rows, columns, channels = x.shape
    depth = channels // (block_size * block_size)
    blocks = ops.reshape(x, (-1, rows, columns, block_size, block_size, depth))
    moved = ops.transpose(blocks, (0, 1, 3, 2, 4, 5))
    return ops.reshape(moved, (-1, rows * block_size, columns * block_size, depth))


def local_response_normalization(
    input: Any, depth_radius: int = 5, bias: float = 1.0, alpha: float = 1.0, beta: float = 0.5
) -> Any:
    """Divide by what the neighbouring channels sum up to."""
    channels = input.shape[-1]
    padding = [[0, 0]] * (len(input.shape) - 1) + [[depth_radius, depth_radius]]
    squares = ops.pad(ops.square(input), padding)
    total = squares[..., :channels]
    for shift in range(1, 2 * depth_radius + 1):
        total = ops.add(total, squares[..., shift : shift + channels])
    return ops.divide(input, ops.power(ops.add(bias, ops.multiply(alpha, total)), beta))


def _reduced(operation: Callable[..., Any]) -> Callable[..., Any]:
    return lambda x, attributes: operation(
        x[0], axis=axes(x[1]), keepdims=bool(attributes.get("keep_dims"))
    )


def _same(name: str) -> Callable[..., Any]:
    return lambda x, _: getattr(ops, name)(*map(constant, x))


def _pooled(kind: str) -> Callable[..., Any]:
    def pooled(x: list[Any], attributes: dict[str, Any]) -> Any:
        size, strides, padding = (attributes[name] for name in ("ksize", "strides", "padding"))
        order = attributes.get("data_format", "NHWC")
        return pool(kind, x[0], size, strides, padding, order)

    return pooled


# Operations of the same meaning and order of arguments, by their name in Keras.
_SAME = {
    "Abs": "abs", "Add": "add", "AddV2": "add", "Ceil": "ceil", "Cos": "cos", "Elu": "elu",
    "Equal": "equal", "Erf": "erf", "Exp": "exp", "ExpandDims": "expand_dims", "Floor": "floor",
    "FloorDiv": "floor_divide", "FloorMod": "mod", "Greater": "greater",
    "GreaterEqual": "greater_equal", "Less": "less", "LessEqual": "less_equal", "Log": "log",
    "LogicalAnd": "logical_and", "LogicalNot": "logical_not", "LogicalOr": "logical_or",
    "Maximum": "maximum", "Minimum": "minimum", "Mul": "multiply", "Neg": "negative",
    "NotEqual": "not_equal", "OnesLike": "ones_like", "Pow": "power", "RealDiv": "true_divide",
    "Relu": "relu", "Relu6": "relu6", "Round": "round", "Rsqrt": "rsqrt", "Select": "where",
    "SelectV2": "where", "Selu": "selu", "Sigmoid": "sigmoid", "Sign": "sign", "Sin": "sin",
    "Softmax": "softmax", "Softplus": "softplus", "Sqrt": "sqrt", "Square": "square",
    "Sub": "subtract", "Tanh": "tanh", "Tile": "tile", "Transpose": "transpose",
    "ZerosLike": "zeros_like",
}  # fmt: skip

GRAPH_OPERATIONS: dict[str, Callable[[list[Any], dict[str, Any]], Any]] = {
    **{name: _same(keras_name) for name, keras_name in _SAME.items()},
    "ArgMax": lambda x, _: ops.argmax(x[0], axis=x[1]),
    "AvgPool": _pooled("average"),
    "BiasAdd": lambda x, attributes: bias_add(x[0], x[1], attributes.get("data_format")),
    "ConcatV2": lambda x, _: ops.concatenate(x[:-1], axis=x[-1]),
    "DepthToSpace": lambda x, attributes: depth_to_space(
        x[0], attributes["block_size"], attributes.get("data_format", "NHWC")
    ),
    "Einsum": lambda x, attributes: ops.einsum(attributes["equation"], *map(constant, x)),
    "GatherV2": lambda x, _: ops.take(x[0], x[1], axis=x[2]),
    "Identity": lambda x, _: x[0],
    "MatMul": lambda x, attributes: matmul(
        x[0], x[1], attributes.get("transpose_a", False), attributes.get("transpose_b", False)
    ),
    "Max": _reduced(ops.max),
    "MaxPool": _pooled("max"),
    "Mean": _reduced(ops.mean),
    "Min": _reduced(ops.min),
    "Pack": lambda x, attributes: ops.stack(x, axis=attributes.get("axis", 0)),
    "Pad": lambda x, _: ops.pad(*x),
    "Prod": _reduced(ops.prod),
    "Reshape": lambda x, _: ops.reshape(*x),
    "ReverseV2": lambda x, _: ops.flip(x[0], axes(x[1])),
    "SpaceToDepth": lambda x, attributes: space_to_depth(
        x[0], attributes["block_size"], attributes.get("data_format", "NHWC")
    ),
    "Sum": _reduced(ops.sum),
}
