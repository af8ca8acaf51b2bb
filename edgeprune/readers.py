"""Layers that read channels, seen as matrices: `output = patches @ kernel + bias`.

Statistics are taken where a layer reads; folds and refits change what it multiplies with. `READERS`
maps the layer types for which that is known; others are left as surgery made them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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
        patch: `(layer, x, places)` -> `(len(places), taps * channels)`, what the kernel multiplies
            with at some output positions, counted over batch, rows and columns; `None` where a
            refit is not possible.
    """

    kernel: str
    see: Callable[[Any, Tensor], Tensor]
    patch: Callable[[Any, Tensor, np.ndarray], Tensor] | None


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


def _patch_map(layer: Any, x: Tensor, places: np.ndarray) -> Tensor:
    """Gather the patches under a 2D kernel, zeros beyond the border."""
    x = _channels_last(layer, x)
    batch, *size, channels = (int(n) for n in x.shape)
    spans = [
        _Span.along(n, k, s, d, layer.padding)
        for n, k, s, d in zip(
            size, layer.kernel_size, layer.strides, layer.dilation_rate, strict=True
        )
    ]
    x = ops.pad(x, ((0, 0), *((span.before, span.after) for span in spans), (0, 0)))
    rows, columns = (int(n) for n in x.shape[1:3])
    sample, row, column = np.unravel_index(places, (batch, spans[0].outputs, spans[1].outputs))
    y = row[:, None] * layer.strides[0] + spans[0].taps
    z = column[:, None] * layer.strides[1] + spans[1].taps
    flat = (sample[:, None, None] * rows + y[:, :, None]) * columns + z[:, None, :]
    taken = ops.take(ops.reshape(x, (-1, channels)), flat.reshape(len(places), -1), axis=0)
    return ops.reshape(taken, (len(places), -1))


def _patch_rows(see: Callable[[Any, Tensor], Tensor]) -> Callable[[Any, Tensor, np.ndarray], Tensor]:
    def patch(layer: Any, x: Tensor, places: np.ndarray) -> Tensor:
        seen = see(layer, x)
        return ops.take(ops.reshape(seen, (-1, seen.shape[-1])), places, axis=0)

    return patch


@dataclass(frozen=True)
class _Span:
    """How a kernel slides along one axis: zeros before and after, output positions, tap offsets."""

    before: int
    after: int
    outputs: int
    taps: np.ndarray

    @classmethod
    def along(cls, size: int, kernel: int, stride: int, dilation: int, padding: str) -> _Span:
        reach = (kernel - 1) * dilation + 1
        if padding == "same":
            outputs = -(-size // stride)
            total = max((outputs - 1) * stride + reach - size, 0)
        else:
            outputs, total = (size - reach) // stride + 1, 0
        return cls(total // 2, total - total // 2, outputs, np.arange(kernel) * dilation)


def tap_coverage(layer: Any, size: Sequence[int | None]) -> np.ndarray:
    """Return for each tap of a 2D kernel the share of output positions at which it is on the map.

    Args:
        layer: a Conv2D.
        size: height and width of its input.

    Returns:
        `(taps,)`: all 1 without padding.
    """
    shares = []
    values = zip(size, layer.kernel_size, layer.strides, layer.dilation_rate, strict=True)
    for n, kernel, stride, dilation in values:
        if n is None:
            shares.append(np.ones(kernel))
            continue
        span = _Span.along(n, kernel, stride, dilation, layer.padding)
        at = np.arange(span.outputs) * stride - span.before + span.taps[:, None]
        shares.append(((at >= 0) & (at < n)).mean(axis=1))
    return np.outer(*shares).ravel()


READERS: dict[type, ReaderKind] = {
    L.Conv1D: ReaderKind("kernel", _channels_last, None),
    L.Conv2D: ReaderKind("kernel", _channels_last, _patch_map),
    L.Conv3D: ReaderKind("kernel", _channels_last, None),
    L.SeparableConv2D: ReaderKind("pointwise_kernel", _depthwise, _patch_rows(_depthwise)),
    L.Dense: ReaderKind("kernel", _as_is, _patch_rows(_as_is)),
}


@dataclass(frozen=True)
class Landing:
    """Where a reader's output ends up before the next nonlinearity.

    Attributes:
        normalization: the BatchNormalization in between, if any.
        added: numbers of the tensors that are added to it, in a residual block.
        tensor: number of the tensor: the sum of a residual block, else the normalised output, else
            the output itself.
        rectified: whether a ReLU is all that follows, so that negative values do not matter.
    """

    normalization: Any | None
    added: tuple[int, ...]
    tensor: int
    rectified: bool


@dataclass(frozen=True)
class Reader:
    """One layer that reads channels of groups.

    Attributes:
        call: its first call.
        kind: how it reads.
        axis: the reading axis of its kernel, with the channels on it.
        landing: where its output ends up.
        shared: whether it is called more than once.
    """

    call: Call
    kind: ReaderKind
    axis: Axis
    landing: Landing
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
    consumers = groups.graph.consumers()
    return tuple(
        Reader(
            found[0],
            READERS[type(found[0].operation)],
            axes[path],
            _find_landing(found[0], consumers),
            len(found) > 1,
        )
        for path, found in calls.items()
        if path in axes and type(found[0].operation) in READERS
    )


def _find_landing(call: Call, consumers: Mapping[int, Sequence[Call]]) -> Landing:
    """Follow a reader's output through a BatchNormalization and into a residual sum."""
    tensor, normalization, added = call.outputs[0].number, None, ()
    if _activation(call.operation) == "relu":
        return Landing(None, (), tensor, True)
    following = consumers.get(tensor, [])
    if len(following) == 1 and type(following[0].operation) is L.BatchNormalization:
        normalization = following[0].operation
        tensor = following[0].outputs[0].number
        following = consumers.get(tensor, [])
    if len(following) == 1 and _is_plain_sum(following[0]):
        added = tuple(ref.number for ref in following[0].inputs if ref.number != tensor)
        tensor = following[0].outputs[0].number
        following = consumers.get(tensor, [])
    rectified = len(following) == 1 and _activation(following[0].operation) == "relu"
    return Landing(normalization, added, tensor, rectified)


def _is_plain_sum(call: Call) -> bool:
    return type(call.operation) is L.Add and len({ref.shape for ref in call.inputs}) == 1


def _activation(operation: Any) -> str:
    """Return `relu` for a plain rectifier, or the name of a layer's activation."""
    if type(operation) is L.ReLU:
        plain = not operation.negative_slope and not operation.threshold
        return "relu" if plain and operation.max_value is None else "other"
    return getattr(getattr(operation, "activation", None), "__name__", "linear")


def kernel_matrix(layer: keras.Layer, kind: ReaderKind) -> np.ndarray:
    """Return a layer's reading weight as `(taps, channels, outputs)`, float64."""
    kernel = ops.convert_to_numpy(getattr(layer, kind.kernel)).astype(np.float64)
    return kernel.reshape(-1, *kernel.shape[-2:])
