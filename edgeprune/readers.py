"""Layers that read channels, seen as matrices: `output = patches @ kernel + bias`.

Statistics are taken where a layer reads; folds and refits change what it multiplies with. `READERS`
maps the layer types for which that is known; others are left as surgery made them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import keras
import numpy as np
from keras import layers as L
from keras import ops

from edgeprune.graph import Call
from edgeprune.groups import Axis, Groups

Tensor = Any


@dataclass(frozen=True)
class ReaderKind:
    """How one layer type reads.

    Attributes:
        kernel: attribute that holds the reading weight, `(..., channels, outputs)`.
        see: `(layer, x)` -> the map `(batch, ..., channels)` that the kernel multiplies with.
        patch: `(layer, x)` -> `(batch, ..., taps * channels)`, one row per output position, taps in
            the kernel's order; `None` where a refit is not possible.
    """

    kernel: str
    see: Callable[[Any, Tensor], Tensor]
    patch: Callable[[Any, Tensor], Tensor] | None


def _as_is(layer: Any, x: Tensor) -> Tensor:
    return x


def _channels_last(layer: Any, x: Tensor) -> Tensor:
    if layer.data_format == "channels_first":
        return ops.moveaxis(x, 1, -1)
    return x


def _depthwise(layer: Any, x: Tensor) -> Tensor:
    seen = ops.depthwise_conv(
        x, layer.depthwise_kernel, strides=layer.strides, padding=layer.padding,
        data_format=layer.data_format, dilation_rate=layer.dilation_rate,
    )  # fmt: skip
    return _channels_last(layer, seen)


def _patches(layer: Any, x: Tensor) -> Tensor:
    if layer.kernel_size == (1, 1) and layer.data_format == "channels_last":
        rows, columns = layer.strides
        return x[:, ::rows, ::columns, :]
    return ops.image.extract_patches(
        _channels_last(layer, x), layer.kernel_size, strides=layer.strides,
        dilation_rate=layer.dilation_rate, padding=layer.padding, data_format="channels_last",
    )  # fmt: skip


READERS: dict[type, ReaderKind] = {
    L.Conv1D: ReaderKind("kernel", _channels_last, None),
    L.Conv2D: ReaderKind("kernel", _channels_last, _patches),
    L.Conv3D: ReaderKind("kernel", _channels_last, None),
    L.SeparableConv2D: ReaderKind("pointwise_kernel", _depthwise, _depthwise),
    L.Dense: ReaderKind("kernel", _as_is, _as_is),
}


@dataclass(frozen=True)
class Reader:
    """One layer that reads channels of groups.

    Attributes:
        call: its first call.
        kind: how it reads.
        axis: the reading axis of its kernel, with the channels on it.
        shared: whether it is called more than once.
    """

    call: Call
    kind: ReaderKind
    axis: Axis
    shared: bool = False

    @property
    def path(self) -> str:
        """Path of the layer."""
        return self.call.path

    @property
    def layer(self) -> Any:
        """The layer of the model the groups were traced on."""
        return self.call.operation

    @cached_property
    def channels(self) -> np.ndarray:
        """`(C, 2)`: group and channel of each distinct channel read, by first appearance."""
        pairs = np.stack([self.axis.group, self.axis.channel], axis=1)
        pairs[self.axis.group < 0, 1] = np.nonzero(self.axis.group < 0)[0]
        unique, first = np.unique(pairs, axis=0, return_index=True)
        return unique[np.argsort(first)]

    @cached_property
    def slots(self) -> np.ndarray:
        """`(m, C)`: the m positions of the axis that hold each channel.

        More than one where a map was flattened; where channels are held unequally often, each
        position counts as a channel of its own and the shape is `(1, size of the axis)`.
        """
        keys = {tuple(pair): column for column, pair in enumerate(self.channels.tolist())}
        held: list[list[int]] = [[] for _ in keys]
        for position, (group, channel) in enumerate(
            zip(self.axis.group.tolist(), self.axis.channel.tolist(), strict=True)
        ):
            held[keys[group, channel if group >= 0 else position]].append(position)
        if len({len(positions) for positions in held}) > 1:
            return np.arange(len(self.axis.group))[None]
        return np.array(held).T

    @property
    def uniform(self) -> bool:
        """Whether every channel is held equally often, so that statistics are per channel."""
        return self.slots.shape[1] == len(self.channels)

    def columns(self, group: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the columns of the statistics that belong to a group, and their channels."""
        found = np.nonzero(self.channels[:, 0] == group)[0]
        return found, self.channels[found, 1]

    def rows(self, x: Tensor, positions: int, generator: np.random.Generator) -> Tensor:
        """Return `(batch, p, C)`: what the kernel sees at up to `positions` places per sample.

        The places are drawn anew for each batch and are the same for the samples in it.
        """
        seen = ops.cast(self.kind.see(self.layer, x), "float32")
        size = self.axis.group.size
        seen = ops.reshape(seen, (ops.shape(seen)[0], -1, size))
        places = seen.shape[1]
        multiplicity = self.slots.shape[0]
        if places * multiplicity > positions:
            if places > 1:
                wanted = max(1, positions // multiplicity)
                chosen = generator.choice(places, min(places, wanted), replace=False)
                seen = ops.take(seen, chosen, axis=1)
            if multiplicity > positions:
                kept = generator.choice(multiplicity, positions, replace=False)
                return self._by_channel(seen, self.slots[kept])
        return self._by_channel(seen, self.slots)

    @staticmethod
    def _by_channel(seen: Tensor, slots: np.ndarray) -> Tensor:
        if len(slots) == 1 and (slots[0] == np.arange(seen.shape[-1])).all():
            return seen
        taken = ops.take(seen, slots.ravel(), axis=-1)
        return ops.reshape(taken, (ops.shape(seen)[0], -1, slots.shape[1]))


def find_readers(groups: Groups) -> tuple[Reader, ...]:
    """Return the layers that read channels and whose way of reading is known, in call order."""
    axes = {axis.layer: axis for axis in groups.axes if axis.role == "reads"}
    calls: dict[str, list[Call]] = {}
    for call in groups.graph.calls:
        calls.setdefault(call.path, []).append(call)
    return tuple(
        Reader(found[0], READERS[type(found[0].operation)], axes[path], len(found) > 1)
        for path, found in calls.items()
        if path in axes and type(found[0].operation) in READERS
    )


def kernel_matrix(layer: keras.Layer, kind: ReaderKind) -> np.ndarray:
    """Return a layer's reading weight as `(taps, channels, outputs)`, float64."""
    kernel = ops.convert_to_numpy(getattr(layer, kind.kernel)).astype(np.float64)
    return kernel.reshape(-1, *kernel.shape[-2:])
