"""Layers that read channels of groups: which channels they see, and where."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from keras import ops

from edgeprune.scoring.consumer_kinds import CONSUMERS, Tensor, channels_last, kernel_of
from edgeprune.scoring.destinations import Destination, DestinationFinder
from edgeprune.tracing.graph import Call
from edgeprune.tracing.groups import Axis, Groups

MOST_COLUMNS = 4096
"""Statistics of more channels than this would take gigabytes: such layers are left as cut."""


@dataclass(frozen=True)
class Consumer:
    """One layer that reads channels of groups.

    Attributes:
        call: its first call.
        axis: the reading axis of its kernel, with the channels on it.
        destination: where its output ends up.
        outputs: the writing axis of its kernel.
        shared: whether it is called more than once.
    """

    call: Call
    axis: Axis
    destination: Destination
    outputs: Axis
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
    def _held(self) -> tuple[np.ndarray, np.ndarray]:
        """Channels and slots."""
        pairs = np.stack([self.axis.group, self.axis.channel], axis=1)
        constant = self.axis.group < 0
        pairs[constant, 1] = np.nonzero(constant)[0]
        _, first, inverse, count = np.unique(
            pairs, axis=0, return_index=True, return_inverse=True, return_counts=True
        )
        pooled = len(self.call.inputs[0].shape) == 2
        if not pooled or len(set(count.tolist())) > 1:
            return pairs, np.arange(len(pairs))[None]
        order = np.argsort(first)
        slots = np.argsort(inverse.ravel(), kind="stable").reshape(len(first), -1)
        return pairs[first[order]], slots[order].T

    @property
    def channels(self) -> np.ndarray:
        """`(C, 2)`: group and channel of each column of the statistics; group -1 for constants."""
        return self._held[0]

    @property
    def slots(self) -> np.ndarray:
        """`(m, C)`: the m positions of the axis that each column stands for.

        More than one where a map was flattened: the positions on the map are then rows. Where
        channels are held unequally often, each position of the axis is a column of its own.
        """
        return self._held[1]

    @property
    def view(self) -> tuple[object, ...]:
        """Equal for consumers that see the same in the same tensor."""
        as_it_is = CONSUMERS[type(self.layer)].see is channels_last
        order = getattr(self.layer, "data_format", None) == "channels_first"
        return ("" if as_it_is else self.path, order, self.slots.shape, self.slots.tobytes())

    def columns(self, group: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the columns `(times, n)` that hold a group's channels, and these `(n,)`."""
        found = np.nonzero(self.channels[:, 0] == group)[0]
        channel = self.channels[found, 1]
        unique = np.unique(channel)
        sorted_columns = found[np.argsort(channel, kind="stable")]
        return sorted_columns.reshape(max(len(unique), 1), -1).T, unique

    def keeps(self, ranks: Sequence[np.ndarray]) -> np.ndarray:
        """Return a mask `(C,)` over the columns: which channels stay (see `channel_ranks`)."""
        return np.array([g < 0 or ranks[g][c] >= 0 for g, c in self.channels.tolist()])

    def rows(self, x: Tensor, positions: int, generator: np.random.Generator) -> Tensor:
        """Return `(batch, p, C)`: what the kernel sees at up to `positions` places per sample.

        The places are drawn anew for each batch and are the same for the samples in it. Channel
        groups of a convolution count as places. All m slots of a flattened map are there.
        """

        def choose(size: int) -> np.ndarray | None:
            few = size <= positions
            return None if few else generator.choice(size, positions, replace=False)

        return self.rows_at(x, choose)

    def rows_at(self, x: Tensor, choose: Callable[[int], Any]) -> Tensor:
        """Return what `rows` does, at places that the caller chooses.

        Args:
            x: `(batch, ...)` input of the layer.
            choose: takes the number of places, returns those wanted or `None` for all.
        """
        seen = CONSUMERS[type(self.layer)].see(self.layer, x)
        seen = take_places(seen, self.axis.group.size, choose)
        if len(self.slots) == 1:
            return seen
        taken = ops.take(seen, self.slots.ravel(), axis=-1)
        return ops.reshape(taken, (ops.shape(seen)[0], *self.slots.shape))


def take_places(x: Tensor, columns: int, choose: Callable[[int], Any]) -> Tensor:
    """Return `(n, places, columns)` of `(n, ..., columns)`, at places that the caller chooses.

    Args:
        x: with channels last.
        columns: size of its last axis.
        choose: takes the number of places, returns those wanted or `None` for all.
    """
    rows = ops.reshape(x, (ops.shape(x)[0], -1, columns))
    chosen = choose(rows.shape[1])
    return rows if chosen is None else ops.take(rows, chosen, axis=1)


def find_consumers(groups: Groups) -> tuple[Consumer, ...]:
    """Return the layers that read channels and whose way of reading is known, in call order.

    Example:
        >>> import keras
        >>> from edgeprune.tracing.groups import find_groups
        >>> model = keras.Sequential([
        ...     keras.Input((4,)), keras.layers.Dense(8, name="hidden"),
        ...     keras.layers.Dense(2, name="head")])
        >>> [consumer.path for consumer in find_consumers(find_groups(model))]
        ['hidden', 'head']
    """
    axes = {(axis.layer, axis.weight, axis.axis): axis for axis in groups.axes}
    calls: dict[str, list[Call]] = {}
    for call in groups.graph.calls:
        calls.setdefault(call.path, []).append(call)
    destinations = DestinationFinder(groups.graph)
    consumers = []
    for path, (call, *more) in calls.items():
        if type(call.operation) not in CONSUMERS:
            continue
        kernel = kernel_of(call.operation)
        weights = [id(weight) for weight in call.operation.weights]
        if id(kernel) not in weights:  # a sum: the layer is adapted (LoRA), and locked
            continue
        index = weights.index(id(kernel))
        rank = len(kernel.shape)
        reads = axes.get((path, index, rank - 2))
        if reads is None or reads.role != "reads":
            continue
        consumer = Consumer(
            call, reads, destinations.find(call), axes[path, index, rank - 1], bool(more)
        )
        if len(consumer.channels) <= MOST_COLUMNS:
            consumers.append(consumer)
    return tuple(consumers)
