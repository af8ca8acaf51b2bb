"""Coefficients to expect from a board's data sheet, before anything was measured.

They are the prior of a fit, and their ratio carries a fit from one board to another.
"""

from __future__ import annotations

import numpy as np

SHARE_OF_PEAK = {"int8": 2 / 3, "float32": 0.45}
"""Of the calculated peak that matrix kernels reach on large layers. Floats are four times as large:
the kernels wait for the caches."""
DEPTHWISE_FACTOR = {"int8": 12.0, "float32": 3.0}
"""A product of a depthwise convolution against one of a matrix product: nothing is reused, so that
integers lose what makes them fast."""
UNROLLED_PASSES = 4.0
"""How often an unrolled window passes through the memory: written, read to be packed, written
packed, read by the kernel."""
CALL_CYCLES = 37_500
"""To call an operator and to share it among threads: 25 us at 1.5 GHz."""
TAP_CYCLES = 18.0
"""Per tap and position of a depthwise convolution, shared by four cores."""
CORES = 4


def expect_coefficients(
    peak_gops: float, bandwidth_mb_s: float, clock_ghz: float, scheme: str, cores: int = CORES
) -> np.ndarray:
    """Return coefficients in the order and units of `FEATURES`.

    Args:
        peak_gops: calculated peak of the number format, two operations per product.
        bandwidth_mb_s: of the main memory.
        clock_ghz: of the cores.
        scheme: number format, `int8` or `float32`.
        cores: that run.

    Example:
        >>> expect_coefficients(96, 3000, 1.5, "int8").round(4).tolist()
        [0.0312, 0.375, 3.0, 0.3333, 1.3333, 0.3333, 0.3333, 0.025]
    """
    matrix = 1 / (peak_gops / 2 * SHARE_OF_PEAK[scheme])
    moved = 1e3 / bandwidth_mb_s
    taps = TAP_CYCLES / clock_ghz / cores
    return np.array(
        [
            matrix,
            DEPTHWISE_FACTOR[scheme] * matrix,
            taps,
            moved,
            UNROLLED_PASSES * moved,
            moved,
            moved,
            1e-6 * CALL_CYCLES / clock_ghz,
        ]
    )
