"""Steps that take two tensors of one shape."""

from __future__ import annotations

from typing import Any

from keras import layers, ops

from grammar.growing import Grower


def concatenate(grower: Grower, x: Any, y: Any) -> Any:
    axis = grower.choice([-1, 1])
    return layers.Concatenate(axis=axis)([x, y]) if grower.yes() else ops.concatenate([x, y], axis)


def multiply_matrices(grower: Grower, x: Any, y: Any) -> Any:
    rank = len(x.shape)
    if rank == 2:
        return layers.Dot(axes=1, normalize=grower.yes())([x, y])
    if rank == 3:
        return layers.Dot(axes=grower.choice([1, 2]))([x, y])
    return ops.matmul(x, ops.swapaxes(y, -1, -2))


STEPS = [
    concatenate,
    concatenate,
    multiply_matrices,
    lambda grower, x, y: layers.Add()([x, y]),
    lambda grower, x, y: layers.Multiply()([x, y]),
    lambda grower, x, y: layers.Maximum()([x, y]),
    lambda grower, x, y: layers.Minimum()([x, y]),
    lambda grower, x, y: layers.Average()([x, y]),
    lambda grower, x, y: layers.Subtract()([x, y]),
    lambda grower, x, y: x + y,
    lambda grower, x, y: ops.where(x > 0, x, y),
]
