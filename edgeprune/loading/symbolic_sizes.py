"""Shapes that a TensorFlow graph computes while it runs, followed as numbers while it is rebuilt.

Only the batch is open in a model that can be deployed; what is computed from it stays open.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from keras import ops

MOST_VALUES = 2**24


@dataclass(frozen=True)
class Open:
    """A size that is not known.

    Attributes:
        is_batch: whether it is the batch of the input itself, nothing computed from it.
    """

    is_batch: bool = True


@dataclass(frozen=True)
class Sizes:
    """A shape as a value of the graph; no tuple, so that nothing takes it apart."""

    values: tuple[int | Open, ...]


def shape_of(x: Any) -> Sizes:
    """Give the shape of a tensor.

    Raises:
        ValueError: more than the batch is open.
    """
    sizes = tuple(x.shape)
    if None in sizes[1:]:
        raise ValueError("it computes with sizes that are open; they need to be fixed")
    return Sizes(tuple(Open() if size is None else int(size) for size in sizes))


def is_size(value: Any) -> bool:
    """Whether a value is a shape or a size computed from one."""
    return isinstance(value, Sizes | Open | int) and not isinstance(value, bool)


def on_sizes(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Let a function compute with sizes as well as with tensors.

    Args:
        name: of the arithmetic, among those of `_ARITHMETIC`.
        function: of two tensors.
    """

    def compute(x: Any, y: Any) -> Any:
        if not (is_size(x) and is_size(y)) or isinstance(x, Sizes) or isinstance(y, Sizes):
            return function(x, y)
        if isinstance(x, Open) or isinstance(y, Open):
            return Open(is_batch=False)
        return _ARITHMETIC[name](x, y)

    return compute


_ARITHMETIC: dict[str, Callable[[int, int], Any]] = {
    "add": operator.add,
    "subtract": operator.sub,
    "multiply": operator.mul,
    "floordiv": operator.floordiv,
    "floormod": operator.mod,
    "truediv": operator.truediv,
    "maximum": max,
    "minimum": min,
}


def as_list(shape: Any) -> list[int | Open]:
    """Give a shape, however it is written, as a list."""
    if isinstance(shape, Sizes):
        return list(shape.values)
    if not isinstance(shape, Sequence):
        shape = ops.convert_to_numpy(shape).tolist()
    return [one if isinstance(one, Open) else int(one) for one in shape]


def reshape(tensor: Any, shape: Any) -> Any:
    """Reshape to sizes of which the batch, and one more, may be open.

    Raises:
        ValueError: more than one size cannot be known.
    """
    target = as_list(shape)
    known = math.prod(size for size in target if isinstance(size, int) and size > 0)
    is_batched = target[:1] == [Open()] and None not in tensor.shape[1:]
    if is_batched and -1 in target:
        rest = math.prod(tensor.shape[1:])
        target = [rest // known if size == -1 else size for size in target]
    sizes = [-1 if isinstance(size, Open) else size for size in target]
    if sizes.count(-1) > 1:
        raise ValueError(f"its new shape {sizes} has several sizes that are not known")
    return ops.reshape(tensor, sizes)


def filled(shape: Any, value: Any) -> Any:
    """Give a constant of a shape; the batch is one, which broadcasts.

    Raises:
        ValueError: it is larger than a constant of a network can be.
    """
    sizes = [1 if isinstance(one, Open) else one for one in as_list(shape)]
    if math.prod(sizes) > MOST_VALUES:
        raise ValueError(f"it fills {sizes}, more than {MOST_VALUES:,} values")
    return ops.full(sizes, value)


def broadcast_to(tensor: Any, shape: Any) -> Any:
    """Repeat a tensor along axes of one."""
    return ops.multiply(tensor, ops.cast(filled(shape, 1), tensor.dtype))
