"""One pass over calibration data, summed: all that criteria and closed-form recoveries need.

Statistics are taken at the inputs of the layers that read a group. They are sums, so shards add up
with `+`, memory does not grow with the number of samples, and one forward pass serves everything.
Products are computed on the backend; only `C x C` results come home, as float64.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from keras import ops

from edgeprune.graph import Call, run
from edgeprune.groups import Groups
from edgeprune.progress import SILENT, Progress
from edgeprune.readers import Reader, find_readers

POSITIONS = 64
BATCH_SIZE = 64


@dataclass(frozen=True)
class Moments:
    """Sums at the input of one reader over `count` sampled positions of C channels.

    Attributes:
        count: number of rows.
        total: `(C,)` sum.
        gram: `(C, C)` sum of outer products.
        class_count: `(K,)` samples per class.
        class_total: `(K, C)` sum over samples of the mean over positions.
        class_squares: `(K, C)` sum over samples of the squared mean over positions.
    """

    count: int
    total: np.ndarray
    gram: np.ndarray
    class_count: np.ndarray
    class_total: np.ndarray
    class_squares: np.ndarray

    def __add__(self, other: Moments) -> Moments:
        """Add two shards."""
        return Moments(
            self.count + other.count,
            self.total + other.total,
            self.gram + other.gram,
            self.class_count + other.class_count,
            self.class_total + other.class_total,
            self.class_squares + other.class_squares,
        )

    @property
    def mean(self) -> np.ndarray:
        """`(C,)` mean over rows."""
        return self.total / self.count

    @property
    def covariance(self) -> np.ndarray:
        """`(C, C)` covariance over rows."""
        return self.gram / self.count - np.outer(self.mean, self.mean)


@dataclass(frozen=True)
class Statistics:
    """Moments of every reader of a model, by the path of the layer."""

    moments: Mapping[str, Moments]

    def __add__(self, other: Statistics) -> Statistics:
        """Add the statistics of two shards of the data.

        Raises:
            ValueError: they belong to different models.
        """
        if self.moments.keys() != other.moments.keys():
            raise ValueError(
                "Statistics of different models cannot be added: "
                f"{sorted(self.moments.keys() ^ other.moments.keys())[:4]} are in only one of them."
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
    """
    generator = np.random.default_rng(seed)
    classes = np.zeros(len(inputs), np.int64) if targets is None else targets
    readers = {id(reader.call): reader for reader in find_readers(groups)}
    sums: dict[str, Moments] = {}
    starts = range(0, len(inputs), batch_size)
    with progress.stage("statistics", len(starts)) as advance:
        for start in starts:
            one_hot = np.eye(num_classes, dtype=np.float32)[classes[start : start + batch_size]]

            def observe(
                call: Call, args: tuple[Any, ...], kwargs: dict[str, Any], one_hot: np.ndarray = one_hot
            ) -> Any:
                reader = readers.get(id(call))
                if reader is not None:
                    found = _moments(reader, args[0], one_hot, positions, generator)
                    known = sums.get(reader.path)
                    sums[reader.path] = found if known is None else known + found
                return call.operation(*args, **kwargs)

            run(groups.graph, [ops.convert_to_tensor(inputs[start : start + batch_size])], observe)
            advance()
    return Statistics(sums)


def _moments(
    reader: Reader,
    x: Any,
    one_hot: np.ndarray,
    positions: int,
    generator: np.random.Generator,
) -> Moments:
    rows = reader.rows(x, positions, generator)
    pooled = ops.mean(rows, axis=1)
    flat = ops.reshape(rows, (-1, rows.shape[-1]))
    results = (
        ops.sum(flat, axis=0),
        ops.matmul(ops.transpose(flat), flat),
        ops.matmul(one_hot.T, pooled),
        ops.matmul(one_hot.T, ops.square(pooled)),
    )
    total, gram, class_total, class_squares = (
        ops.convert_to_numpy(result).astype(np.float64) for result in results
    )
    return Moments(
        int(flat.shape[0]), total, gram, one_hot.sum(0).astype(np.float64), class_total, class_squares
    )
