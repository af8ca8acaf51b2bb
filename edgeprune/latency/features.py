"""What an operator's time is a sum of: the physical quantities that the coefficients multiply."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edgeprune.latency.operators import MATRIX_KINDS, Workload

FEATURES: dict[str, str] = {
    "matrix_macs": "ms per million",
    "depthwise_macs": "ms per million",
    "depthwise_taps": "ms per million",
    "convolution_bytes": "ms per million",
    "unrolled_bytes": "ms per million",
    "other_bytes": "ms per million",
    "streamed_bytes": "ms per million",
    "operators": "ms each",
}
"""Name of each feature and the unit of its coefficient."""

RATE_UNIT = "ms per million bytes"
"""Of the operators that have a rate of their own."""

ITEM_BYTES = {"float32": 4, "float16": 4, "int8": 1, "int8-qat": 1}
"""Bytes of an activation; weights in float16 are widened before they are used."""


@dataclass(frozen=True)
class Kernels:
    """How a runtime's matrix kernels divide their work.

    Attributes:
        rows: output positions of one tile; a part of a tile costs a whole one.
        columns: output channels of one tile.
        depth: products that are taken at once; those of one tap, unless windows are unrolled.
        cache_bytes: weights beyond this size come from main memory each time: those of an operator,
            or of the network if they compete.
        competing: whether the weights of all operators compete for the cache, as where one
            inference follows another, and what exceeds it is streamed; else an operator's weights
            are streamed if they alone exceed it, and a single row's never.
        call_weight: how many times as long as the others an operator with weights takes to begin.
        unrolls: whether the windows of a convolution are written out as a matrix first (ruy does,
            XNNPACK does not).
    """

    rows: int = 1
    columns: int = 1
    depth: int = 1
    cache_bytes: int = 2**19
    unrolls: bool = True
    competing: bool = False
    call_weight: float = 1.0


def count_features(
    work: Workload, kernels: Kernels, scheme: str, rated: Sequence[str] = ()
) -> np.ndarray:
    """Return the quantities of a network, summed over its operators.

    Matrix products (pointwise and other convolutions, fully connected layers) count whole tiles;
    convolutions with a window also write the unrolled windows and read them again, where kernels
    unroll, which is counted apart: those pass through the memory more than once. A depthwise
    convolution pays for whole tiles of channels and, whatever its width, for every tap at every
    position.
    Everything pays for the bytes that it reads and writes, and for being called; operators with a
    rate of their own pay that for their bytes.

    Args:
        work: of the network, possibly for many widths at once, or of several networks.
        kernels: tiles and cache of the runtime on the board.
        scheme: number format, a key of `ITEM_BYTES`.
        rated: names of elementwise operators whose bytes are counted apart; by default none.

    Returns:
        `(..., features)` in millions, operators as they are, in the order of `FEATURES`; then the
        bytes of each of `rated`.

    Example:
        >>> from edgeprune.latency.operators import Operator
        >>> work = Workload.of([Operator("pointwise", 100, 12, 8, 1, 800, 1200)])
        >>> macs = count_features(work, Kernels(rows=1, columns=8), "int8")[0]
        >>> print(f"{macs:.4f} million")  # 12 channels count as 16
        0.0128 million
    """
    item = ITEM_BYTES[scheme]
    matrix, depthwise = work.of_kind(*MATRIX_KINDS), work.of_kind("depthwise")
    elementwise = work.of_kind("elementwise")
    apart = [elementwise & work.named(name) for name in rated]
    other = elementwise & ~work.named(*rated)
    single = work.positions == 1
    rows = np.where(single, 1.0, _whole(work.positions, kernels.rows))
    columns = _whole(work.channels, kernels.columns)
    slices = 1.0 if kernels.unrolls else work.taps
    depth = slices * _whole(work.depth / slices, kernels.depth)
    unrolled = np.where(matrix & (work.taps > 1) & kernels.unrolls, rows * depth, 0.0)
    written = np.where(matrix & ~single, rows * columns, work.written)
    weight_bytes = item * work.weights
    if kernels.competing:
        all_bytes = work.spread(work.total(matrix * weight_bytes))
        streamed = matrix * np.maximum(1 - kernels.cache_bytes / np.maximum(all_bytes, 1), 0)
    else:
        streamed = matrix & ~single & (weight_bytes > kernels.cache_bytes)
    moved = item * (work.read + written)
    return np.stack(
        [
            1e-6 * work.total(matrix * rows * columns * depth),
            1e-6 * work.total(depthwise * work.positions * columns * work.depth),
            1e-6 * work.total(depthwise * work.positions * work.taps + 0.0 * work.channels),
            1e-6 * work.total((matrix | depthwise) * moved),
            1e-6 * work.total(item * unrolled),
            1e-6 * work.total(other * moved),
            1e-6 * work.total(streamed * weight_bytes),
            work.total(
                np.where(matrix | depthwise, kernels.call_weight, 1.0) + 0.0 * work.channels
            ),
            *(1e-6 * work.total(mark * moved) for mark in apart),
        ],
        axis=-1,
    )


def _whole(sizes: np.ndarray, tile: int) -> np.ndarray:
    """Round up to whole tiles."""
    return np.ceil(sizes / tile - 1e-9) * tile
