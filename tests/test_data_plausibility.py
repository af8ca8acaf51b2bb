from __future__ import annotations

import math

import numpy as np
import pytest

from edgeprune.data import (
    Samples,
    load_dataset,
    parse_preprocess,
    warn_better_scaling,
    warn_near_chance,
    warn_shared_samples,
)


def guessing_reaches(right: int, n: int, chance: float) -> float:
    """The probability that guessing is right at least so often, summed term by term."""
    return sum(math.comb(n, k) * chance**k * (1 - chance) ** (n - k) for k in range(right, n + 1))


@pytest.mark.parametrize(("num_classes", "n"), [(2, 40), (3, 100), (10, 300), (43, 500)])
def test_the_warning_stops_where_guessing_gets_unlikely(num_classes, n):
    first_unlikely = next(
        k for k in range(n + 1) if guessing_reaches(k, n, 1 / num_classes) <= 0.001
    )
    assert warn_near_chance((first_unlikely - 1) / n, num_classes, n) is not None
    assert warn_near_chance(first_unlikely / n, num_classes, n) is None
    assert warn_near_chance(0.0, num_classes, n) is not None
    assert warn_near_chance(1.0, num_classes, n) is None


def test_always_giving_the_most_frequent_class_is_chance_too():
    assert warn_near_chance(0.6, 4, 500) is None
    assert "guessing would be on 60.0 %" in warn_near_chance(0.6, 4, 500, largest_share=0.6)


def test_the_warning_names_the_choices():
    text = warn_near_chance(0.106, 10, 2000)
    assert text.startswith(
        "The original model is right on 10.6 % of 2000 samples, and guessing would be on 10.0 %. "
        "Most likely its inputs are scaled in another way than in its training, or the classes are "
        "in another order. --preprocess is one of: raw (values as stored), unit (x / 255), "
    )


@pytest.fixture
def shades():
    """Two classes of plain grey images, dark and bright."""
    x = np.repeat(np.array([60, 200], np.uint8), 40)[:, np.newaxis, np.newaxis, np.newaxis]
    return load_dataset((x, np.repeat([0, 1], 40)), input_shape=(1, 1, 1))


def threshold_model(threshold: float):
    return lambda inputs: (inputs.reshape(len(inputs)) > threshold).astype(int)


def test_a_better_scaling_is_named(shades):
    chosen = parse_preprocess("raw")
    text = warn_better_scaling(threshold_model(0.5), shades, range(80), chosen)
    assert text == (
        "With --preprocess unit the original model is right on 80 of 80 samples, with raw on 40: "
        "it was trained with unit, or with something close to it."
    )


def test_a_scaling_that_works_is_left_alone(shades):
    unit = parse_preprocess("unit")
    assert warn_better_scaling(threshold_model(0.5), shades, range(80), unit) is None
    few = [0, 1, 40, 41]  # two more right out of four can be luck
    raw = parse_preprocess("raw")
    assert warn_better_scaling(threshold_model(0.5), shades, few, raw) is None


def make_samples(*values: float) -> Samples:
    inputs = np.array(values, np.float32).reshape(-1, 1, 1, 1)
    return Samples(inputs, np.zeros(len(values), np.int64))


def test_copies_between_parts_are_counted():
    parts = {
        "calibration": make_samples(1, 2, 3),
        "validation": make_samples(4, 5, 1),
        "test": make_samples(3, 3, 6, 4),
    }
    assert warn_shared_samples(parts) == (
        "1 of 3 validation samples is also among the calibration samples; "
        "2 of 4 test samples are also among the calibration samples; "
        "1 of 4 test samples is also among the validation samples: remove the copies from the data."
    )


def test_parts_without_copies_are_fine():
    parts = {"calibration": make_samples(1, 1, 2), "test": make_samples(3, 4)}
    assert warn_shared_samples(parts) is None
