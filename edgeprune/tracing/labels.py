"""Run the model on channel labels instead of numbers.

Every tensor carries one integer per channel. A layer *passes* labels on (ReLU, pooling, BatchNorm),
*merges* them (Add, Multiply), *joins* them (Concatenate), or *reads* them on one axis of a weight
and *writes* fresh ones on another (Conv2D, Dense). Merged labels are one channel: it is removed
everywhere or nowhere. NumPy and SciPy only; no layer is known here.

The labels of a tensor are an integer array that broadcasts to the tensor's shape without the batch
axis: `(1, 1, C)` for a feature map of C channels, `(H * W * C,)` after Flatten. They vary along one
axis at most, because what remains of a tensor must be a rectangle. `NO_LABEL` marks positions that
belong to no channel (constants, positional tables).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

NO_LABEL = -1
MEETS_CONSTANTS = "side by side with constants that must stay"
BROADCAST = "one channel that is broadcast over the channels of another tensor"

Shape = tuple[int | None, ...]
Role = Literal["reads", "writes", "passes"]

Keep = Callable[[np.ndarray], np.ndarray]
"""From labels `(size,)` to the positions that stay, in their new order."""
ConfigChange = Callable[[dict[str, Any], Keep], None]
"""Adapts a layer's config in place to the channels that stay."""
CallChange = Callable[
    [tuple[Any, ...], dict[str, Any], Keep], tuple[tuple[Any, ...], dict[str, Any]]
]
"""From the arguments of a call to those that fit the channels that stay."""


@dataclass(frozen=True)
class AxisUse:
    """One axis of one weight carries labels.

    Attributes:
        layer: path of the layer that owns the weight.
        weight: index into `layer.weights`.
        axis: axis of the weight, not negative.
        role: `reads` if the axis consumes channels, `writes` if it makes them, `passes` if it holds
            one value per channel.
        labels: `(size of the axis,)` labels, before merging.
    """

    layer: str
    weight: int
    axis: int
    role: Role
    labels: np.ndarray


