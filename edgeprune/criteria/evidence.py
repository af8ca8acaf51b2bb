"""What a criterion may look at: the model's weights, its groups and the statistics of the data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from edgeprune.groups import Group, Groups
from edgeprune.readers import Reader, find_readers, kernel_matrix
from edgeprune.statistics import Statistics


@dataclass(frozen=True)
class Evidence:
    """Weights, groups and statistics of one model.

    Attributes:
        groups: of the model, which is in their graph.
        statistics: of the calibration data.
        seed: for criteria that draw.
    """

    groups: Groups
    statistics: Statistics
    seed: int = 0

    @cached_property
    def readers(self) -> tuple[Reader, ...]:
        """Every layer with statistics."""
        return tuple(r for r in find_readers(self.groups) if r.path in self.statistics.moments)

    @cached_property
    def weights(self) -> dict[str, list[np.ndarray]]:
        """Weights of every layer, by path."""
        return {
            call.path: call.operation.get_weights()
            for call in self.groups.graph.calls
            if call.is_layer
        }

    def scatter(self, group: Group) -> np.ndarray:
        """Return the covariance of a group's channels as its readers feel it, `(width, width)`.

        Each reader contributes the covariance of what it sees, scaled by the norms of the kernel
        slices that read each channel and divided by the reader's total, so that the diagonal is
        the share of the reader's variance that a removed channel would take, summed over readers.
        """
        number = self.groups.index[group.name]
        scatter = np.zeros((group.width, group.width))
        for reader in self.readers:
            columns, channels = reader.columns(number)
            if not columns.size or not reader.uniform:
                continue
            covariance = self.statistics.moments[reader.path].covariance
            strength = self._strength(reader)
            total = float((np.diag(covariance) * strength).sum())
            if total <= 0:
                continue
            scale = np.sqrt(strength[columns])
            block = covariance[np.ix_(columns, columns)] * np.outer(scale, scale) / total
            scatter[np.ix_(channels, channels)] += block
        return scatter

    @staticmethod
    def _strength(reader: Reader) -> np.ndarray:
        """Squared norm of the kernel slices that read each channel, `(C,)`."""
        matrix = kernel_matrix(reader.layer, reader.kind)
        squares = (matrix**2).sum(axis=(0, 2))
        return np.asarray(squares[reader.slots].sum(axis=0))


Criterion = Callable[[Evidence, Group], np.ndarray]
