"""Which widths a group may have, and what is known of its channels when one is chosen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np

from edgeprune.cost.workload import Widths, emptied
from edgeprune.tracing.groups import Groups, find_head
from edgeprune.tracing.vanishing import StaysError

DEFAULT_STEP = 8
NOTHING: Widths = MappingProxyType({})


@dataclass(frozen=True)
class Ranking:
    """One group's channels in the order in which they would be kept, and what each width costs.

    Attributes:
        order: `(width,)` channels, the most valuable first.
        error: `(width + 1,)` what the consumers lose when the first k channels are kept; not
            increasing.
        scores: `(width,)` what the criterion gave to each channel of the order, not increasing;
            empty where nobody needs it.
        dead: how many channels at the end of the order carry nothing to any consumer.
    """

    order: np.ndarray
    error: np.ndarray
    scores: np.ndarray = field(default_factory=lambda: np.empty(0))
    dead: int = 0


def allowed_widths(width: int, step: int = DEFAULT_STEP) -> tuple[int, ...]:
    """Return the widths a group may have, ascending, its own width last.

    Args:
        width: number of channels of the group.
        step: multiple that the target likes; halved for groups under 32 channels and again under
            16, where whole steps would be too coarse. 1 allows every width.

    Example:
        >>> allowed_widths(20)
        (4, 8, 12, 16, 20)
        >>> allowed_widths(6, step=8), allowed_widths(3, step=1)
        ((2, 4, 6), (1, 2, 3))
    """
    divisor = 1 if width >= 32 else 2 if width >= 16 else 4
    size = max(1, step // divisor)
    return (*range(size, width, size), width)


def fix_classes(groups: Groups, classes: Sequence[int] | None) -> Widths:
    """Return the width that the head of a specialist will have; nothing without classes.

    Raises:
        ClassError: the classes cannot be cut out of this model.
    """
    return NOTHING if classes is None else {find_head(groups).name: len(classes)}


def smallest_widths(
    groups: Groups, step: int = DEFAULT_STEP, empties: bool = False
) -> dict[str, int]:
    """Return the smallest allowed width of every removable group.

    Args:
        groups: of the model.
        step: see `allowed_widths`.
        empties: whether whole branches may go, as many as can go together.
    """
    found = {group.name: allowed_widths(group.width, step)[0] for group in groups.removable}
    for vanished in groups.vanishing.branches.values() if empties else ():
        try:
            together = groups.vanishing.close(emptied(found) | vanished.groups)
        except StaysError:
            continue
        found.update(dict.fromkeys(together.groups & found.keys(), 0))
    return found


def keep_channels(ranking: Ranking, width: int) -> tuple[int, ...]:
    """Return the channels that a group keeps at a width, sorted."""
    return tuple(sorted(ranking.order[:width].tolist()))
