"""One pass over calibration data, summed: all that criteria and closed-form recoveries need.

Statistics are taken at the inputs of the layers that read a group. They are sums, so shards add up
with `+`, memory does not grow with the number of samples, and one forward pass serves everything.
Products are computed on the backend; only `C x C` results come home, as float64.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
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
        landing_count: positions of the tensor where the reader's output lands.
        landing_total: `(outputs,)` sum of that tensor.
        landing_squares: `(outputs,)` sum of its squares.
    """

    count: int
    total: np.ndarray
    gram: np.ndarray
    class_count: np.ndarray
    class_total: np.ndarray
    class_squares: np.ndarray
    landing_count: int
    landing_total: np.ndarray
    landing_squares: np.ndarray

    def __add__(self, other: Moments) -> Moments:
        """Add two shards."""
        return Moments(
            *(getattr(self, field.name) + getattr(other, field.name) for field in fields(self))
        )

    @property
    def mean(self) -> np.ndarray:
        """`(C,)` mean over rows."""
        return self.total / self.count

    @property
    def covariance(self) -> np.ndarray:
        """`(C, C)` covariance over rows."""
        return self.gram / self.count - np.outer(self.mean, self.mean)

    @property
    def landing_variance(self) -> np.ndarray:
        """`(outputs,)` variance of the tensor where the reader's output lands."""
        mean = self.landing_total / self.landing_count
        return np.maximum(self.landing_squares / self.landing_count - mean**2, 0.0)


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
    classes = np.zeros(len(inputs), np.int64) if targets is None else targets
    collector = _Collector(groups, positions, np.random.default_rng(seed))
    result: Statistics | None = None
    starts = range(0, len(inputs), batch_size)
    with progress.stage("statistics", len(starts)) as advance:
        for start in starts:
            one_hot = np.eye(num_classes, dtype=np.float32)[classes[start : start + batch_size]]
            found = collector.observe(inputs[start : start + batch_size], one_hot)
            result = found if result is None else result + found
            advance()
    return Statistics({}) if result is None else result


class _Collector:
    """Runs batches through a model and takes the moments of each."""

    def __init__(self, groups: Groups, positions: int, generator: np.random.Generator) -> None:
        self.graph = groups.graph
        self.positions = positions
        self.generator = generator
        readers = find_readers(groups)
        self.by_path = {reader.path: reader for reader in readers}
        self.calls = {id(c): self.by_path[c.path] for c in self.graph.calls if c.path in self.by_path}
        self.landings: dict[int, list[str]] = {}
        for reader in readers:
            self.landings.setdefault(reader.landing.tensor, []).append(reader.path)

    def observe(self, batch: np.ndarray, one_hot: np.ndarray) -> Statistics:
        sums: dict[str, tuple[Any, ...]] = {}
        landed: dict[str, tuple[Any, ...]] = {}

        def on_call(call: Call, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            reader = self.calls.get(id(call))
            if reader is not None:
                found = self._sum(reader, args[0], one_hot)
                known = sums.get(reader.path)
                sums[reader.path] = (
                    found
                    if known is None
                    else tuple(a + b for a, b in zip(known, found, strict=True))
                )
            result = call.operation(*args, **kwargs)
            for path in self.landings.get(call.outputs[0].number, []):
                landed[path] = _sum_channels(result, self.by_path[path])
            return result

        run(self.graph, [ops.convert_to_tensor(batch)], on_call)
        counts = one_hot.sum(0).astype(np.float64)
        return Statistics(
            {
                path: Moments(found[0], *found[1:3], counts, *found[3:], *landed[path])
                for path, found in sums.items()
            }
        )

    def _sum(self, reader: Reader, x: Any, one_hot: np.ndarray) -> tuple[Any, ...]:
        rows = reader.rows(x, self.positions, self.generator)
        pooled = ops.mean(rows, axis=1)
        flat = ops.reshape(rows, (-1, rows.shape[-1]))
        results = (
            ops.sum(flat, axis=0),
            ops.matmul(ops.transpose(flat), flat),
            ops.matmul(one_hot.T, pooled),
            ops.matmul(one_hot.T, ops.square(pooled)),
        )
        return (int(flat.shape[0]), *(_bring_home(result) for result in results))


def _sum_channels(x: Any, reader: Reader) -> tuple[int, np.ndarray, np.ndarray]:
    first = getattr(reader.layer, "data_format", None) == "channels_first"
    x = ops.cast(ops.moveaxis(x, 1, -1) if first else x, "float32")
    flat = ops.reshape(x, (-1, x.shape[-1]))
    total, squares = ops.sum(flat, axis=0), ops.sum(ops.square(flat), axis=0)
    return int(flat.shape[0]), _bring_home(total), _bring_home(squares)


def _bring_home(x: Any) -> np.ndarray:
    return np.asarray(ops.convert_to_numpy(x), dtype=np.float64)
