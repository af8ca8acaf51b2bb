"""A rebuilt model next to the names and the order that its file gives to the layers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import keras


@dataclass(frozen=True)
class Part:
    """A layer as the file names it, and the Keras 3 layer in its place.

    Attributes:
        name: in the file; unique among the parts of one model.
        layer: holds the weights, unless there are parts.
        scaled: whether the weights carry the factor of the old hard sigmoid.
        parts: the layers of a nested model, or what a wrapper wraps.
    """

    name: str
    layer: keras.Layer
    scaled: bool = False
    parts: tuple[Part, ...] = ()

    def leaves(self, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Part]]:
        """Yield the parts that hold weights themselves, each with the names on the way to it."""
        path = (*path, self.name)
        if not self.parts:
            yield path, self
        for part in self.parts:
            yield from part.leaves(path)


@dataclass(frozen=True)
class Architecture:
    """A built model without its weights, and its layers in the order of the file."""

    model: keras.Model
    parts: tuple[Part, ...]
