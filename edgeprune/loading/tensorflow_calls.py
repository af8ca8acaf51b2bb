"""Calls into TensorFlow that Keras 2 saved as layers, in terms of `keras.ops`.

Keras 2 turned `x * 2`, `tf.concat(...)` and the like into layers that look a TensorFlow symbol up
by the name in the file, any symbol, `io.write_file` included. Only the names listed here pass.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any

import keras
from keras import ops

_NAMESPACES = frozenset({"", "math", "nn", "linalg", "__operators__", "image"})


def called_function(class_name: str, config: dict[str, Any]) -> str:
    """Give the TensorFlow symbol, or the graph operation, that a layer of Keras 2 calls."""
    if class_name == "TensorFlowOpLayer":
        node = config.get("node_def")
        return f"graph operation {node.get('op')}" if isinstance(node, dict) else "binary node_def"
    return str(config.get("function", config.get("symbol")))


def is_known(function: str) -> bool:
    """Say whether a TensorFlow symbol or graph operation has a counterpart here."""
    if function.startswith("graph operation "):
        return function.removeprefix("graph operation ") in _GRAPH_OPERATIONS
    return _short_name(function) in _FUNCTIONS


def call(class_name: str, config: dict[str, Any], inputs: Any, arguments: dict[str, Any]) -> Any:
    """Apply the call that a layer of Keras 2 stands for.

    Args:
        class_name: `TFOpLambda`, `SlicingOpLambda` or `TensorFlowOpLayer`.
        config: the layer's configuration.
        inputs: the first argument: a tensor, a constant, or a list of them.
        arguments: the others, by TensorFlow's names.

    Returns:
        A tensor, or a list of them.
    """
    if class_name == "TensorFlowOpLayer":
        return _call_graph_operation(config, inputs)
    function = _FUNCTIONS[_short_name(called_function(class_name, config))]
    given = {
        name: value
        for name, value in arguments.items()
        if value is not None and name not in {"name", "conjugate"}
    }
    return function(inputs, **given)


def _short_name(function: str) -> str:
    namespace, _, name = function.removeprefix("compat.v1.").rpartition(".")
    return name if namespace in _NAMESPACES and (namespace == "image") == (name == "resize") else ""


def _axes(axis: Any) -> Any:
    return tuple(axis) if isinstance(axis, list) else axis


def _reduction(operation: Callable[..., Any]) -> Callable[..., Any]:
    def reduce(x: Any, axis: Any = None, keepdims: bool = False) -> Any:
        return operation(x, axis=_axes(axis), keepdims=bool(keepdims))

    return reduce


def _split(value: Any, num_or_size_splits: Any, axis: int = 0) -> Any:
    if isinstance(num_or_size_splits, int):
        return ops.split(value, num_or_size_splits, axis=axis)
    return ops.split(value, list(accumulate(num_or_size_splits))[:-1], axis=axis)


def _pad(
    tensor: Any, paddings: Sequence[Any], mode: str = "CONSTANT", constant_values: float = 0
) -> Any:
    if mode.lower() == "constant":
        return ops.pad(tensor, paddings, "constant", constant_values=constant_values)
    return ops.pad(tensor, paddings, mode.lower())


def _matmul(a: Any, b: Any, transpose_a: bool = False, transpose_b: bool = False) -> Any:
    a = ops.swapaxes(a, -1, -2) if transpose_a else a
    b = ops.swapaxes(b, -1, -2) if transpose_b else b
    return ops.matmul(a, b)


def _l2_normalize(x: Any, axis: Any = -1, epsilon: float = 1e-12) -> Any:
    square_sum = ops.sum(ops.square(x), axis=_axes(axis), keepdims=True)
    return ops.multiply(x, ops.rsqrt(ops.maximum(square_sum, epsilon)))


def _resize(
    images: Any,
    size: Sequence[int],
    method: str = "bilinear",
    antialias: bool = False,
    preserve_aspect_ratio: bool = False,
) -> Any:
    if preserve_aspect_ratio:
        raise ValueError("preserve_aspect_ratio has no counterpart in Keras")
    return ops.image.resize(
        images, size, method, antialias, data_format=keras.config.image_data_format()
    )


def _getitem(tensor: Any, slice_spec: Any) -> Any:
    specs = slice_spec if isinstance(slice_spec, list) else [slice_spec]
    return tensor[tuple(_index(spec) for spec in specs)]


def _index(spec: Any) -> Any:
    if isinstance(spec, dict):
        if spec.get("class_name") == "__ellipsis__":
            return Ellipsis
        return slice(spec["start"], spec["stop"], spec["step"])
    return spec


_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "abs": lambda x: ops.abs(x),
    "add": lambda x, y: ops.add(x, y),
    "add_n": lambda inputs: keras.layers.Add()(inputs),
    "cast": lambda x, dtype: ops.cast(x, dtype),
    "clip_by_value": lambda t, clip_value_min, clip_value_max: ops.clip(
        t, clip_value_min, clip_value_max
    ),
    "concat": lambda values, axis: ops.concatenate(values, axis=axis),
    "depth_to_space": lambda x, block_size: ops.depth_to_space(x, block_size),
    "divide": lambda x, y: ops.true_divide(x, y),
    "elu": lambda features: ops.elu(features),
    "exp": lambda x: ops.exp(x),
    "expand_dims": lambda x, axis: ops.expand_dims(x, axis),
    "gelu": lambda features, approximate=False: ops.gelu(features, approximate=approximate),
    "getitem": _getitem,
    "identity": lambda x: x,
    "l2_normalize": _l2_normalize,
    "leaky_relu": lambda features, alpha=0.2: ops.leaky_relu(features, negative_slope=alpha),
    "log": lambda x: ops.log(x),
    "matmul": _matmul,
    "maximum": lambda x, y: ops.maximum(x, y),
    "minimum": lambda x, y: ops.minimum(x, y),
    "multiply": lambda x, y: ops.multiply(x, y),
    "neg": lambda x: ops.negative(x),
    "negative": lambda x: ops.negative(x),
    "pad": _pad,
    "pow": lambda x, y: ops.power(x, y),
    "reduce_max": _reduction(ops.max),
    "reduce_mean": _reduction(ops.mean),
    "reduce_min": _reduction(ops.min),
    "reduce_sum": _reduction(ops.sum),
    "relu": lambda features: ops.relu(features),
    "relu6": lambda features: ops.relu6(features),
    "reshape": lambda tensor, shape: ops.reshape(tensor, shape),
    "resize": _resize,
    "rsqrt": lambda x: ops.rsqrt(x),
    "selu": lambda features: ops.selu(features),
    "sigmoid": lambda x: ops.sigmoid(x),
    "silu": lambda features: ops.silu(features),
    "softmax": lambda logits, axis=-1: ops.softmax(logits, axis=axis),
    "softplus": lambda features: ops.softplus(features),
    "split": _split,
    "sqrt": lambda x: ops.sqrt(x),
    "square": lambda x: ops.square(x),
    "squeeze": lambda x, axis=None: ops.squeeze(x, _axes(axis)),
    "stack": lambda values, axis=0: ops.stack(values, axis=axis),
    "sub": lambda x, y: ops.subtract(x, y),
    "subtract": lambda x, y: ops.subtract(x, y),
    "swish": lambda features: ops.silu(features),
    "tanh": lambda x: ops.tanh(x),
    "tile": lambda x, multiples: ops.tile(x, multiples),
    "transpose": lambda a, perm=None: ops.transpose(a, perm),
    "truediv": lambda x, y: ops.true_divide(x, y),
    "unstack": lambda value, num=None, axis=0: ops.unstack(value, num, axis=axis),
}


def _call_graph_operation(config: dict[str, Any], inputs: Any) -> Any:
    node = config["node_def"]
    operands = list(inputs) if isinstance(inputs, list | tuple) else [inputs]
    for position, value in sorted((int(k), v) for k, v in (config.get("constants") or {}).items()):
        operands.insert(position, value)
    attributes = {name: _attribute(value) for name, value in (node.get("attr") or {}).items()}
    return _GRAPH_OPERATIONS[node["op"]](operands, attributes)


def _attribute(value: dict[str, Any]) -> Any:
    kind, content = next(iter(value.items()), ("", None))
    return int(str(content)) if kind == "i" else content


def _graph_reduction(operation: Callable[..., Any]) -> Callable[..., Any]:
    return lambda x, attributes: operation(
        x[0], axis=_axes(x[1]), keepdims=bool(attributes.get("keep_dims"))
    )


_GRAPH_OPERATIONS: dict[str, Callable[[list[Any], dict[str, Any]], Any]] = {
    "Add": lambda x, _: ops.add(*x),
    "AddV2": lambda x, _: ops.add(*x),
    "ConcatV2": lambda x, _: ops.concatenate(x[:-1], axis=x[-1]),
    "Exp": lambda x, _: ops.exp(*x),
    "ExpandDims": lambda x, _: ops.expand_dims(*x),
    "Identity": lambda x, _: x[0],
    "MatMul": lambda x, attributes: _matmul(
        x[0], x[1], attributes.get("transpose_a", False), attributes.get("transpose_b", False)
    ),
    "Max": _graph_reduction(ops.max),
    "Maximum": lambda x, _: ops.maximum(*x),
    "Mean": _graph_reduction(ops.mean),
    "Minimum": lambda x, _: ops.minimum(*x),
    "Mul": lambda x, _: ops.multiply(*x),
    "Neg": lambda x, _: ops.negative(*x),
    "Pack": lambda x, attributes: ops.stack(x, axis=attributes.get("axis", 0)),
    "Pad": lambda x, _: _pad(*x),
    "Pow": lambda x, _: ops.power(*x),
    "RealDiv": lambda x, _: ops.true_divide(*x),
    "Relu": lambda x, _: ops.relu(*x),
    "Relu6": lambda x, _: ops.relu6(*x),
    "Reshape": lambda x, _: ops.reshape(*x),
    "Rsqrt": lambda x, _: ops.rsqrt(*x),
    "Sigmoid": lambda x, _: ops.sigmoid(*x),
    "Softmax": lambda x, _: ops.softmax(*x),
    "Sqrt": lambda x, _: ops.sqrt(*x),
    "Square": lambda x, _: ops.square(*x),
    "Sub": lambda x, _: ops.subtract(*x),
    "Sum": _graph_reduction(ops.sum),
    "Tanh": lambda x, _: ops.tanh(*x),
    "Tile": lambda x, _: ops.tile(*x),
    "Transpose": lambda x, _: ops.transpose(*x),
}
