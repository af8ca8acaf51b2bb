"""Channels that are stored in the same places make a group."""

from __future__ import annotations

import numpy as np

from edgeprune.tracing.labels import NO_LABEL


def split_by_place(count: int, places: list[np.ndarray]) -> np.ndarray:
    """Return for each of `count` channels a number that is equal for those in the same places.

    Each place splits the parts found so far; how often it holds a channel counts.
    """
    parts = np.zeros(count, np.int64)
    free = 1
    for place in places:
        channels, often = np.unique(place[place != NO_LABEL], return_counts=True)
        pairs = parts[channels] * (often.max(initial=0) + 1) + often
        _, inverse = np.unique(pairs, return_inverse=True)
        parts[channels] = free + inverse
        free += len(channels)
    return parts


def number_groups(
    count: int, held: list[np.ndarray], parts: np.ndarray
) -> tuple[np.ndarray, np.ndarray, list[int]]:
    """Number the parts that are stored somewhere, and the channels in them, as they are met.

    Returns:
        Group of each channel (-1 for none), channel within its group, first channel of each group.
    """
    met = np.concatenate(held) if held else np.empty(0, np.int64)
    met, index = np.unique(met[met != NO_LABEL], return_index=True)
    met = met[np.argsort(index)]
    group_of, channel_of = np.full(count, -1), np.full(count, -1)
    number_of: dict[int, int] = {}
    widths: list[int] = []
    first: list[int] = []
    for channel, part in zip(met.tolist(), parts[met].tolist(), strict=True):
        number = number_of.setdefault(part, len(number_of))
        if number == len(widths):
            widths.append(0)
            first.append(channel)
        group_of[channel], channel_of[channel] = number, widths[number]
        widths[number] += 1
    return group_of, channel_of, first
