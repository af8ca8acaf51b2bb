"""Calls into TensorFlow that Keras 2 saved as layers, in terms of `keras.ops`.

Keras 2 turned `x * 2`, `tf.concat(...)` and the like into layers that look a TensorFlow symbol up
by the name in the file, any symbol, `io.write_file` included. Only the names listed here pass.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any

import keras
import numpy as np
from keras import ops

from edgeprune.loading.graph_operations import (
    GRAPH_OPERATIONS,
    axes,
    bias_add,
    call_graph_operation,
    constant,
    depth_to_space,
    local_response_normalization,
    matmul,
    pool,
    reduction,
    space_to_depth,
)
from edgeprune.loading.symbolic_sizes import (
    Open,
    Sizes,
    as_list,
    broadcast_to,
    filled,
    is_size,
    on_sizes,
    reshape,
    shape_of,
)

_NAMESPACES = frozenset({"", "math", "nn", "linalg", "__operators__", "image"})
_IMAGE = frozenset({"resize", "rgb_to_grayscale", "flip_left_right", "flip_up_down"})


def called_function(class_name: str, config: dict[str, Any]) -> str:
    """Give the TensorFlow symbol, or the graph operation, that a layer of Keras 2 calls."""
    if class_name == "TensorFlowOpLayer":
        node = config.get("node_def")
        return f"graph operation {node.get('op')}" if isinstance(node, dict) else "binary node_def"
    return str(config.get("function", config.get("symbol")))


def is_known(function: str) -> bool:
    """Say whether a TensorFlow symbol or graph operation has a counterpart here."""
    if function.startswith("graph operation "):
        return function.removeprefix("graph operation ") in GRAPH_OPERATIONS
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
        return call_graph_operation(config, inputs)
    function = _FUNCTIONS[_short_name(called_function(class_name, config))]
    given = {
        name: value
        for name, value in arguments.items()
        if value is not None and name not in {"name", "conjugate"}
    }
    try:
        inspect.signature(function).bind(inputs, **given)
    except TypeError as error:
        stated = ", ".join(sorted(given)) or "none"
        raise ValueError(
            f"the file states other arguments of the call than are known here ({stated})"
        ) from error
    return function(inputs, **given)


def _short_name(function: str) -> str:
    namespace, _, name = function.removeprefix("compat.v1.").rpartition(".")
    return name if namespace in _NAMESPACES and (namespace == "image") == (name in _IMAGE) else ""


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


def _l2_normalize(x: Any, axis: Any = -1, epsilon: float = 1e-12) -> Any:
    square_sum = ops.sum(ops.square(x), axis=axes(axis), keepdims=True)
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
    keys = tuple(_index(spec) for spec in specs)
    if isinstance(tensor, Sizes):
        found = tensor.values[keys[0]]
        return Sizes(found) if isinstance(found, tuple) else found
    return tensor[keys]


def _index(spec: Any) -> Any:
    if isinstance(spec, dict):
        if spec.get("class_name") == "__ellipsis__":
            return Ellipsis
        return slice(spec["start"], spec["stop"], spec["step"])
    return spec


def _slice(tensor: Any, begin: Any, size: Any) -> Any:
    keys = []
    for start, count in zip(as_list(begin), as_list(size), strict=True):
        is_known = isinstance(start, int) and isinstance(count, int) and count != -1
        keys.append(slice(start, start + count if is_known else None))  # type: ignore[operator]
    return tensor[tuple(keys)]


def _strided_slice(
    tensor: Any,
    begin: Any,
    end: Any,
    strides: Any = None,
    begin_mask: int = 0,
    end_mask: int = 0,
    shrink_axis_mask: int = 0,
) -> Any:
    first, last = as_list(begin), as_list(end)
    steps = [1] * len(first) if strides is None else as_list(strides)
    keys: list[Any] = []
    for axis, (start, stop, step) in enumerate(zip(first, last, steps, strict=True)):
        bit = 1 << axis
        is_open = end_mask & bit or isinstance(stop, Open)
        keys.append(slice(None if begin_mask & bit else start, None if is_open else stop, step))
        if shrink_axis_mask & bit:
            keys[-1] = start
    if isinstance(tensor, Sizes):
        found = tensor.values[keys[0]]
        return Sizes(found) if isinstance(found, tuple) else found
    return tensor[tuple(keys)]


def _gather(params: Any, indices: Any, axis: Any = None, batch_dims: int = 0) -> Any:
    if batch_dims:
        raise ValueError("batch_dims has no counterpart in Keras")
    return ops.take(params, indices, axis=axis or 0)


def _gather_nd(params: Any, indices: Any, batch_dims: int = 0, bad_indices_policy: str = "") -> Any:
    """Take what the last axis of the indices points at, within each sample or across all."""
    indices = ops.cast(constant(indices), "int32")
    depth, rest = indices.shape[-1], params.shape[batch_dims + indices.shape[-1] :]
    sizes = params.shape[batch_dims : batch_dims + depth]
    if batch_dims > 1 or None in (*sizes[1:], *rest) or (batch_dims and None in sizes):
        raise ValueError("it gathers from sizes that are open, or over several axes of samples")
    strides = [math.prod(sizes[axis + 1 :]) for axis in range(depth)]
    places = ops.sum(ops.multiply(indices, np.asarray(strides, "int32")), axis=-1)
    if not batch_dims:
        return ops.take(ops.reshape(params, (-1, *rest)), places, axis=0)
    flat = ops.reshape(params, (-1, math.prod(sizes), math.prod(rest)))
    taken = ops.take_along_axis(flat, ops.reshape(places, (-1, math.prod(places.shape[1:]), 1)), 1)
    return ops.reshape(taken, (-1, *places.shape[1:], *rest))


def _boolean_mask(tensor: Any, mask: Any, axis: Any = None) -> Any:
    if keras.utils.is_keras_tensor(mask) or not axis:
        raise ValueError("it masks samples, or by what the network computes: no size is known then")
    chosen = np.asarray(mask, bool)
    axis %= len(tensor.shape)
    around = tensor.shape[axis + chosen.ndim :]
    flat = ops.reshape(tensor, (-1, *tensor.shape[1:axis], chosen.size, *around))
    return ops.take(flat, np.flatnonzero(chosen), axis=axis)


def _where(condition: Any, x: Any, y: Any) -> Any:
    return ops.where(condition, x, y)


def _cast(x: Any, dtype: str) -> Any:
    return x if is_size(x) else ops.cast(x, dtype)


def _stack(values: Any, axis: int = 0) -> Any:
    if all(map(is_size, values)):
        return Sizes(tuple(values))
    return ops.stack(values, axis=axis)


def _argument(operation: Callable[..., Any]) -> Callable[..., Any]:
    def find(input: Any, axis: int = 0, output_type: str = "int64") -> Any:
        return ops.cast(operation(input, axis=axis), output_type)

    return find


def _norm(tensor: Any, ord: Any = "euclidean", axis: Any = None, keepdims: Any = None) -> Any:
    settings = {"axis": axes(axis), "keepdims": bool(keepdims)}
    is_vector = axis is None or isinstance(axis, int) or len(axis) == 1
    if ord == "euclidean" or (ord == 2 and is_vector):
        return ops.sqrt(ops.sum(ops.square(tensor), **settings))
    if ord == 1 and is_vector:
        return ops.sum(ops.abs(tensor), **settings)
    raise ValueError(f"the norm {ord} has no counterpart here")


def _cumulate(operation: Callable[..., Any]) -> Callable[..., Any]:
    def cumulate(x: Any, axis: int = 0, exclusive: bool = False, reverse: bool = False) -> Any:
        if exclusive:
            raise ValueError("exclusive=True has no counterpart in Keras")
        x = ops.flip(x, axis) if reverse else x
        return ops.flip(operation(x, axis), axis) if reverse else operation(x, axis)

    return cumulate


def _sort(values: Any, axis: int = -1, direction: str = "ASCENDING") -> Any:
    found = ops.sort(values, axis=axis)
    return found if direction == "ASCENDING" else ops.flip(found, axis)


def _one_hot(
    indices: Any, depth: int, on_value: Any = 1, off_value: Any = 0, axis: int = -1,
    dtype: str = "float32",
) -> Any:  # fmt: skip
    if (on_value, off_value) != (1, 0):
        raise ValueError("only ones and zeros have a counterpart in Keras")
    return ops.one_hot(indices, depth, axis=axis, dtype=dtype)


def _pool(kind: str) -> Callable[..., Any]:
    def pool_2d(
        input: Any, ksize: Any, strides: Any, padding: str, data_format: str = "NHWC"
    ) -> Any:
        return pool(kind, input, ksize, strides, padding, data_format)

    return pool_2d


_UNARY = """abs ceil cos cosh erf exp expm1 floor log log1p log_sigmoid logical_not negative
    reciprocal relu relu6 round rsqrt selu sigmoid sign silu sin sinh softplus softsign sqrt square
    tan tanh""".split()
_BINARY = """add divide_no_nan equal greater greater_equal less less_equal logical_and logical_or
    logical_xor maximum minimum multiply not_equal subtract""".split()
_INVERSE = {f"a{name}": f"arc{name}" for name in ("cos", "cosh", "sin", "sinh", "tan", "tanh")}


def _unary(name: str) -> Callable[..., Any]:
    return lambda x: getattr(ops, name)(x)


def _binary(name: str) -> Callable[..., Any]:
    def compute(x: Any, y: Any) -> Any:
        return getattr(ops, name)(constant(x), constant(y))

    return on_sizes(name, compute) if name in ("add", "multiply", "subtract") else compute


_DIVISIONS = {
    name: on_sizes(name, function)
    for name, function in {
        "floordiv": lambda x, y: ops.floor_divide(x, y),
        "floormod": lambda x, y: ops.mod(x, y),
        "truediv": lambda x, y: ops.true_divide(x, y),
    }.items()
}
_FUNCTIONS: dict[str, Callable[..., Any]] = {
    **{name: _unary(name) for name in _UNARY},
    **{name: _unary(keras_name) for name, keras_name in _INVERSE.items()},
    **{name: _binary(name) for name in _BINARY},
    **_DIVISIONS,
    "accumulate_n": lambda inputs: keras.layers.Add()(inputs),
    "add_n": lambda inputs: keras.layers.Add()(inputs),
    "argmax": _argument(ops.argmax),
    "argmin": _argument(ops.argmin),
    "avg_pool": _pool("average"),
    "avg_pool2d": _pool("average"),
    "bias_add": bias_add,
    "boolean_mask": _boolean_mask,
    "broadcast_to": broadcast_to,
    "cast": _cast,
    "clip_by_value": lambda t, clip_value_min, clip_value_max: ops.clip(
        t, clip_value_min, clip_value_max
    ),
    "concat": lambda values, axis: ops.concatenate(values, axis=axis),
    "cumprod": _cumulate(ops.cumprod),
    "cumsum": _cumulate(ops.cumsum),
    "depth_to_space": lambda x, block_size, data_format="NHWC": depth_to_space(
        x, block_size, data_format
    ),
    "diag_part": lambda x: ops.diagonal(x, axis1=-2, axis2=-1),
    "divide": _DIVISIONS["truediv"],
    "dropout": lambda x, rate=0.0: x,
    "elu": lambda features: ops.elu(features),
    "ensure_shape": lambda x, shape: x,
    "eq": lambda x, other: ops.equal(x, constant(other)),
    "expand_dims": lambda x, axis: ops.expand_dims(x, axis),
    "fill": lambda dims, value: filled(dims, value),
    "flip_left_right": lambda image: ops.flip(image, -2),
    "flip_up_down": lambda image: ops.flip(image, -3),
    "floor_div": _DIVISIONS["floordiv"],
    "gather": _gather,
    "gather_nd": _gather_nd,
    "gelu": lambda features, approximate=False: ops.gelu(features, approximate=approximate),
    "getitem": _getitem,
    "identity": lambda x: x,
    "l2_normalize": _l2_normalize,
    "leaky_relu": lambda features, alpha=0.2: ops.leaky_relu(features, negative_slope=alpha),
    "local_response_normalization": local_response_normalization,
    "log_softmax": lambda logits, axis=-1: ops.log_softmax(logits, axis=axis),
    "lrn": local_response_normalization,
    "matmul": matmul,
    "max_pool": _pool("max"),
    "max_pool2d": _pool("max"),
    "ne": lambda x, other: ops.not_equal(x, constant(other)),
    "neg": _unary("negative"),
    "norm": _norm,
    "one_hot": _one_hot,
    "ones": lambda shape, dtype="float32": filled(shape, 1.0),
    "ones_like": lambda input, dtype=None, optimize=True: ops.ones_like(input, dtype),
    "pad": _pad,
    "pow": lambda x, y: ops.power(x, y),
    "rank": lambda input: len(input.shape),
    "reduce_all": reduction(ops.all),
    "reduce_any": reduction(ops.any),
    "reduce_logsumexp": reduction(ops.logsumexp),
    "reduce_max": reduction(ops.max),
    "reduce_mean": reduction(ops.mean),
    "reduce_min": reduction(ops.min),
    "reduce_prod": reduction(ops.prod),
    "reduce_std": reduction(ops.std),
    "reduce_sum": reduction(ops.sum),
    "reduce_variance": reduction(ops.var),
    "repeat": lambda input, repeats, axis=None: ops.repeat(input, repeats, axis=axis),
    "reshape": reshape,
    "resize": _resize,
    "reverse": lambda tensor, axis: ops.flip(tensor, axes(axis)),
    "rgb_to_grayscale": lambda images: ops.image.rgb_to_grayscale(
        images, data_format="channels_last"
    ),
    "roll": lambda input, shift, axis: ops.roll(input, shift, axes(axis)),
    "shape": lambda input, out_type="int32": shape_of(input),
    "size": lambda input, out_type="int32": math.prod(shape_of(input).values),
    "slice": _slice,
    "softmax": lambda logits, axis=-1: ops.softmax(logits, axis=axis),
    "sort": _sort,
    "space_to_depth": lambda input, block_size, data_format="NHWC": space_to_depth(
        input, block_size, data_format
    ),
    "split": _split,
    "squared_difference": lambda x, y: ops.square(ops.subtract(x, y)),
    "squeeze": lambda x, axis=None: ops.squeeze(x, axes(axis)),
    "stack": _stack,
    "stop_gradient": lambda input: ops.stop_gradient(input),
    "strided_slice": _strided_slice,
    "sub": _binary("subtract"),
    "swish": _unary("silu"),
    "tensordot": lambda a, b, axes: ops.tensordot(constant(a), constant(b), axes),
    "tile": lambda x, multiples: ops.tile(x, multiples),
    "top_k": lambda input, k=1, sorted=True: list(ops.top_k(input, k, sorted=sorted)),
    "trace": lambda x: ops.trace(x, axis1=-2, axis2=-1),
    "transpose": lambda a, perm=None: ops.transpose(a, perm),
    "unstack": lambda value, num=None, axis=0: ops.unstack(value, num, axis=axis),
    "where": _where,
    "zeros": lambda shape, dtype="float32": filled(shape, 0.0),
    "zeros_like": lambda input, dtype=None, optimize=True: ops.zeros_like(input, dtype),
}
