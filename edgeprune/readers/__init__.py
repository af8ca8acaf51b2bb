"""Layers that read channels, seen as matrices: what statistics, folds and refits work on."""

from edgeprune.readers.kinds import (
    READERS,
    assign_kernel,
    channels_last,
    count_places,
    kernel_matrix,
    take_patches,
    tap_coverage,
)
from edgeprune.readers.landings import Landing
from edgeprune.readers.reader import Reader, find_readers

__all__ = [
    "READERS",
    "Landing",
    "Reader",
    "assign_kernel",
    "channels_last",
    "count_places",
    "find_readers",
    "kernel_matrix",
    "take_patches",
    "tap_coverage",
]
