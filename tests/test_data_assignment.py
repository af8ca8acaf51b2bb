from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeprune.data import Assignment, Dataset, assign_samples
from edgeprune.errors import ClassError, DataError

PARTS = ("calibration", "validation", "test", "other_test")


def make_dataset(targets, splits=None, num_classes=None) -> Dataset:
    """A data set whose samples cannot be read: assigning must not look at them."""
    targets = np.asarray(targets, np.int64)
    num_classes = num_classes or int(targets.max()) + 1
    names = tuple(f"class{index}" for index in range(num_classes))
    return Dataset("toy", names, targets, splits or {"all": np.arange(len(targets))}, None)


def make_split_dataset(**sizes: int) -> Dataset:
    """Three classes, `sizes` samples of each class per split, in one shuffled order."""
    targets, splits, start = [], {}, 0
    for split, size in sizes.items():
        targets.append(np.random.default_rng(1).permutation(np.repeat(np.arange(3), size)))
        splits[split] = np.arange(start, start + 3 * size)
        start += 3 * size
    return make_dataset(np.concatenate(targets), splits)


def count_by_class(dataset: Dataset, indices: np.ndarray) -> list[int]:
    return np.bincount(dataset.targets[indices], minlength=len(dataset.classes)).tolist()


def as_sets(parts: Assignment) -> dict[str, set[int]]:
    return {name: set(getattr(parts, name).tolist()) for name in PARTS}


@st.composite
def datasets(draw) -> Dataset:
    layouts = [
        ("all",),
        ("train",),
        ("test",),
        ("validation",),
        ("train", "test"),
        ("train", "validation"),
        ("validation", "test"),
        ("train", "validation", "test"),
    ]
    layout = draw(st.sampled_from(layouts))
    num_classes = draw(st.integers(2, 5))
    counts = [
        draw(st.lists(st.integers(3, 40), min_size=num_classes, max_size=num_classes))
        for _ in layout
    ]
    targets = np.concatenate([np.repeat(np.arange(num_classes), count) for count in counts])
    order = np.random.default_rng(draw(st.integers(0, 99))).permutation(len(targets))
    bounds = np.cumsum([0, *(sum(count) for count in counts)])
    splits = {
        split: np.flatnonzero((order >= start) & (order < stop))
        for split, start, stop in zip(layout, bounds[:-1], bounds[1:], strict=True)
    }
    return make_dataset(targets[order], splits, num_classes)


@settings(max_examples=150, deadline=None)
@given(datasets(), st.integers(1, 30), st.integers(1, 30), st.integers(0, 5), st.data())
def test_parts_never_overlap_and_hold_what_they_should(
    dataset, calibration, validation, seed, data
):
    every_class = range(len(dataset.classes))
    classes = data.draw(st.lists(st.sampled_from(every_class), min_size=1, unique=True))
    parts = assign_samples(
        dataset,
        classes,
        calibration_per_class=calibration,
        validation_per_class=validation,
        seed=seed,
    )
    sets = as_sets(parts)
    assert sum(map(len, sets.values())) == len(set.union(*sets.values()))
    assert sum(map(len, sets.values())) == sum(len(getattr(parts, name)) for name in PARTS)
    for name, most in (("calibration", calibration), ("validation", validation)):
        counts = count_by_class(dataset, getattr(parts, name))
        assert all(1 <= counts[index] <= most for index in classes)
    assert {int(index) for index in dataset.targets[parts.test]} == set(classes)
    assert not set(dataset.targets[parts.other_test].tolist()) & set(classes)
    every_test = sets["test"] | sets["other_test"]
    if "test" in dataset.splits and len(dataset.splits) > 1:
        assert every_test == set(dataset.splits["test"].tolist())
        assert not (sets["calibration"] | sets["validation"]) & every_test
    else:
        pool = dataset.splits[
            next(s for s in ("all", "validation", "train", "test") if s in dataset.splits)
        ]
        totals = count_by_class(dataset, pool)
        held_out = count_by_class(dataset, np.asarray(sorted(every_test)))
        assert all(3 * held >= total for held, total in zip(held_out, totals, strict=True))
    if len(dataset.splits) > 1 and "train" in dataset.splits:
        assert sets["calibration"] <= set(dataset.splits["train"].tolist())
    if "validation" in dataset.splits:
        assert sets["validation"] <= set(dataset.splits["validation"].tolist())


def test_train_validation_and_test_splits_are_used_for_what_they_are_called():
    dataset = make_split_dataset(train=300, validation=40, test=50)
    parts = assign_samples(dataset, (0, 2))
    assert count_by_class(dataset, parts.calibration) == [100, 0, 100]
    assert count_by_class(dataset, parts.validation) == [40, 0, 40]
    assert set(parts.validation) <= set(dataset.splits["validation"])
    assert count_by_class(dataset, parts.test) == [50, 0, 50]
    assert count_by_class(dataset, parts.other_test) == [0, 50, 0]


def test_validation_comes_from_train_when_it_has_no_split():
    dataset = make_split_dataset(train=400, test=10)
    parts = assign_samples(dataset, (0, 1, 2))
    assert count_by_class(dataset, parts.calibration) == [100] * 3
    assert count_by_class(dataset, parts.validation) == [200] * 3
    assert set(parts.validation) <= set(dataset.splits["train"])


