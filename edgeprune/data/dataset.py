"""What a data set is: class names, targets, splits, and a way to read the chosen samples."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from edgeprune.data.preprocessing import Preprocess
from edgeprune.data.sample_store import SampleStore
from edgeprune.errors import DataError

SPLITS = ("train", "validation", "test")
READ_BATCH = 256
UNLABELLED = ("unlabelled",)
"""Classes of samples of which nobody knows, or needs, the class."""


def _accept_all(indices: np.ndarray) -> None:
    """Nothing to look at before reading: the samples lie in memory."""


@dataclass(frozen=True, eq=False)
class Dataset:
    """Labelled samples that are read only when they are chosen.

    Attributes:
        name: what reports call it.
        classes: class names; a target is an index into them.
        targets: int64 array (n,), one class index per sample.
        splits: "train", "validation" and "test" (those that exist) to index arrays, or only "all"
            when the source has no split. No sample is in two splits.
        read: index array (m,) to the raw samples (m, ...) as stored, in that order.
        check: raises `DataError` when one of the samples at these indices clearly cannot be read;
            much cheaper than reading them.
        notes: what the user should know of it.
        values: index array (m,) to the targets as stored, for outputs that are no classes; `None`
            where they are no numbers.

    Raises:
        DataError: targets or splits do not fit together.

    Example:
        >>> x, y = np.zeros((4, 8, 8, 1)), np.array([0, 1, 0, 1])
        >>> dataset = Dataset("blank", ("a", "b"), y, {"all": np.arange(4)}, lambda i: x[i])
        >>> dataset.read(np.array([3, 0])).shape
        (2, 8, 8, 1)
    """

    name: str
    classes: tuple[str, ...]
    targets: np.ndarray
    splits: Mapping[str, np.ndarray]
    read: Callable[[np.ndarray], np.ndarray]
    check: Callable[[np.ndarray], None] = _accept_all
    notes: tuple[str, ...] = ()
    values: Callable[[np.ndarray], np.ndarray] | None = None

    @property
    def labelled(self) -> bool:
        """Whether each sample has a class."""
        return self.classes != UNLABELLED

    def without_classes(self) -> Dataset:
        """Return the same samples, whose targets are numbers where there are any."""
        return replace(self, classes=UNLABELLED, targets=np.zeros_like(self.targets))

    def find_targets(self, indices: np.ndarray) -> np.ndarray:
        """Return class indices int64 (m,), or else numbers float32 (m, ...); (0,) without any."""
        if self.labelled:
            return self.targets[indices].astype(np.int64)
        return np.zeros(0) if self.values is None else self.values(indices).astype(np.float32)

    def __post_init__(self) -> None:
        """Refuse what would silently mix up samples later."""
        num_samples = len(self.targets)
        if num_samples == 0:
            raise DataError(f"The data set '{self.name}' has no samples.")
        if self.targets.ndim != 1 or self.targets.dtype.kind not in "iu":
            raise DataError(
                f"The targets of '{self.name}' must be class indices of shape (n,). "
                f"Got {self.targets.dtype} of shape {self.targets.shape} instead."
            )
        if self.targets.min() < 0 or self.targets.max() >= len(self.classes):
            raise DataError(
                f"The targets of '{self.name}' run from {self.targets.min()} to "
                f"{self.targets.max()}, but there are {len(self.classes)} class names."
            )
        names = set(self.splits)
        if names != {"all"} and not (names and names <= set(SPLITS)):
            raise DataError(
                f"The splits of '{self.name}' must be some of {', '.join(SPLITS)}, or only 'all'. "
                f"Got {', '.join(sorted(names)) or 'none'} instead."
            )
        every_index = np.concatenate([np.asarray(part, np.int64) for part in self.splits.values()])
        if len(every_index) and (every_index.min() < 0 or every_index.max() >= num_samples):
            raise DataError(
                f"The splits of '{self.name}' point at sample {every_index.max()}, "
                f"but it has {num_samples} samples."
            )
        if len(np.unique(every_index)) != len(every_index):
            raise DataError(
                f"The splits of '{self.name}' overlap: a sample may be in one split only."
            )


@dataclass(frozen=True, eq=False)
class Samples:
    """Samples as the model wants them.

    Attributes:
        inputs: float32 array (n, ...), preprocessed.
        targets: int64 array (n,), indices into the classes of the data set they came from; where
            it has none, float32 array (n, ...), what the outputs should be, or (0,).
    """

    inputs: np.ndarray
    targets: np.ndarray


def read_samples(
    dataset: Dataset,
    indices: np.ndarray | Sequence[int],
    preprocess: Preprocess,
    store: SampleStore | None = None,
) -> Samples:
    """Read and preprocess the chosen samples, a batch at a time; all headers are looked at first.

    Only the float32 result is held, in memory or where the store has room, plus one raw batch.

    Args:
        dataset: where the samples are.
        indices: which ones, shape (n,), in the order of the result.
        preprocess: the scaling that the model was trained with, see `parse_preprocess`.
        store: where they are held; by default in memory.

    Raises:
        DataError: a sample cannot be read, or is not a finite number after preprocessing.

    Example:
        >>> from edgeprune.data import load_dataset, parse_preprocess
        >>> x, y = np.full((4, 2, 2, 1), 255, np.uint8), np.array([0, 1, 0, 1])
        >>> dataset = load_dataset((x, y), input_shape=(2, 2, 1))
        >>> read_samples(dataset, [0, 3], parse_preprocess("unit")).inputs.max()
        np.float32(1.0)
    """
    chosen = np.asarray(indices, dtype=np.int64)
    if not len(chosen):
        raise DataError(f"No samples of '{dataset.name}' were chosen.")
    dataset.check(chosen)
    held = store or SampleStore(np.inf)
    inputs = held.gather(len(chosen), _read_batches(dataset, chosen, preprocess))
    return Samples(inputs, dataset.find_targets(chosen))


def _read_batches(
    dataset: Dataset, chosen: np.ndarray, preprocess: Preprocess
) -> Iterator[np.ndarray]:
    for start in range(0, len(chosen), READ_BATCH):
        part = chosen[start : start + READ_BATCH]
        batch = preprocess(dataset.read(part))
        finite = np.isfinite(batch).reshape(len(batch), -1).all(axis=1)
        if not finite.all():
            raise DataError(
                f"Sample {part[int(np.argmin(finite))]} of '{dataset.name}' holds values that are "
                f"not finite after --preprocess {preprocess.name}. Remove it, or mend the scaling."
            )
        yield batch
