"""How layers read, seen as matrices: `output = patches @ kernel + bias`.

`CONSUMERS` maps the layer types for which that is known; others are left as surgery made them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from keras import layers as L
from keras import ops

Tensor = Any


@dataclass(frozen=True)
class ConsumerKind:
    """How one layer type reads.

    Attributes:
        kernel: attribute that holds the reading weight, `(taps ..., channels, outputs)`.
        see: `(layer, x)` -> the map `(batch, ..., channels)` that the kernel multiplies with.
        slides: whether the kernel covers several positions of that map.
    """

    kernel: str
    see: Callable[[Any, Tensor], Tensor]
    slides: bool = False


def channels_last(layer: Any, x: Tensor) -> Tensor:
    """Return what a layer takes or gives in float32, with its channels on the last axis."""
    x = ops.cast(x, "float32")
    return ops.moveaxis(x, 1, -1) if _is_channels_first(layer) else x


def _is_channels_first(layer: Any) -> bool:
    return getattr(layer, "data_format", None) == "channels_first"


def _after_depthwise(layer: Any, x: Tensor) -> Tensor:
    return ops.depthwise_conv(
        channels_last(layer, x),
        ops.cast(layer.depthwise_kernel, "float32"),
        strides=layer.strides,
        padding=layer.padding,
        data_format="channels_last",
        dilation_rate=layer.dilation_rate,
    )


CONSUMERS: dict[type, ConsumerKind] = {
    L.Conv1D: ConsumerKind("kernel", channels_last, slides=True),
    L.Conv2D: ConsumerKind("kernel", channels_last, slides=True),
    L.Conv3D: ConsumerKind("kernel", channels_last, slides=True),
    L.SeparableConv1D: ConsumerKind("pointwise_kernel", _after_depthwise),
    L.SeparableConv2D: ConsumerKind("pointwise_kernel", _after_depthwise),
    L.Dense: ConsumerKind("kernel", channels_last),
}


def kernel_of(layer: Any) -> Any:
    """Return the variable that holds a layer's reading weight."""
    return getattr(layer, CONSUMERS[type(layer)].kernel)


def kernel_matrix(layer: Any) -> np.ndarray:
    """Return a layer's reading weight as `(taps, channels, outputs)`, float64."""
    kernel = ops.convert_to_numpy(kernel_of(layer)).astype(np.float64)
    return kernel.reshape(-1, *kernel.shape[-2:])


def assign_kernel(layer: Any, matrix: np.ndarray) -> None:
    """Set a layer's reading weight from any array with as many numbers in the same order."""
    variable = kernel_of(layer)
    variable.assign(matrix.reshape(variable.shape))


def count_places(layer: Any, x: Tensor) -> int:
    """Return at how many positions a layer gives an output, samples included."""
    shape = list(layer.compute_output_shape(tuple(x.shape)))
    del shape[1 if _is_channels_first(layer) else -1]
    return int(np.prod(shape))


def take_patches(layer: Any, x: Tensor, places: np.ndarray) -> Tensor:
    """Gather what a layer's kernel multiplies with, zeros beyond the border.

    Args:
        layer: of one of the types in `CONSUMERS`.
        x: its input.
        places: `(n,)` output positions, counted over samples, rows, columns.

    Returns:
        `(n, taps, channels)`: its sum of products with the kernel is the output without bias.
    """
    kind = CONSUMERS[type(layer)]
    seen = kind.see(layer, x)
    channels = seen.shape[-1]
    if not kind.slides:
        return ops.take(ops.reshape(seen, (-1, 1, channels)), places, axis=0)
    return _gather_windows(layer, seen, places)


def take_windows(layer: Any, x: Tensor, places: np.ndarray) -> Tensor:
    """Gather what a depthwise kernel slides over, as `take_patches` does for consumers.

    Args:
        layer: a depthwise convolution.
        x: its input.
        places: `(n,)` output positions, counted over samples, rows, columns.

    Returns:
        `(n, taps, channels)`.
    """
    return _gather_windows(layer, channels_last(layer, x), places)


def _gather_windows(layer: Any, seen: Tensor, places: np.ndarray) -> Tensor:
    """Gather windows of a map, channels last."""
    channels = seen.shape[-1]
    batch, *size = (int(n) for n in seen.shape[:-1])
    spans = _spans(layer, size)
    seen = ops.pad(seen, ((0, 0), *((span.before, span.after) for span in spans), (0, 0)))
    index, *positions = np.unravel_index(places, (batch, *(span.outputs for span in spans)))
    for span, position, stride in zip(spans, positions, layer.strides, strict=True):
        along = (position * stride)[:, None] + span.taps
        extent = span.before + span.size + span.after
        index = index[..., None] * extent + along.reshape(len(places), *(1,) * (index.ndim - 1), -1)
    taken = ops.take(ops.reshape(seen, (-1, channels)), index.ravel(), axis=0)
    return ops.reshape(taken, (len(places), -1, channels))


@dataclass(frozen=True)
class _Span:
    """How a kernel slides along one axis: zeros before and after, output positions, tap offsets."""

    size: int
    before: int
    after: int
    outputs: int
    taps: np.ndarray


def _spans(layer: Any, size: Sequence[int]) -> list[_Span]:
    found = zip(size, layer.kernel_size, layer.strides, layer.dilation_rate, strict=True)
    return [_span(*along, layer.padding) for along in found]


def _span(size: int, kernel: int, stride: int, dilation: int, padding: str) -> _Span:
    reach = (kernel - 1) * dilation + 1
    before = after = 0
    if padding == "same":
        total = max((-(-size // stride) - 1) * stride + reach - size, 0)
        before, after = total // 2, total - total // 2
    elif padding == "causal":
        before = reach - 1
    outputs = (before + size + after - reach) // stride + 1
    return _Span(size, before, after, outputs, np.arange(kernel) * dilation)


def tap_coverage(layer: Any, shape: Sequence[int | None]) -> np.ndarray:
    """Return for each tap of a kernel the share of output positions at which it is on the map.

    Under `same` padding the border sees zeros, not the mean of a channel: a constant that replaces
    the channel is right on average when each tap is weighted with this share.

    Args:
        layer: of one of the types in `CONSUMERS`.
        shape: of its input, batch first; along sizes that are not known every tap is on the map.

    Returns:
        `(taps,)`: all 1 without padding.
    """
    if not CONSUMERS[type(layer)].slides:
        return np.ones(1)
    sizes = shape[2:] if _is_channels_first(layer) else shape[1:-1]
    known = _spans(layer, [size or 1 for size in sizes])
    shares = np.ones(1)
    for size, stride, span in zip(sizes, layer.strides, known, strict=True):
        at = np.arange(span.outputs) * stride - span.before + span.taps[:, None]
        inside = ((at >= 0) & (at < span.size)).mean(axis=1)
        shares = np.outer(shares, inside if size else np.ones(len(span.taps))).ravel()
    return shares
