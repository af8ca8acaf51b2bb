"""Steps for vectors `(batch, channels)`, and from any tensor to one."""

from __future__ import annotations

from typing import Any

from keras import layers

from grammar.growing import Grower

POOLS = {
    3: [layers.GlobalAveragePooling1D, layers.GlobalMaxPooling1D],
    4: [layers.GlobalAveragePooling2D, layers.GlobalMaxPooling2D],
    5: [layers.GlobalAveragePooling3D, layers.GlobalMaxPooling3D],
}


def to_vector(grower: Grower, x: Any) -> Any:
    if len(x.shape) == 2:
        return x
    if None not in x.shape[1:] and grower.yes():
        return layers.Flatten()(x)
    return grower.choice(POOLS[len(x.shape)])()(x)


def to_map(grower: Grower, x: Any) -> Any:
    return layers.Reshape((1, 1, x.shape[-1]))(x)


def repeat(grower: Grower, x: Any) -> Any:
    return layers.RepeatVector(3)(x)


def broadcast(grower: Grower, x: Any) -> Any:
    """A vector over a map."""
    maps = [y for y in grower.pool if len(y.shape) == 4]
    if not maps:
        return x * 0.5
    y = grower.choice(maps)
    vector = layers.Dense(y.shape[-1])(x)
    return y * layers.Reshape((1, 1, y.shape[-1]))(vector)


STEPS = [to_map, repeat, broadcast]
