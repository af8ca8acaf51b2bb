"""Where training samples come from: arrays in memory, or a data set that is read as needed."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from edgeprune.data import Dataset, Preprocess, Samples

KEPT_BYTES = 2**30


class Source(Protocol):
    """Training samples by index.

    Attributes:
        targets: `(n,)` class indices in the numbering of the original, or `(0,)` without labels.
    """

    targets: np.ndarray

    def __len__(self) -> int:
        """Return the number of samples."""

    def read(self, indices: np.ndarray) -> np.ndarray:
        """Return preprocessed float32 samples `(m, ...)`."""


class ArraySource:
    """Samples that lie in memory."""

    def __init__(self, samples: Samples) -> None:
        """Remember the samples."""
        self._inputs = samples.inputs
        self.targets = samples.targets

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self._inputs)

    def read(self, indices: np.ndarray) -> np.ndarray:
        """Return some of the samples."""
        return self._inputs[indices]


class DatasetSource:
    """Samples of a data set, read when they are asked for; up to a gigabyte is kept as stored."""

    def __init__(
        self,
        dataset: Dataset,
        indices: np.ndarray,
        preprocess: Preprocess,
        room: float = KEPT_BYTES,
    ) -> None:
        """Choose the samples.

        Args:
            dataset: whose samples these are.
            indices: which ones.
            preprocess: how stored samples become inputs.
            room: most bytes to keep, up to a gigabyte.
        """
        self._dataset = dataset
        self._indices = np.asarray(indices, np.int64)
        self._preprocess = preprocess
        labels = dataset.targets[self._indices] if dataset.labelled else np.zeros(0)
        self.targets = labels.astype(np.int64)
        self._kept: dict[int, np.ndarray] = {}
        self._room = min(room, KEPT_BYTES)

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self._indices)

    def read(self, indices: np.ndarray) -> np.ndarray:
        """Read, keep as far as there is room, and preprocess.

        Raises:
            DataError: a sample cannot be read.
        """
        missing = [index for index in indices.tolist() if index not in self._kept]
        fresh: dict[int, np.ndarray] = {}
        if missing:
            raw = self._dataset.read(self._indices[missing])
            fresh = dict(zip(missing, raw, strict=True))
            for index, sample in fresh.items():
                if self._room >= sample.nbytes:
                    self._kept[index] = np.array(sample)
                    self._room -= sample.nbytes
        batch = [fresh[i] if i in fresh else self._kept[i] for i in indices.tolist()]
        return self._preprocess(np.stack(batch))
