"""One pass over calibration data, summed: all that criteria and closed-form recoveries need.

Statistics are taken at the inputs of the layers that read a group. They are sums, so shards add up
with `+`, memory does not grow with the number of samples, and one forward pass serves everything.
Products are computed on the backend; only `C x C` results come home, as float64.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from functools import reduce
from typing import Any, TypeVar

import numpy as np
from keras import ops

from edgeprune.graph import Call, run
from edgeprune.groups import Groups
from edgeprune.progress import SILENT, Progress
from edgeprune.readers import Reader, channels_last, find_readers

POSITIONS = 64
BATCH_SIZE = 64


@dataclass(frozen=True)
class Spread:
    """Sums over all positions of a tensor.

    Attributes:
        count: number of positions.
        total: `(channels,)` sum.
        squares: `(channels,)` sum of squares.
    """

    count: int = 0
    total: np.ndarray = field(default_factory=lambda: np.zeros(1))
    squares: np.ndarray = field(default_factory=lambda: np.zeros(1))

    def __add__(self, other: Spread) -> Spread:
        """Add two shards."""
        return _add(self, other)

    @property
    def variance(self) -> np.ndarray:
        """`(channels,)` variance over positions."""
        return np.maximum(self.squares / self.count - (self.total / self.count) ** 2, 0.0)


@dataclass(frozen=True)
class Moments:
    """Sums at the input of one reader over sampled positions, for the C columns of the reader.

    Attributes:
        count: number of rows.
        total: `(m, C)` sum of the rows of each slot (see `Reader.slots`).
        gram: `(C, C)` sum of outer products.
        class_count: `(K,)` samples per class, as often as the layer was called.
        class_total: `(K, C)` sum over samples of the mean over the sampled positions.
        class_squares: `(K, C)` sum over samples of the square of that mean.
        landing: of the tensor where the reader's output lands; empty if there is none.
    """

    count: int
    total: np.ndarray
    gram: np.ndarray
    class_count: np.ndarray
    class_total: np.ndarray
    class_squares: np.ndarray
    landing: Spread = Spread()

    def __add__(self, other: Moments) -> Moments:
        """Add two shards."""
        return _add(self, other)

    @property
    def mean(self) -> np.ndarray:
        """`(m, C)` mean over the rows of each slot."""
        return self.total * (len(self.total) / self.count)

    @property
    def covariance(self) -> np.ndarray:
        """`(C, C)` covariance over rows, each slot about its own mean."""
        mean = self.mean
        return self.gram / self.count - mean.T @ mean / len(mean)


Sums = TypeVar("Sums", Spread, Moments)


def _add(one: Sums, other: Sums) -> Sums:
    found = (getattr(one, entry.name) + getattr(other, entry.name) for entry in fields(one))
    return type(one)(*found)


@dataclass(frozen=True)
class Statistics:
    """Moments of every reader of a model, by the path of the layer."""

    moments: Mapping[str, Moments]

    def __add__(self, other: Statistics) -> Statistics:
        """Add the statistics of two shards of the data.

        Raises:
            ValueError: they belong to different models or numbers of classes.
        """
        shapes, others = (
            {
                path: (m.class_total.shape, m.landing.total.shape)
                for path, m in found.moments.items()
            }
            for found in (self, other)
        )
        if shapes != others:
            different = sorted({path for path, _ in shapes.items() ^ others.items()})
            raise ValueError(
                "Statistics of different models cannot be added: these layers are in only one of "
                f"them, or of another size or number of classes: {', '.join(different[:4])}."
            )
        return Statistics({path: m + other.moments[path] for path, m in self.moments.items()})


def collect_statistics(
    groups: Groups,
    inputs: np.ndarray,
    targets: np.ndarray | None = None,
    *,
    num_classes: int = 1,
    positions: int = POSITIONS,
    batch_size: int = BATCH_SIZE,
    seed: int = 0,
    progress: Progress = SILENT,
) -> Statistics:
    """Run the calibration samples through the model once and sum what its readers see.

    Args:
        groups: of the model; the model itself is in their graph.
        inputs: `(n, ...)` preprocessed samples.
        targets: `(n,)` class of each sample, 0 to `num_classes - 1`; all 0 if not given.
        num_classes: number of classes.
        positions: sampled positions per sample and reader.
        batch_size: samples per forward pass.
        seed: of the choice of positions.
        progress: told after every batch.

    Returns:
        The statistics of this data.

    Raises:
        ValueError: there are no samples.

    Example:
        >>> import keras
        >>> from edgeprune.groups import find_groups
        >>> model = keras.Sequential([
        ...     keras.Input((2,)), keras.layers.Dense(8, name="hidden"), keras.layers.Dense(2)])
        >>> samples = np.array([[1, 0], [3, 4]], np.float32)
        >>> collect_statistics(find_groups(model), samples).moments["hidden"].mean.tolist()
        [[2.0, 2.0]]
    """
    if not len(inputs):
        raise ValueError("Statistics need at least one sample. Got none.")
    classes = np.zeros(len(inputs), np.int64) if targets is None else targets
    collector = _Collector(groups, positions, np.random.default_rng(seed))
    starts = range(0, len(inputs), batch_size)
    with progress.stage("statistics", len(starts)) as advance:

        def observe(start: int) -> Statistics:
            one_hot = np.eye(num_classes, dtype=np.float32)[classes[start : start + batch_size]]
            found = collector.observe(inputs[start : start + batch_size], one_hot)
            advance()
            return found

        return reduce(operator.add, map(observe, starts))


class _Collector:
    """Runs batches through a model and takes the moments of each."""

    def __init__(self, groups: Groups, positions: int, generator: np.random.Generator) -> None:
        self.graph = groups.graph
        self.positions = positions
        self.generator = generator
        self.readers = {reader.path: reader for reader in find_readers(groups)}
        self.landings: dict[int | None, list[Reader]] = {}
        for reader in self.readers.values():
            self.landings.setdefault(reader.landing.tensor, []).append(reader)

    def observe(self, batch: np.ndarray, one_hot: np.ndarray) -> Statistics:
        sums: dict[str, Moments] = {}
        landed: dict[str, Spread] = {}

        def on_call(call: Call, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            reader = self.readers.get(call.path)
            if reader is not None:
                found = self._sum(reader, args[0], one_hot)
                sums[call.path] = sums[call.path] + found if call.path in sums else found
            result = call.operation(*args, **kwargs)
            for lands in self.landings.get(call.outputs[0].number, []):
                landed[lands.path] = _spread(channels_last(lands.layer, result))
            return result

        run(self.graph, [ops.convert_to_tensor(batch)], on_call)
        return Statistics(
            {
                path: replace(found, landing=landed.get(path, Spread()))
                for path, found in sums.items()
            }
        )

    def _sum(self, reader: Reader, x: Any, one_hot: np.ndarray) -> Moments:
        rows = reader.rows(x, self.positions, self.generator)
        pooled = ops.mean(rows, axis=1)
        flat = ops.reshape(rows, (-1, rows.shape[-1]))
        by_slot = rows if len(reader.slots) > 1 else ops.expand_dims(flat, 1)
        return Moments(
            int(flat.shape[0]),
            _bring_home(ops.sum(by_slot, axis=0)),
            _bring_home(ops.matmul(ops.transpose(flat), flat)),
            one_hot.sum(0).astype(np.float64),
            _bring_home(ops.matmul(one_hot.T, pooled)),
            _bring_home(ops.matmul(one_hot.T, ops.square(pooled))),
        )


def _spread(x: Any) -> Spread:
    flat = ops.reshape(x, (-1, x.shape[-1]))
    total, squares = ops.sum(flat, axis=0), ops.sum(ops.square(flat), axis=0)
    return Spread(int(flat.shape[0]), _bring_home(total), _bring_home(squares))


def _bring_home(x: Any) -> np.ndarray:
    return np.asarray(ops.convert_to_numpy(x), dtype=np.float64)
