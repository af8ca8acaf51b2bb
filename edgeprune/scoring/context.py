"""What a criterion may look at: the model's weights, its groups and the statistics of the data."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, wraps
from typing import Any

import numpy as np
from keras import ops

from edgeprune.errors import ClassError, EdgepruneError
from edgeprune.scoring.calibration_samples import CalibrationSamples
from edgeprune.scoring.consumer_kinds import kernel_matrix
from edgeprune.scoring.consumers import Consumer, find_consumers
from edgeprune.scoring.method_settings import DEFAULT_SETTINGS, Settings
from edgeprune.scoring.sums import Moments, Statistics
from edgeprune.tracing.graph import Call
from edgeprune.tracing.groups import Group, Groups, find_head
from edgeprune.tracing.outputs import Task, output_kinds

LEAST_SIGNAL = 1e-3
CONSTANT = 1e-6
"""Share of a channel's power below which its variance is rounding."""
TINY = float(np.finfo(float).tiny)


@dataclass(frozen=True)
class View:
    """One consumer's view of a group.

    Attributes:
        covariance: `(width, width)` of the channels where the consumer sees them.
        metric: `(width, width)`: tr(metric E) is the damage that an error of covariance E in the
            channels does to the consumer's output, 1 being as large as the signal there.
    """

    covariance: np.ndarray
    metric: np.ndarray


