"""One pass over calibration data: what consumers see, summed on the backend."""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Callable
from functools import cached_property
from typing import Any

import keras
import numpy as np
from keras import ops

from edgeprune.scoring.consumer_kinds import channels_last
from edgeprune.scoring.consumers import Consumer, find_consumers, take_places
from edgeprune.scoring.sums import Moments, Spread, Statistics
from edgeprune.support.progress import stage
from edgeprune.tracing.graph import Call, run
from edgeprune.tracing.groups import Groups
from edgeprune.tracing.inference import full_float32

LEAST_POSITIONS, MOST_POSITIONS = 16, 64
ROWS = 8
"""Per column of a covariance; with fewer samples than that takes, each gives more positions."""
BATCH_SIZE = 64
COMPILED_FROM = 2 if keras.backend.backend() == "jax" else 8
"""Full batches from which compiling pays: JAX is slow without, TensorFlow takes seconds for it."""
RECURRENT_FROM = 3
"""Likewise where steps run one after another, which takes a second and more per batch."""

Tensors = dict[str, list[Any]]
Choose = Callable[[int, int], Any]
"""From the number of places, and how many are wanted, to those taken; `None` for all."""


@full_float32()
def collect_statistics(
    groups: Groups,
    inputs: np.ndarray,
    targets: np.ndarray | None = None,
    *,
    num_classes: int = 1,
    positions: int | None = None,
    batch_size: int = BATCH_SIZE,
    seed: int = 0,
) -> Statistics:
    """Run the calibration samples through the model once and sum what its consumers see.

    Args:
        groups: of the model; the model itself is in their graph.
        inputs: `(n, ...)` preprocessed samples.
        targets: `(n,)` class of each sample, 0 to `num_classes - 1`; all 0 if not given.
        num_classes: number of classes.
        positions: sampled positions per sample and consumer; by default 16, and up to 64 where
            there are few samples for the number of channels.
        batch_size: samples per forward pass.
        seed: of the choice of positions.

    Where there are many batches they are run by a compiled function, if the backend has that
    (TensorFlow, JAX); the first one, and a last one of another size, are run layer by layer.

    Returns:
        The statistics of this data.

    Raises:
        ValueError: there are no samples.

    Example:
        >>> import keras
        >>> from edgeprune.tracing.groups import find_groups
        >>> model = keras.Sequential([
        ...     keras.Input((2,)), keras.layers.Dense(8, name="hidden"), keras.layers.Dense(2)])
        >>> samples = np.array([[1, 0], [3, 4]], np.float32)
        >>> collect_statistics(find_groups(model), samples).moments["hidden"].mean.tolist()
        [[2.0, 2.0]]
    """
    if not len(inputs):
        raise ValueError("Statistics need at least one sample. Got none.")
    classes = np.zeros(len(inputs), np.int64) if targets is None else targets
    wanted = _want_positions(len(inputs)) if positions is None else lambda _: positions
    collector = _Collector(groups, wanted, np.random.default_rng(seed))
    steps = (keras.layers.RNN, keras.layers.Bidirectional)
    recurrent = any(isinstance(call.operation, steps) for call in groups.graph.calls)
    least = min(RECURRENT_FROM, COMPILED_FROM) if recurrent else COMPILED_FROM
    compiled = len(inputs) // batch_size >= least
    starts = range(0, len(inputs), batch_size)
    with stage("statistics", len(starts)) as advance:
        for start in starts:
            one_hot = np.eye(num_classes, dtype=np.float32)[classes[start : start + batch_size]]
            batch = inputs[start : start + batch_size]
            collector.observe(batch, one_hot, compiled and len(batch) == batch_size)
            advance()
    return collector.finish()