@pytest.mark.parametrize(
    ("wanted", "shares"), [((100, 200), (20, 10)), ((5, 200), (5, 25)), ((100, 4), (26, 4))]
)
def test_of_scarce_samples_a_third_validates(wanted, shares):
    dataset = make_split_dataset(train=30, test=10)
    parts = assign_samples(
        dataset, (0, 1), calibration_per_class=wanted[0], validation_per_class=wanted[1]
    )
    for part, count in zip((parts.calibration, parts.validation), shares, strict=True):
        assert count_by_class(dataset, part) == [count, count, 0]


def test_three_samples_of_a_class_are_enough():
    dataset = make_dataset([0, 1] * 3)
    parts = assign_samples(dataset, (0, 1))
    for name in PARTS[:3]:
        assert count_by_class(dataset, getattr(parts, name)) == [1, 1]


def test_the_seed_decides():
    dataset = make_split_dataset(train=300, test=50)
    first, again, other = (
        assign_samples(dataset, (0, 1), test_limit=20, seed=seed) for seed in (7, 7, 8)
    )
    assert all(np.array_equal(getattr(first, name), getattr(again, name)) for name in PARTS)
    assert not any(np.array_equal(getattr(first, name), getattr(other, name)) for name in PARTS)


def test_the_test_samples_do_not_depend_on_what_else_was_asked_for():
    dataset = make_split_dataset(all=60)
    few = assign_samples(dataset, (0, 1), calibration_per_class=2, validation_per_class=5)
    many = assign_samples(dataset, (2, 1, 0), calibration_per_class=9, validation_per_class=5)
    assert set(few.test) | set(few.other_test) == set(many.test)
    assert {i for i in many.validation if dataset.targets[i] != 2} == set(few.validation)


def test_any_first_part_is_balanced():
    dataset = make_split_dataset(train=300, test=50)
    parts = assign_samples(dataset, (2, 0, 1))
    for name in PARTS[:3]:
        assert dataset.targets[getattr(parts, name)[:6]].tolist() == [2, 0, 1, 2, 0, 1]


def test_the_test_limit_is_shared_evenly():
    dataset = make_split_dataset(train=30, test=50)
    parts = assign_samples(dataset, (0, 1), test_limit=20)
    assert count_by_class(dataset, parts.test) == [10, 10, 0]
    assert count_by_class(dataset, parts.other_test) == [0, 0, 10]
    assert len(assign_samples(dataset, (0, 1), test_limit=1).test) == 2


@pytest.mark.parametrize(
    ("split", "served"), [("train", "calibration and validation"), ("test", "test")]
)
def test_a_class_without_samples_is_named_with_the_split(split, served):
    dataset = make_split_dataset(train=30, test=50)
    splits = dict(dataset.splits)
    splits[split] = splits[split][dataset.targets[splits[split]] != 1]
    without = make_dataset(dataset.targets, splits)
    with pytest.raises(ClassError) as error:
        assign_samples(without, (0, 1))
    assert str(error.value) == (
        f"Class 'class1' has no samples in the {split} split of 'toy', which serves {served}. "
        "Add some, or leave the class out."
    )
    assert len(assign_samples(without, (0, 2)).test) == 100


def test_fewer_than_three_samples_of_a_class_are_refused():
    with pytest.raises(DataError) as error:
        assign_samples(make_dataset([0, 0, 0, 1, 1]), (0, 1))
    assert str(error.value) == (
        "Class 'class1' has too few samples in 'toy': 2. It needs at least 3, one each for "
        "calibration, validation and test."
    )


def test_numbers_below_one_and_unknown_classes_are_refused():
    dataset = make_dataset([0, 1] * 10)
    with pytest.raises(DataError, match=r"number of validation samples must be at least 1\. Got 0"):
        assign_samples(dataset, (0, 1), validation_per_class=0)
    with pytest.raises(DataError, match=r"number of test samples must be at least 1\. Got -3"):
        assign_samples(dataset, (0, 1), test_limit=-3)
    with pytest.raises(ClassError, match="There is no class 2: 'toy' has 2 classes"):
        assign_samples(dataset, (0, 2))


def test_splits_that_overlap_are_refused():
    with pytest.raises(DataError, match="The splits of 'toy' overlap"):
        make_dataset([0, 1, 0], {"train": np.array([0, 1]), "test": np.array([1, 2])})


@pytest.mark.parametrize(
    ("targets", "splits", "message"),
    [
        ([0, 1], {"dev": np.array([0])}, "must be some of train, validation, test, or only 'all'"),
        ([0, 1], {"train": np.array([2])}, "point at sample 2, but it has 2 samples"),
        ([0, -1], {"all": np.array([0])}, "run from -1 to 0, but there are 2 class names"),
        ([[0], [1]], {"all": np.array([0])}, r"of shape \(n,\). Got int64 of shape \(2, 1\)"),
        ([], {"all": np.array([0])}, "has no samples"),
    ],
)
def test_a_data_set_that_does_not_fit_together_is_refused(targets, splits, message):
    with pytest.raises(DataError, match=message):
        make_dataset(targets, splits, num_classes=2)


@pytest.mark.parametrize("limit", [14, 15, 100])
def test_a_test_limit_of_all_samples_takes_them_all_however_uneven(limit):
    targets = np.array([0, 1, 2] * 10 + [0] * 12 + [1] * 2 + [2] * 7)
    dataset = make_dataset(targets, {"train": np.arange(30), "test": np.arange(30, 51)}, 3)
    parts = assign_samples(dataset, (0, 1), test_limit=limit)
    assert count_by_class(dataset, parts.test) == [12, 2, 0]
    assert count_by_class(dataset, parts.other_test) == [0, 0, 7]
    few = assign_samples(dataset, (0, 1), test_limit=13)
    assert count_by_class(dataset, few.test) == [6, 2, 0]