class LabelSpace:
    """Hands out labels and remembers which of them must live and die together.

    Attributes:
        uses: every axis of a weight that carries labels, in the order in which it was met.
        extents: labels counted by an entry of a layer's config: `(layer, "filters", None)`.
        repeats: path of a layer -> labels that no weight of it holds: it works once for each.
        tensors: labels of tensors that hold some channels of another tensor: never all of them go.
        config_changes: path of a layer -> what adapts the rest of its config.
        call_changes: (path, which of its calls) -> what adapts the arguments.

    Example:
        >>> space = LabelSpace()
        >>> a, b = space.fresh(3), space.fresh(3)
        >>> _ = space.merge([a, b], [(3,), (3,)])
        >>> space.channels(np.concatenate([a, b])).tolist()
        [0, 1, 2, 0, 1, 2]
    """

    def __init__(self) -> None:
        """Start without any label."""
        self._size = 0
        self._merged: list[tuple[np.ndarray, np.ndarray]] = []
        self._locks: list[tuple[np.ndarray, str]] = []
        self._channels: np.ndarray | None = None
        self.uses: dict[Hashable, AxisUse] = {}
        self.extents: dict[tuple[str, str, int | None], np.ndarray] = {}
        self.repeats: dict[str, np.ndarray] = {}
        self.tensors: list[np.ndarray] = []
        self.config_changes: dict[str, ConfigChange] = {}
        self.call_changes: dict[tuple[str, int], CallChange] = {}

    def fresh(self, count: int) -> np.ndarray:
        """Return `count` labels that no tensor carries yet, shape `(count,)`."""
        labels = np.arange(self._size, self._size + count)
        self._size += count
        self._channels = None
        return labels

    def merge(self, labels: Sequence[np.ndarray], shapes: Sequence[Shape]) -> np.ndarray:
        """Tie the labels of several tensors position by position, as an elementwise operation does.

        A tensor with one channel that is broadcast over many (a spatial gate) is none of them: its
        channel is locked instead of tied. Channels that meet constants are locked as well: nothing
        could remove the constant.

        Args:
            labels: labels of each tensor.
            shapes: shape of each tensor without the batch axis, `None` where unknown.

        Returns:
            The labels of the result.
        """
        rank = max(len(shape) for shape in shapes)
        padded = [found.reshape((1,) * (rank - found.ndim) + found.shape) for found in labels]
        sizes = [(1,) * (rank - len(shape)) + tuple(shape) for shape in shapes]
        equal = []
        for found, size in zip(padded, sizes, strict=True):
            if any(
                size[axis] == 1 and any(other.shape[axis] > 1 for other in padded)
                for axis in range(rank)
            ):
                self.lock(found, BROADCAST)
            else:
                equal.append(found)
        result = np.full((1,) * rank, NO_LABEL)
        for found in equal:
            left, right = np.broadcast_arrays(result, found)
            self.tie(left, right)
            result = np.where(left == NO_LABEL, right, left)
        for found in equal:
            constant = np.broadcast_to(found == NO_LABEL, result.shape)
            self.lock(result[constant], MEETS_CONSTANTS)
        return result

    def tie(self, a: np.ndarray, b: np.ndarray) -> None:
        """Make labels at equal positions of two arrays of one shape the same channel."""
        both = (a != NO_LABEL) & (b != NO_LABEL) & (a != b)
        if both.any():
            self._merged.append((a[both], b[both]))
            self._channels = None

    def collapse(self, labels: np.ndarray, axis: int) -> np.ndarray:
        """Return one label per position of `axis`, tying whatever the other axes hold there.

        Args:
            labels: labels of a tensor.
            axis: the axis to keep, may be negative.

        Returns:
            Shape `(labels.shape[axis],)`.
        """
        rows = np.moveaxis(labels, axis, -1).reshape(-1, labels.shape[axis])
        if len(rows) > 1:
            rows = np.unique(rows, axis=0)
        kept = rows[0]
        for row in rows[1:]:
            self.tie(kept, row)
            kept = np.where(kept == NO_LABEL, row, kept)
        if len(rows) > 1:
            self.lock(kept[(rows == NO_LABEL).any(axis=0)], MEETS_CONSTANTS)
        return kept

    def use(self, key: Hashable, use: AxisUse) -> np.ndarray:
        """Record that a weight's axis carries labels; a second use ties them to the first.

        Returns:
            The labels of the first use, so that a shared layer writes the same channels twice.
        """
        if key in self.uses:
            self.tie(self.uses[key].labels, use.labels)
        else:
            self.uses[key] = use
        return self.uses[key].labels

    def rectangular(self, labels: np.ndarray) -> np.ndarray:
        """Tie labels that vary along several axes until they vary along one.

        The axis that leaves most channels to choose from is kept.
        """
        labels = shorten(labels)
        axes = varying_axes(labels)
        if len(axes) < 2:
            return labels
        choices = []
        for axis in axes:
            first = np.moveaxis(labels, axis, 0).reshape(labels.shape[axis], -1)[:, 0]
            choices.append((len(np.unique(first)), axis))
        axis = max(choices)[1]
        shape = [1] * labels.ndim
        shape[axis] = -1
        return self.collapse(labels, axis).reshape(shape)

    def divide(self, labels: np.ndarray) -> None:
        """Say that a tensor holds these labels: they become groups that never go entirely."""
        self.tensors.append(labels)

    def lock(self, labels: np.ndarray, reason: str) -> None:
        """Forbid the removal of labels, and say why."""
        labels = labels[labels != NO_LABEL].ravel()
        if labels.size:
            self._locks.append((labels, reason))

    def channels(self, labels: np.ndarray) -> np.ndarray:
        """Map labels to channels: equal numbers for labels that were tied; `NO_LABEL` stays."""
        if self._channels is None:
            self._channels = self._connect()
        table = np.append(self._channels, NO_LABEL)
        return table[labels]

    def _connect(self) -> np.ndarray:
        if not self._merged:
            return np.arange(self._size)
        rows = np.concatenate([a for a, _ in self._merged])
        columns = np.concatenate([b for _, b in self._merged])
        graph = coo_array((np.ones(rows.size, bool), (rows, columns)), (self._size, self._size))
        _, component = connected_components(graph, directed=False)
        return np.asarray(component, dtype=np.int64)

    def locks(self) -> list[tuple[np.ndarray, str]]:
        """Return the channels that must stay, with the reason, in the order of discovery."""
        return [(np.unique(self.channels(labels)), reason) for labels, reason in self._locks]

    def locked(self) -> dict[int, tuple[str, ...]]:
        """Return the reasons of every locked channel, each once, in the order of discovery."""
        reasons: dict[int, dict[str, None]] = {}
        for channels, reason in self.locks():
            for channel in channels.tolist():
                reasons.setdefault(channel, {})[reason] = None
        return {channel: tuple(found) for channel, found in reasons.items()}

    def adopt(self, other: LabelSpace, table: np.ndarray) -> None:
        """Repeat the ties and locks of another space.

        Args:
            other: the space.
            table: `(len(other),)` the label of this space that each of the other's stands for.
        """
        for a, b in other._merged:
            self.tie(table[a], table[b])
        for labels, reason in other._locks:
            self.lock(table[labels], reason)

    def __len__(self) -> int:
        """Count the labels handed out so far."""
        return self._size


def shorten(labels: np.ndarray) -> np.ndarray:
    """Return labels with size 1 on every axis along which they do not vary."""
    for axis in range(labels.ndim):
        if labels.shape[axis] > 1:
            first = labels.take([0], axis=axis)
            if (labels == first).all():
                labels = first
    return labels


def varying_axes(labels: np.ndarray) -> tuple[int, ...]:
    """Return the axes of shortened labels that hold more than one position."""
    return tuple(axis for axis in range(labels.ndim) if labels.shape[axis] > 1)
