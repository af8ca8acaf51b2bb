"""Batches: the next is prepared while one is in use, in order, and mistakes are not swallowed."""

from __future__ import annotations

from collections.abc import Iterator
from threading import Event

import pytest

from edgeprune.distillation.teacher_batches import read_ahead
from edgeprune.errors import DataError


def test_order_stays_and_nothing_is_lost() -> None:
    assert list(read_ahead(iter(range(20)))) == list(range(20))
    assert list(read_ahead(iter(()))) == []


def test_the_next_is_prepared_while_one_is_in_use() -> None:
    prepared = Event()

    def prepare() -> Iterator[int]:
        yield 0
        prepared.set()
        yield 1

    teacher_batches = read_ahead(prepare())
    assert next(teacher_batches) == 0
    assert prepared.wait(timeout=600)
    assert list(teacher_batches) == [1]


def test_a_picture_that_cannot_be_read_ends_the_training_with_its_error() -> None:
    def prepare() -> Iterator[int]:
        yield 0
        raise DataError("Cannot read broken.jpg.")

    teacher_batches = read_ahead(prepare())
    assert next(teacher_batches) == 0
    with pytest.raises(DataError, match=r"broken\.jpg"):
        next(teacher_batches)


def test_leaving_early_asks_for_no_more_than_one() -> None:
    made = []
    teacher_batches = read_ahead(made.append(number) or number for number in range(20))
    next(teacher_batches)
    teacher_batches.close()
    assert made in ([0], [0, 1])
