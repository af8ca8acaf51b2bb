"""Augmented images against their definition, pixel by pixel."""

from __future__ import annotations

import numpy as np
import pytest
from specialists import digits, make_classifier

from edgeprune.data import Samples
from edgeprune.distillation import Augmentation
from edgeprune.distillation.augmentation import Draw, find_augmentation
from edgeprune.distillation.training_samples import ArraySource
from edgeprune.evaluation.equivalence import predict
from edgeprune.recovery.image_copies import move


def make_source(count: int = 64, size: int = 8) -> ArraySource:
    inputs = np.random.default_rng(1).normal(size=(count, size, size, 2)).astype(np.float32)
    return ArraySource(Samples(inputs, np.arange(count) % 4))


def test_moving_equals_padding_with_reflection_and_cropping():
    images = make_source(3).read(np.arange(3))
    moved = np.array([[2, -1], [0, 0], [-2, 2]])
    flipped = np.array([False, True, True])
    found = move(images, flipped, moved)
    for index, (down, right) in enumerate(moved):
        image = images[index, :, ::-1] if flipped[index] else images[index]
        padded = np.pad(image, ((2, 2), (2, 2), (0, 0)), mode="reflect")
        expected = padded[2 - down : 10 - down, 2 - right : 10 - right]
        np.testing.assert_array_equal(found[index], expected)


def test_half_of_the_images_are_mirrored_and_nothing_else():
    source = make_source(400)
    found = Draw(source, Augmentation(horizontal_flip=True), (0,)).read(np.arange(400))
    images = source.read(np.arange(400))
    same = (found == images).all(axis=(1, 2, 3))
    mirrored = (found == images[:, :, ::-1]).all(axis=(1, 2, 3))
    assert (same ^ mirrored).all()
    assert 150 < mirrored.sum() < 250


def test_a_draw_gives_the_same_images_again_and_another_draw_others():
    source = make_source()
    how = Augmentation(horizontal_flip=True, shift=0.25, cutout=0.5, mixup=0.5)
    first, again, other = (Draw(source, how, (0, n)) for n in (1, 1, 2))
    indices = np.array([5, 3, 60])
    np.testing.assert_array_equal(first.read(indices), again.read(indices))
    np.testing.assert_array_equal(first.read(indices)[1:], first.read(indices[1:]))
    assert not np.array_equal(first.read(indices), other.read(indices))


def test_a_hole_has_the_mean_colour_of_its_image():
    source = make_source(20)
    found = Draw(source, Augmentation(cutout=0.5), (0,)).read(np.arange(20))
    images = source.read(np.arange(20))
    for one, other in zip(found, images, strict=True):
        changed = (one != other).any(axis=-1)
        assert 1 <= changed.sum() <= 25
        np.testing.assert_allclose(
            one[changed], np.tile(other.mean(axis=(0, 1)), (changed.sum(), 1)), rtol=1e-6
        )


def test_labels_are_mixed_as_their_images_are():
    """Images that show nothing but their class as a number follow the labels exactly."""
    targets = np.arange(40) % 4
    inputs = np.broadcast_to(targets[:, None, None, None], (40, 4, 4, 1)).astype(np.float32)
    draw = Draw(ArraySource(Samples(inputs, targets)), Augmentation(mixup=0.5), (3,))
    labels = draw.mix(np.eye(4, dtype=np.float32)[targets], np.arange(40))
    np.testing.assert_allclose(labels.sum(axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(
        labels @ np.arange(4), draw.read(np.arange(40))[:, 0, 0, 0], rtol=1e-5, atol=1e-6
    )
    assert (labels.max(axis=1) < 1).any()


def test_digits_are_not_mirrored_because_the_original_answers_otherwise():
    model = make_classifier()
    inputs = digits()[0][:200].astype(np.float32)
    found = find_augmentation(lambda images: predict(model, images).argmax(-1), inputs)
    assert not found.horizontal_flip


def test_a_model_that_looks_at_the_mean_only_may_be_shown_everything():
    inputs = make_source(100).read(np.arange(100))
    found = find_augmentation(lambda images: (images.mean(axis=(1, 2, 3)) > 0).astype(int), inputs)
    assert found.horizontal_flip


@pytest.mark.parametrize("shape", [(50, 6), (50, 10, 3)])
def test_what_is_no_image_is_left_alone(shape: tuple[int, ...]):
    found = find_augmentation(lambda samples: np.zeros(len(samples)), np.ones(shape))
    assert not found.changes
