from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from edgeprune.data import load_dataset
from edgeprune.errors import ClassError, DataError

keras = pytest.importorskip("keras", reason="tf.data needs edgeprune[tensorflow]")
tf = pytest.importorskip("tensorflow", reason="tf.data needs edgeprune[tensorflow]")

X = np.random.default_rng(0).integers(0, 256, (10, 4, 6, 3), dtype=np.uint8)
Y = np.array([0, 2, 1, 0, 2, 1, 1, 2, 0, 0])


def make_stream(x=X, y=Y):
    return tf.data.Dataset.from_tensor_slices((x, y))


@pytest.mark.parametrize(
    "change",
    [
        lambda stream: stream,
        lambda stream: stream.batch(3),
        lambda stream: stream.batch(3).prefetch(2),
        lambda stream: stream.filter(lambda x, y: True),
        lambda stream: stream.map(lambda x, y: (x, tf.one_hot(y, 3))).batch(4),
        lambda stream: stream.map(lambda x, y: (x, tf.gather(["0", "1", "2"], y))),
        lambda stream: stream.map(lambda x, y: (x, y, 1.0)),
    ],
    ids=["single", "batched", "prefetched", "unknown length", "one-hot", "names", "weighted"],
)
def test_batched_or_not_the_samples_come_back(change):
    dataset = load_dataset(change(make_stream()), input_shape=(4, 6, 3))
    np.testing.assert_array_equal(dataset.read(np.array([9, 0, 4])), X[[9, 0, 4]])
    np.testing.assert_array_equal(dataset.targets, Y)
    assert dataset.classes == ("0", "1", "2")
    assert dataset.splits.keys() == {"all"}


@pytest.mark.parametrize("batch", [None, 3])
def test_a_missing_channel_axis_is_added(batch):
    stream = make_stream(X[..., 0])
    stream = stream.batch(batch) if batch else stream
    dataset = load_dataset(stream, input_shape=(4, 6, 1))
    np.testing.assert_array_equal(dataset.read(np.arange(10)), X[..., :1])


def test_a_shuffled_pipeline_keeps_samples_and_targets_together():
    x = np.arange(50.0).reshape(50, 1, 1, 1)
    stream = make_stream(x, np.arange(50)).shuffle(50)
    dataset = load_dataset(stream, input_shape=(1, 1, 1))
    np.testing.assert_array_equal(dataset.read(np.arange(50)).ravel(), dataset.targets)
    np.testing.assert_array_equal(dataset.read(np.array([7])).ravel(), dataset.targets[[7]])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: make_stream().repeat(),
            r"never ends\. Drop \.repeat\(\), or limit it with \.take",
        ),
        (lambda: make_stream().take(0), "has no samples"),
        (lambda: tf.data.Dataset.from_tensor_slices(X), r"Expected pairs \(sample, target\)"),
        (lambda: make_stream().map(lambda x, y: {"x": x, "y": y}), "Expected pairs"),
        (lambda: make_stream(X[:, :2]), r"shape \(2, 6, 3\), but the model reads \(4, 6, 3\)"),
        (lambda: make_stream(X[:, :2]).batch(2), r"shape \(2, 6, 3\), but the model reads \(4,"),
        (
            lambda: make_stream().map(lambda x, y: (tf.py_function(lambda a: a, [x], tf.uint8), y)),
            "does not say how many axes its samples have",
        ),
        (
            lambda: make_stream().map(lambda x, y: (tf.ensure_shape(x[: y + 1], [None, 6, 3]), y)),
            "Reading the tf.data.Dataset failed: ",
        ),
    ],
    ids=[
        "infinite",
        "empty",
        "no targets",
        "dict",
        "wrong shape",
        "wrong batches",
        "unknown rank",
        "ragged",
    ],
)
def test_a_pipeline_that_does_not_fit_is_refused(make, message):
    with pytest.raises(DataError, match=message):
        load_dataset(make(), input_shape=(4, 6, 3))


def test_a_pipeline_that_does_not_fit_into_memory_is_refused(monkeypatch):
    monkeypatch.setattr("edgeprune.data.streams.MOST_BYTES", X.nbytes - 1)
    with pytest.raises(DataError, match="and it is kept in memory"):
        load_dataset(make_stream(), input_shape=(4, 6, 3))


@pytest.fixture
def photos(tmp_path):
    noise = np.random.default_rng(1)
    for name in ("fox", "cat", "Dog"):
        (tmp_path / name).mkdir()
        for number in (10, 9, 1):
            pixels = noise.integers(0, 256, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / name / f"{number}.png")
    return tmp_path


def test_folders_are_read_as_keras_reads_them(photos):
    ours = load_dataset(photos, input_shape=(8, 8, 3))
    stream = keras.utils.image_dataset_from_directory(
        photos, image_size=(8, 8), shuffle=False, verbose=False
    )
    assert list(ours.classes) == stream.class_names
    images, targets = next(stream.as_numpy_iterator())
    np.testing.assert_array_equal(ours.read(np.arange(9)), images)
    np.testing.assert_array_equal(ours.targets, targets)


def test_a_pipeline_of_keras_knows_its_class_names(photos):
    stream = keras.utils.image_dataset_from_directory(photos, image_size=(8, 8), verbose=False)
    assert load_dataset(stream, input_shape=(8, 8, 3)).classes == ("Dog", "cat", "fox")
    names = ["fox", "cat", "emu", "Dog"]
    dataset = load_dataset(stream, input_shape=(8, 8, 3), classes=names)
    assert np.bincount(dataset.targets).tolist() == [3, 3, 0, 3]
    with pytest.raises(ClassError, match=r"'tf\.data' has the class 'Dog', which is not among"):
        load_dataset(stream, input_shape=(8, 8, 3), classes=["a", "b", "c"])
