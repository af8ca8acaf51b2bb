"""What a criterion may look at: the model's weights, its groups and the statistics of the data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from keras import ops

from edgeprune.errors import ClassError
from edgeprune.groups import Group, Groups, find_head
from edgeprune.readers import Reader, find_readers, kernel_matrix
from edgeprune.statistics import Statistics


@dataclass(frozen=True)
class View:
    """One reader's view of a group.

    Attributes:
        covariance: `(width, width)` of the channels where the reader sees them.
        metric: `(width, width)`: tr(metric E) is the damage that an error of covariance E in the
            channels does to the reader's output, 1 being as large as the signal there.
    """

    covariance: np.ndarray
    metric: np.ndarray


@dataclass(frozen=True)
class Evidence:
    """Weights, groups and statistics of one model.

    Attributes:
        groups: of the model, which is in their graph.
        statistics: of the calibration data.
        classes: outputs that will be kept; `None` for all.
        seed: for criteria that draw.
    """

    groups: Groups
    statistics: Statistics
    classes: tuple[int, ...] | None = None
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

    @cached_property
    def _head(self) -> str | None:
        """Path of the layer that writes the classes, if the model is a classifier."""
        try:
            return find_head(self.groups).layers("writes")[0]
        except ClassError:
            return None

    def views(self, group: Group) -> list[View]:
        """Return how each reader of a group sees its channels and what it makes of them.

        Args:
            group: a group of these groups.

        Returns:
            One view per reader that has statistics; none if the group is read in no known way.
        """
        number = self.groups.index[group.name]
        found = []
        for reader in self.readers:
            columns, channels = reader.columns(number)
            if not columns.size or not reader.uniform:
                continue
            covariance = np.zeros((group.width, group.width))
            metric = np.zeros((group.width, group.width))
            inner = np.ix_(channels, channels)
            seen = np.ix_(columns, columns)
            covariance[inner] = self.statistics.moments[reader.path].covariance[seen]
            metric[inner] = self._metric(reader)[seen]
            found.append(View(covariance, metric))
        return found

    def _metric(self, reader: Reader) -> np.ndarray:
        """Return M with tr(M E) = damage done by an error of covariance E at the reader's input.

        The damage is the mean over output channels of the error's variance relative to the variance
        of the tensor in which the output lands; taps count as independent. The head is judged on
        the kept classes and up to a common offset, which softmax does not see.
        """
        moments = self.statistics.moments[reader.path]
        kernel = kernel_matrix(reader.layer, reader.kind)
        if reader.path == self._head:
            chosen = kernel if self.classes is None else kernel[:, :, list(self.classes)]
            chosen = chosen - chosen.mean(axis=-1, keepdims=True)
            metric = _outer(chosen, reader, np.ones(chosen.shape[-1]))
            total = float((metric * moments.covariance).sum())
            return metric / max(total, np.finfo(float).tiny)
        scale = np.ones(kernel.shape[-1])
        normalization = reader.landing.normalization
        if normalization is not None:
            variance = ops.convert_to_numpy(normalization.moving_variance).astype(np.float64)
            scale = 1 / (variance + normalization.epsilon)
            if normalization.gamma is not None:
                scale = scale * ops.convert_to_numpy(normalization.gamma).astype(np.float64) ** 2
        variance = moments.landing_variance
        floor = max(1e-3 * float(variance.mean()), np.finfo(float).tiny)
        weight = scale / np.maximum(variance, floor) / len(variance)
        return _outer(kernel, reader, weight)


def _outer(kernel: np.ndarray, reader: Reader, weight: np.ndarray) -> np.ndarray:
    """Sum of `W_c diag(weight) W_d^T` over taps and slots, `(C, C)`."""
    by_slot = kernel[:, reader.slots]  # taps, slots, channels, outputs
    rows = np.moveaxis(by_slot, 2, 0).reshape(by_slot.shape[2], -1, len(weight))
    flat = (rows * np.sqrt(weight)).reshape(len(rows), -1)
    return np.asarray(flat @ flat.T)


Criterion = Callable[[Evidence, Group], np.ndarray]