@dataclass(frozen=True)
class PruningContext:
    """Weights, groups and statistics of one model.

    Attributes:
        groups: of the model, which is in their graph.
        statistics: of the calibration data.
        classes: outputs that will be kept; `None` for all.
        seed: for criteria that draw.
        calibration: the calibration samples, for criteria that need more than the statistics.
        present: class of each row of the statistics' sums per class; `None` where row i is class i.
        widths: that groups will probably have, by name.
        settings: of the method.
        task: what the outputs mean, see `output_kinds`.
    """

    groups: Groups
    statistics: Statistics
    classes: tuple[int, ...] | None = None
    seed: int = 0
    calibration: CalibrationSamples | None = field(default=None, repr=False)
    present: tuple[int, ...] | None = None
    widths: Mapping[str, int] = field(default_factory=dict)
    settings: Settings = DEFAULT_SETTINGS
    task: Task = "auto"

    @property
    def samples(self) -> CalibrationSamples:
        """The calibration samples.

        Raises:
            EdgepruneError: there are none.
        """
        if self.calibration is None or not len(self.calibration.inputs):
            raise EdgepruneError(
                "This criterion needs calibration samples; the context has statistics only. Give "
                "it `CalibrationSamples(groups, inputs, targets)`."
            )
        return self.calibration

    @cached_property
    def layers(self) -> dict[str, Any]:
        """Every layer, by path."""
        return {call.path: call.operation for call in self.groups.graph.calls if call.is_layer}

    @cached_property
    def weights(self) -> dict[str, list[np.ndarray]]:
        """Weights of every layer, by path."""
        return {
            call.path: call.operation.get_weights()
            for call in self.groups.graph.calls
            if call.is_layer
        }

    @cached_property
    def _consumers(self) -> list[tuple[Consumer, Moments, np.ndarray]]:
        """Every layer with statistics, and how much an error of each output's variance hurts."""
        known = self.statistics.moments
        found = [(r, known[r.path]) for r in find_consumers(self.groups) if r.path in known]
        return [(consumer, moments, self._weigh(consumer, moments)) for consumer, moments in found]

    @cached_property
    def _head(self) -> str | None:
        """Path of the layer that writes the classes, if the model is a classifier."""
        try:
            return find_head(self.groups).layers("writes")[0]
        except ClassError:
            return None

    def views(self, group: Group) -> list[View]:
        """Return how each consumer of a group sees its channels and what it makes of them.

        Returns:
            One view per consumer that has statistics, all finite; none if the group is read in no
            known way.
        """
        if group.name not in self._views:
            self._views.clear()  # of one group at a time: they are large
            self._views[group.name] = self._find_views(group)
        return self._views[group.name]

    @cached_property
    def _views(self) -> dict[str, list[View]]:
        return {}

    def _find_views(self, group: Group) -> list[View]:
        number = self.groups.index[group.name]
        found = []
        for consumer, moments, weight in self._consumers:
            columns, channels = consumer.columns(number)
            if channels.size:
                inner = np.ix_(channels, channels)
                covariance, metric = np.zeros((2, group.width, group.width))
                seen = [moments.covariance[np.ix_(row, row)] for row in columns]
                covariance[inner] = np.mean(seen, axis=0)
                slots = consumer.slots[:, columns].reshape(-1, len(channels))
                metric[inner] = _outer(self._kernel(consumer)[:, slots], weight)
                if np.isfinite(covariance).all() and np.isfinite(metric).all():
                    found.append(View(covariance, metric))
        return found

    def width_of(self, group: Group) -> int:
        """Return the width that a group will probably have: half where nothing is known."""
        return int(np.clip(self.widths.get(group.name, group.width // 2), 1, group.width))

    def alive(self, group: Group) -> np.ndarray:
        """Return which channels vary where they are read, and count there, `(width,)`.

        All do where no consumer has statistics.
        """
        if group.name not in self._alive:
            self._alive[group.name] = self._find_alive(group)
        return self._alive[group.name]

    @cached_property
    def _alive(self) -> dict[str, np.ndarray]:
        return {}

    def _find_alive(self, group: Group) -> np.ndarray:
        number = self.groups.index[group.name]
        alive, known = np.zeros(group.width, bool), False
        for consumer, moments, _ in self._consumers:
            columns, channels = consumer.columns(number)
            if not channels.size:
                continue
            known = True
            power = np.diag(moments.gram)[columns].mean(axis=0) / moments.count
            variance = np.diag(moments.covariance)[columns].mean(axis=0)
            slots = consumer.slots[:, columns].reshape(-1, len(channels))
            used = np.abs(self._kernel(consumer)[:, slots]).max(axis=(0, 1, 3)) > 0
            # What is not finite is not known to be dead.
            alive[channels] |= used & ~(variance <= CONSTANT * power)
        return alive if known else np.ones(group.width, bool)

    def class_means(self, group: Group) -> list[np.ndarray]:
        """Return the mean response of each channel to each kept class that has samples.

        Returns:
            For each consumer with statistics, `(classes, width)`; NaN and infinity are 0.
        """
        return [
            np.nan_to_num(total / count[:, None], posinf=0, neginf=0)
            for count, total, _ in self.class_sums(group)
        ]

    def class_sums(self, group: Group) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Return sums over the samples of each kept class of what each consumer sees, pooled.

        Returns:
            For each consumer with statistics: number of samples `(classes,)`, sum and sum of
            squares `(classes, width)`, over the classes that will be kept and have samples.
        """
        number = self.groups.index[group.name]
        found = []
        for consumer, moments, _ in self._consumers:
            columns, channels = consumer.columns(number)
            rows = np.nonzero((moments.class_count > 0) & self._kept(len(moments.class_count)))[0]
            if channels.size and rows.size:
                total, squares = np.zeros((2, len(rows), group.width))
                total[:, channels] = moments.class_total[rows][:, columns].mean(axis=1)
                squares[:, channels] = moments.class_squares[rows][:, columns].mean(axis=1)
                found.append((moments.class_count[rows], total, squares))
        return found

    def _kept(self, num_rows: int) -> np.ndarray:
        """Return which rows of the sums per class belong to classes that will be kept."""
        rows = range(num_rows) if self.present is None else self.present
        return np.array([self.classes is None or row in self.classes for row in rows])

    def _kernel(self, consumer: Consumer) -> np.ndarray:
        """Return `(taps, positions of the axis, outputs)` of what counts in a consumer's output.

        The head is judged on the kept classes, and up to a common offset where softmax does not see
        that.
        """
        kernel = kernel_matrix(consumer.layer)
        if consumer.path != self._head:
            return kernel
        chosen = kernel if self.classes is None else kernel[:, :, list(self.classes)]
        return chosen - chosen.mean(axis=-1, keepdims=True) if self._compares else chosen

    @cached_property
    def _compares(self) -> bool:
        """Whether only differences between the outputs of the head matter."""
        targets = self.calibration is not None and self.calibration.targets.size > 0
        known = self.classes is not None or targets
        kinds = output_kinds(self.groups.graph, self.task, labelled=known)
        return kinds[0].kind == "classes"

    def _weigh(self, consumer: Consumer, moments: Moments) -> np.ndarray:
        """Return for each output of a consumer what an error of variance 1 in it counts.

        The damage is the mean over outputs of the error's variance relative to the variance of the
        tensor in which the output lands; taps count as independent. Where there is no such tensor,
        it is relative to what the consumer makes of its input, and outputs of the head share that.
        """
        destination = consumer.destination
        if consumer.path == self._head or destination.tensor is None:
            by_slot = self._kernel(consumer)[:, consumer.slots]  # taps, slots, channels, outputs
            variance = np.einsum("tsco,tsco->o", by_slot, moments.covariance @ by_slot)
            if consumer.path == self._head:
                variance = np.full(len(variance), variance.mean())
            gain = np.ones(len(variance))
        else:
            variance, gain = moments.destination.variance, _gain(destination.normalization)
        floor = max(LEAST_SIGNAL * float(variance.mean()), TINY)
        return np.asarray(gain / np.maximum(variance, floor) / len(variance))


def _gain(normalization: Call | None) -> np.ndarray:
    """Return by how much a BatchNormalization multiplies variances."""
    if normalization is None:
        return np.ones(1)
    layer = normalization.operation
    gain = 1 / (ops.convert_to_numpy(layer.moving_variance).astype(np.float64) + layer.epsilon)
    if layer.gamma is not None:
        gain = gain * ops.convert_to_numpy(layer.gamma).astype(np.float64) ** 2
    return np.asarray(gain)


def _outer(by_slot: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Sum of `W_c diag(weight) W_d^T` over taps and slots, `(C, C)`.

    Args:
        by_slot: `(taps, slots, C, outputs)`.
        weight: `(outputs,)`, not negative.
    """
    rows = np.moveaxis(by_slot, 2, 0) * np.sqrt(weight)
    flat = rows.reshape(len(rows), -1)
    return np.asarray(flat @ flat.T)


Criterion = Callable[[PruningContext, Group], np.ndarray]
"""Gives the channels of a group scores, `(width,)`, higher = keep.

Where the context lacks what it looks at, these are the L1 norms of the filters.
"""


def dead_last(criterion: Criterion) -> Criterion:
    """Put dead channels below all others; among themselves they keep their order.

    A channel is dead if it is constant wherever it is read, or weighs nothing there: taking it out
    costs nothing that a bias could not restore. Where no consumer has statistics, nothing is known
    to be dead.
    """

    @wraps(criterion)
    def guarded(context: PruningContext, group: Group) -> np.ndarray:
        scores = np.array(criterion(context, group), np.float64)
        alive = context.alive(group)
        if alive.all() or not alive.any():
            return scores
        span = float(np.ptp(scores)) or 1.0
        overlap = scores[~alive].max() - scores[alive].min()
        scores[~alive] -= max(overlap, 0.0) + span
        return scores

    return guarded