def _want_positions(samples: int) -> Callable[[int], int]:
    """Return how many positions of a sample are wanted for a number of columns."""
    return lambda columns: min(max(-(-ROWS * columns // samples), LEAST_POSITIONS), MOST_POSITIONS)


class _Collector:
    """Runs batches through a model and takes the moments of each.

    Attributes:
        wanted: from a number of columns to positions per sample.
        offers: places that there were in the first batch, and how many were wanted, in call order.
        rows: path of a consumer -> rows per sample, over all its calls.
        landed: path of a consumer -> positions per sample where its output lands.
        sums: path of a consumer -> what `_sum_up` found, added up over all batches.
        classes: samples per class.
    """

    def __init__(
        self, groups: Groups, wanted: Callable[[int], int], generator: np.random.Generator
    ) -> None:
        self.graph = groups.graph
        self.wanted = wanted
        self.generator = generator
        self.consumers = {consumer.path: consumer for consumer in find_consumers(groups)}
        self.destinations: dict[int | None, list[Consumer]] = {}
        for consumer in self.consumers.values():
            self.destinations.setdefault(consumer.destination.tensor, []).append(consumer)
        self.offers: list[tuple[int, int]] = []
        self.rows: dict[str, int] = {}
        self.landed: dict[str, int] = {}
        self.sums: dict[str, list[np.ndarray]] = {}
        self.classes: np.ndarray | float = 0.0

    @cached_property
    def _compiled(self) -> Any:
        return _Observer(self._sum_up)

    def observe(self, batch: np.ndarray, one_hot: np.ndarray, compiled: bool) -> None:
        """Add the sums of one batch.

        Args:
            batch: `(n, ...)` samples.
            one_hot: `(n, classes)`.
            compiled: whether to use the compiled function, for batches of the first one's shape.
        """
        if compiled and self.offers:
            chosen = [self._choose(*offer) for offer in self.offers]
            places = [one for one in chosen if one is not None]
            found = self._compiled.predict_on_batch([batch, one_hot, *places])
        else:
            self.offers = []
            found = self._sum_up(ops.convert_to_tensor(batch), one_hot, self._choose_next)
        for path, tensors in found.items():
            arrays = [ops.convert_to_numpy(tensor) for tensor in tensors]
            if path not in self.sums:
                self.sums[path] = [np.zeros(array.shape) for array in arrays]
            for total, array in zip(self.sums[path], arrays, strict=True):
                total += array
        self.classes = self.classes + one_hot.sum(0).astype(np.float64)

    def finish(self) -> Statistics:
        """Return the statistics of all batches."""
        calls = Counter(call.path for call in self.graph.calls)
        return Statistics({path: self._moments(path, calls[path]) for path in self.sums})

    def _moments(self, path: str, calls: int) -> Moments:
        """Say what the sums of a consumer were taken over."""
        total, gram, class_total, class_squares, *landed = self.sums[path]
        samples = round(float(np.sum(self.classes)))
        destination = Spread(self.landed[path] * samples, *landed) if landed else Spread()
        count, classes = self.rows[path] * samples, np.asarray(self.classes * calls)
        return Moments(count, total, gram, classes, class_total, class_squares, destination)

    def _choose_next(self, size: int, most: int) -> np.ndarray | None:
        self.offers.append((size, most))
        return self._choose(size, most)

    def _choose(self, size: int, most: int) -> np.ndarray | None:
        """Draw places anew; `None` where all are taken."""
        if size <= most:
            return None
        return self.generator.choice(size, most, replace=False).astype(np.int32)

    def _sum_up(self, batch: Any, one_hot: Any, choose: Choose) -> Tensors:
        """Return the sums of each consumer, and of where its output lands, as tensors.

        Consumers that see one tensor alike share their places and sums.
        """
        sums: Tensors = {}
        spreads: Tensors = {}
        seen: dict[tuple[Any, ...], tuple[list[Any], int]] = {}
        self.rows.clear()

        def on_call(call: Call, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            consumer = self.consumers.get(call.path)
            if consumer is not None:
                view = (call.inputs[0].number, *consumer.view)
                if view not in seen:
                    most = self.wanted(len(consumer.channels))
                    rows = consumer.rows_at(args[0], _limit(choose, most))
                    steps = int(rows.shape[0]) // int(one_hot.shape[0])
                    seen[view] = _sum(consumer, rows, one_hot), rows.shape[1] * steps
                found, count = seen[view]
                before = sums.get(call.path)
                sums[call.path] = (
                    found if before is None else list(map(operator.add, before, found))
                )
                self.rows[call.path] = self.rows.get(call.path, 0) + count
            result = call.operation(*args, **kwargs)
            destination = self.destinations.get(call.outputs[0].number, [])
            if destination:
                offered = channels_last(destination[0].layer, result)
                most = self.wanted(1)
                landed = take_places(offered, offered.shape[-1], _limit(choose, most))
                paths = [consumer.path for consumer in destination]
                spreads.update(dict.fromkeys(paths, _spread(landed)))
                places = landed.shape[1] * (int(landed.shape[0]) // int(one_hot.shape[0]))
                self.landed.update(dict.fromkeys(paths, places))
            return result

        run(self.graph, [batch], on_call)
        return {path: found + spreads.get(path, []) for path, found in sums.items()}


class _Observer(keras.Model):
    """What Keras compiles on every backend that compiles."""

    def __init__(self, sum_up: Callable[[Any, Any, Choose], Tensors]) -> None:
        super().__init__(name="observer", autocast=False)
        self._sum_up = sum_up
        self.compile(jit_compile=keras.backend.backend() == "jax")

    def call(self, given: list[Any]) -> Tensors:
        """Take samples, their classes, and the places of every consumer that offers too many."""
        batch, one_hot, *chosen = given
        places = iter(chosen)
        return self._sum_up(
            batch, one_hot, lambda size, most: next(places) if size > most else None
        )


def _sum(consumer: Consumer, rows: Any, one_hot: Any) -> list[Any]:
    """Return the sums of `Moments` that are not counts, in its order, as tensors."""
    pooled = pool_steps(ops.mean(rows, axis=1), int(one_hot.shape[0]))
    flat = ops.reshape(rows, (-1, rows.shape[-1]))
    by_slot = rows if len(consumer.slots) > 1 else ops.expand_dims(flat, 1)
    by_class = ops.transpose(one_hot)
    return [
        ops.sum(by_slot, axis=0),
        ops.matmul(ops.transpose(flat), flat),
        ops.matmul(by_class, pooled),
        ops.matmul(by_class, ops.square(pooled)),
    ]


def pool_steps(rows: Any, samples: int) -> Any:
    """Return means `(samples, C)` over the steps of sequences, which stand as samples in `rows`."""
    return ops.mean(ops.reshape(rows, (samples, -1, rows.shape[-1])), axis=1)


def _limit(choose: Choose, most: int) -> Callable[[int], Any]:
    return lambda size: choose(size, most)


def _spread(x: Any) -> list[Any]:
    flat = ops.reshape(x, (-1, x.shape[-1]))
    return [ops.sum(flat, axis=0), ops.sum(ops.square(flat), axis=0)]
