from __future__ import annotations

import numpy as np
import pytest

from edgeprune.recovery.image_copies import augment, is_image


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((5, 32, 32, 3), True),
        ((5, 8, 12, 1), True),
        ((5, 7, 12, 3), False),
        ((5, 3, 32, 32), False),
        ((5, 32, 3), False),
        ((5, 10), False),
    ],
)
def test_only_images_with_room_are_augmented(shape, expected) -> None:
    assert is_image(np.zeros(shape, np.float32)) is expected


def test_copies_are_mirrored_and_shifted_versions_of_their_image() -> None:
    images = np.random.default_rng(0).random((6, 16, 24, 3), dtype=np.float32)
    found = augment(images, 4, seed=1).reshape(4, 6, 16, 24, 3)
    np.testing.assert_array_equal(found[0], images)
    np.testing.assert_array_equal(found[1], images[:, :, ::-1])
    padded = np.pad(images, ((0, 0), (2, 2), (3, 3), (0, 0)), mode="reflect")
    shifts = []
    for copy, mirrored in ((found[2], False), (found[3], True)):
        for number, image in enumerate(copy[:, :, ::-1] if mirrored else copy):
            match = [
                (i, j)
                for i in range(5)
                for j in range(7)
                if np.array_equal(padded[number, i : i + 16, j : j + 24], image)
            ]
            assert len(match) == 1
            shifts += match
    assert len(set(shifts)) > 6


def test_copies_are_the_same_under_one_seed() -> None:
    images = np.random.default_rng(0).random((4, 8, 8, 1), dtype=np.float32)
    one, two, other = (augment(images, 3, seed=seed) for seed in (5, 5, 6))
    np.testing.assert_array_equal(one, two)
    assert not np.array_equal(one, other)
    assert one.dtype == images.dtype
