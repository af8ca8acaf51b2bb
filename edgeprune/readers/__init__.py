"""Layers that read channels, seen as matrices: what statistics, folds and refits work on."""

from edgeprune.readers.kinds import (
    READERS,
    assign_kernel,
    channels_last,
    count_places,
    kernel_matrix,
    take_patches,
    take_windows,
    tap_coverage,
)
from edgeprune.readers.landings import Landing, LandingFinder
from edgeprune.readers.reader import Reader, find_readers, take_places

__all__ = [
    "READERS",
    "Landing",
    "LandingFinder",
    "Reader",
    "assign_kernel",
    "channels_last",
    "count_places",
    "find_readers",
    "kernel_matrix",
    "take_patches",
    "take_places",
    "take_windows",
    "tap_coverage",
]
