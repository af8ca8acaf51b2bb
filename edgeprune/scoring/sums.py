"""Sums over calibration samples at the inputs of consumers: shards add up, files keep them."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from edgeprune.errors import DataError
from edgeprune.support.files import replace_on_success

FORMAT = "edgeprune statistics 1"
LANDING = "destination."


@dataclass(frozen=True)
class Spread:
    """Sums over sampled positions of a tensor.

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
    """Sums at the input of one consumer over sampled positions, for the C columns of the consumer.

    Attributes:
        count: number of rows.
        total: `(m, C)` sum of the rows of each slot (see `Consumer.slots`).
        gram: `(C, C)` sum of outer products.
        class_count: `(K,)` samples per class, as often as the layer was called.
        class_total: `(K, C)` sum over samples of the mean over the sampled positions.
        class_squares: `(K, C)` sum over samples of the square of that mean.
        destination: of the tensor where the consumer's output lands; empty if there is none.
    """

    count: int
    total: np.ndarray
    gram: np.ndarray
    class_count: np.ndarray
    class_total: np.ndarray
    class_squares: np.ndarray
    destination: Spread = Spread()

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
    """Moments of every consumer of a model, by the path of the layer."""

    moments: Mapping[str, Moments]

    def __add__(self, other: Statistics) -> Statistics:
        """Add the statistics of two shards of the data.

        Raises:
            ValueError: they belong to different models or numbers of classes.
        """
        shapes, others = (
            {
                path: (m.class_total.shape, m.destination.total.shape)
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

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write an `.npz` file without pickled objects, which `load` reads again.

        Args:
            path: of the file; an existing one is replaced only by a complete one.

        Example:
            >>> import tempfile
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     Statistics({}).save(f"{folder}/shard.npz")
            ...     Statistics.load(f"{folder}/shard.npz")
            Statistics(moments={})
        """
        arrays = {"format": np.array(FORMAT), "layers": np.array(list(self.moments), dtype=str)}
        for number, moments in enumerate(self.moments.values()):
            entries = {name: getattr(moments, name) for name in MOMENTS}
            entries |= {LANDING + name: getattr(moments.destination, name) for name in SPREAD}
            arrays |= {f"{number}.{name}": np.asarray(value) for name, value in entries.items()}
        with replace_on_success(path) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, allow_pickle=False, **arrays)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Statistics:
        """Read what `save` wrote.

        Raises:
            DataError: there is no such file, or it holds something else.
        """
        try:
            with np.load(Path(path), allow_pickle=False) as archive:
                arrays = {name: archive[name] for name in archive.files}
            if str(arrays["format"]) != FORMAT:
                raise KeyError("format")
            layers = arrays["layers"].tolist()
            return cls({path: _restore(arrays, n) for n, path in enumerate(layers)})
        except FileNotFoundError:
            raise DataError(f"There are no statistics at '{path}'.") from None
        except (KeyError, OSError, TypeError, ValueError, zipfile.BadZipFile) as error:
            raise DataError(
                f"'{path}' holds no statistics. Expected an .npz file that Statistics.save wrote."
            ) from error


MOMENTS = tuple(entry.name for entry in fields(Moments) if entry.name != "destination")
SPREAD = tuple(entry.name for entry in fields(Spread))


def _restore(arrays: Mapping[str, np.ndarray], number: int) -> Moments:
    def read(name: str) -> Any:
        found = arrays[f"{number}.{name}"]
        return int(found) if name.endswith("count") and not found.ndim else found

    destination = Spread(*(read(LANDING + name) for name in SPREAD))
    return Moments(**{name: read(name) for name in MOMENTS}, destination=destination)
