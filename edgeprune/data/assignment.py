"""Which samples serve for calibration, for validation and for the final test: never the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from edgeprune.data.dataset import Dataset
from edgeprune.errors import ClassError, DataError

PARTS = ("calibration", "validation", "test")
# The first split that exists serves; a validation split was most likely not trained on, so test
# rather shares that one than train.
PREFERRED_SPLITS = {
    "calibration": ("train", "all", "validation", "test"),
    "validation": ("validation", "train", "all", "test"),
    "test": ("test", "all", "validation", "train"),
}


@dataclass(frozen=True, eq=False)
class Assignment:
    """Indices of samples by what they are used for; no index is in two of them.

    All but `other_test` hold the classes asked for only. They take turns by class, so that any
    first part of them is as balanced as the data allows.

    Attributes:
        calibration: for statistics, quantization ranges and BatchNorm.
        validation: for choosing between alternatives.
        test: for the accuracy that is reported.
        other_test: test samples of all other classes.
    """

    calibration: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    other_test: np.ndarray


def assign_samples(
    dataset: Dataset,
    classes: Sequence[int],
    *,
    calibration_per_class: int = 100,
    validation_per_class: int = 200,
    test_limit: int | None = None,
    seed: int = 0,
) -> Assignment:
    """Choose calibration, validation and test samples; the same for the same seed.

    Calibration comes from the train split, validation from the validation split or else from what
    calibration leaves of train, test from the test split. A part without a split of its own is
    carved out class by class: where test shares a split with others it gets a third of each class,
    rounded up; where calibration and validation have fewer samples than they want, validation gets
    a third, and more only where calibration wants less than the rest. Which samples are set aside
    for test depends on the data and the seed only, not on how much calibration takes or which
    classes are asked for, so that the accuracies of two runs compare (with a `test_limit`, of runs
    with as many classes).

    If the model was trained on what becomes test here, its accuracy will look too good: give a
    test split where there is one.

    Args:
        dataset: where the samples come from.
        classes: indices of the classes asked for, see `find_classes`; at least one.
        calibration_per_class: samples of each class, at most.
        validation_per_class: samples of each class, at most.
        test_limit: about how many test samples in all, evenly from the classes asked for; the
            other classes give as many each. None takes every one, as does a number of at least as
            many as there are.
        seed: for the random choice.

    Raises:
        ClassError: a class is not in the data set, or has no samples in a split that is needed.
        DataError: a class has too few samples to serve all parts, or a number is below 1.

    Example:
        >>> x, y = np.zeros((30, 4, 4, 1)), np.arange(30) % 3
        >>> dataset = Dataset("blank", ("a", "b", "c"), y, {"all": np.arange(30)}, lambda i: x[i])
        >>> parts = assign_samples(dataset, (0, 2))
        >>> len(parts.calibration), len(parts.validation), len(parts.test), len(parts.other_test)
        (8, 4, 8, 4)
    """
    wanted = {"calibration": calibration_per_class, "validation": validation_per_class}
    for name, number in {**wanted, "test": test_limit}.items():
        if number is not None and number < 1:
            raise DataError(f"The number of {name} samples must be at least 1. Got {number}.")
    unknown = [index for index in classes if not 0 <= index < len(dataset.classes)]
    if unknown:
        raise ClassError(
            f"There is no class {unknown[0]}: '{dataset.name}' has {len(dataset.classes)} classes."
        )
    split_of = {
        part: next(split for split in preferred if split in dataset.splits)
        for part, preferred in PREFERRED_SPLITS.items()
    }
    parts_of = {split: [p for p in PARTS if split_of[p] == split] for split in split_of.values()}
    members = {split: _group_by_class(dataset, split) for split in parts_of}
    for split, parts in parts_of.items():
        for index in classes:
            _check_enough(dataset, index, split, parts, len(members[split][index]))
    shares: dict[str, list[np.ndarray]] = {part: [] for part in PARTS}
    for split, parts in parts_of.items():
        for index, samples in enumerate(members[split]):
            shuffled = np.random.default_rng((seed, index)).permutation(samples)
            for part, share in _share(shuffled, parts, wanted).items():
                shares[part].append(share)
    available = sum(len(shares["test"][index]) for index in classes)
    takes_all = test_limit is None or test_limit >= available
    quota = None if takes_all else max(1, (test_limit or 0) // len(classes))
    others = [index for index in range(len(dataset.classes)) if index not in classes]
    return Assignment(
        calibration=_take_turns([shares["calibration"][index] for index in classes]),
        validation=_take_turns([shares["validation"][index] for index in classes]),
        test=_take_turns([shares["test"][index][:quota] for index in classes]),
        other_test=_take_turns([shares["test"][index][:quota] for index in others]),
    )


def balance(dataset: Dataset, indices: np.ndarray, count: int, seed: int = 0) -> np.ndarray:
    """Return some of the samples, as many of each class as there are.

    Args:
        dataset: where the samples come from.
        indices: to choose from.
        count: how many, at most.
        seed: for the random choice.

    Example:
        >>> y = np.array([0] * 90 + [1] * 10)
        >>> dataset = Dataset("uneven", ("a", "b"), y, {"all": np.arange(100)}, lambda i: i)
        >>> np.bincount(y[balance(dataset, np.arange(100), 20)])
        array([10, 10])
    """
    shuffled = np.random.default_rng(seed).permutation(indices)
    targets = dataset.targets[shuffled]
    by_class = [shuffled[targets == label] for label in np.unique(targets)]
    return _take_turns(by_class)[:count]


def _group_by_class(dataset: Dataset, split: str) -> list[np.ndarray]:
    indices = np.sort(np.asarray(dataset.splits[split], np.int64))
    targets = dataset.targets[indices]
    by_class = indices[np.argsort(targets, kind="stable")]
    counts = np.bincount(targets, minlength=len(dataset.classes))
    return np.split(by_class, np.cumsum(counts)[:-1])


def _check_enough(
    dataset: Dataset, index: int, split: str, parts: Sequence[str], num_samples: int
) -> None:
    where = f"'{dataset.name}'" if split == "all" else f"the {split} split of '{dataset.name}'"
    name = dataset.classes[index]
    if num_samples == 0:
        raise ClassError(
            f"Class '{name}' has no samples in {where}, which serves {' and '.join(parts)}. "
            "Add some, or leave the class out."
        )
    if num_samples < len(parts):
        raise DataError(
            f"Class '{name}' has too few samples in {where}: {num_samples}. It needs at least "
            f"{len(parts)}, one each for {', '.join(parts[:-1])} and {parts[-1]}."
        )


def _share(
    samples: np.ndarray, parts: Sequence[str], wanted: Mapping[str, int]
) -> dict[str, np.ndarray]:
    """Share the samples of one class in one split out to the parts that it serves."""
    shares: dict[str, np.ndarray] = {}
    if "test" in parts:
        num_test = len(samples) if len(parts) == 1 else -(-len(samples) // 3)
        shares["test"], samples = samples[:num_test], samples[num_test:]
    numbers = {part: wanted[part] for part in parts if part != "test"}
    if len(numbers) == 2 and len(samples) < sum(numbers.values()):
        third = min(numbers["validation"], max(1, round(len(samples) / 3)))
        numbers["calibration"] = min(numbers["calibration"], max(len(samples) - third, 0))
        numbers["validation"] = len(samples) - numbers["calibration"]
    if "calibration" in numbers:
        shares["calibration"] = samples[: numbers["calibration"]]
    if "validation" in numbers:  # from the end, so that it stays when calibration grows
        shares["validation"] = samples[::-1][: numbers["validation"]]
    return shares


def _take_turns(by_class: Sequence[np.ndarray]) -> np.ndarray:
    """One sample of each class in turn; a class that runs out is passed over."""
    if not by_class:
        return np.empty(0, np.int64)
    turn = np.concatenate([np.arange(len(samples)) for samples in by_class])
    return np.concatenate(by_class)[np.argsort(turn, kind="stable")]
