from __future__ import annotations

import io
import os
import tracemalloc
import zipfile

import numpy as np
import pytest

from edgeprune.data import Dataset, load_dataset, parse_preprocess, read_samples
from edgeprune.errors import ClassError, DataError

RAW = parse_preprocess("raw")
TARGET_FORMS = (
    "Expected class indices (n,) or (n, 1), one-hot rows (n, number of classes), "
    "or class names (n,)"
)


def make_images(n: int, shape=(4, 4, 3)) -> np.ndarray:
    return np.random.default_rng(n).integers(0, 256, (n, *shape), dtype=np.uint8)


def save(path, compressed=False, **arrays):
    (np.savez_compressed if compressed else np.savez)(path, **arrays)
    return path


@pytest.fixture
def x() -> np.ndarray:
    return make_images(6)


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64, np.int8])
@pytest.mark.parametrize("order", ["C", "F"])
def test_an_npz_file_gives_back_the_samples_asked_for(tmp_path, x, compressed, dtype, order):
    x = np.asarray(x.astype(dtype), order=order)
    path = save(tmp_path / "data.npz", compressed, x=x, y=np.array([0, 1, 2, 0, 1, 2]))
    dataset = load_dataset(path, input_shape=(4, 4, 3))
    batch = dataset.read(np.array([5, 0, 5]))
    assert batch.dtype == dtype
    np.testing.assert_array_equal(batch, x[[5, 0, 5]])
    assert dataset.classes == ("0", "1", "2")
    assert dataset.splits.keys() == {"all"}
    assert dataset.name == "data.npz"


def test_an_uncompressed_npz_file_stays_on_disk(tmp_path):
    x = np.zeros((4000, 32, 32, 3), np.uint8)
    path = save(tmp_path / "data.npz", x=x, y=np.arange(4000) % 10)
    tracemalloc.start()
    samples = read_samples(load_dataset(str(path), input_shape=(32, 32, 3)), range(300), RAW)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert samples.inputs.shape == (300, 32, 32, 3)
    assert peak < x.nbytes


def test_reading_makes_no_second_full_copy_in_float(tmp_path):
    x = np.zeros((2000, 32, 32, 3), np.uint8)
    dataset = load_dataset((x, np.arange(2000) % 2), input_shape=(32, 32, 3))
    tracemalloc.start()
    inputs = read_samples(dataset, range(2000), parse_preprocess("unit")).inputs
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1.5 * inputs.nbytes


@pytest.mark.parametrize("key", ["val", "validation"])
def test_the_splits_of_an_npz_file_are_kept_apart(tmp_path, key):
    parts = {"train": make_images(5), key: make_images(3), "test": make_images(4)}
    arrays = {f"x_{name}": images for name, images in parts.items()}
    targets = {f"y_{name}": np.arange(len(images)) % 2 for name, images in parts.items()}
    path = save(tmp_path / "data.npz", **arrays, **targets)
    dataset = load_dataset(path, input_shape=(4, 4, 3))
    assert dataset.splits.keys() == {"train", "validation", "test"}
    for name, images in parts.items():
        indices = dataset.splits["validation" if name == key else name]
        np.testing.assert_array_equal(dataset.read(indices), images)
        np.testing.assert_array_equal(dataset.targets[indices], targets[f"y_{name}"])
    mixed = np.array([7, 0, 11, 5])
    everything = np.concatenate([parts["train"], parts[key], parts["test"]])
    np.testing.assert_array_equal(dataset.read(mixed), everything[mixed])


def test_the_classes_of_an_npz_file_name_its_targets(tmp_path, x):
    path = save(tmp_path / "d.npz", x=x, y=[0, 1, 2, 2, 1, 0], classes=["cat", "dog", "fox"])
    assert load_dataset(path, input_shape=(4, 4, 3)).classes == ("cat", "dog", "fox")
    names = ["fox", "emu", "cat", "dog"]
    dataset = load_dataset(path, input_shape=(4, 4, 3), classes=names)
    assert [names[target] for target in dataset.targets] == [
        "cat", "dog", "fox", "fox", "dog", "cat"
    ]  # fmt: skip


def test_a_name_of_the_data_that_was_not_given_gets_a_suggestion(tmp_path, x):
    path = save(tmp_path / "d.npz", x=x, y=[0, 1, 0, 1, 0, 1], classes=["cat", "dog"])
    with pytest.raises(ClassError) as error:
        load_dataset(path, input_shape=(4, 4, 3), classes=["Cats", "dog"])
    assert str(error.value) == (
        "'d.npz' has the class 'cat', which is not among the given class names. "
        "Did you mean 'Cats'? Given: Cats, dog."
    )


@pytest.mark.parametrize(
    "y",
    [
        np.array([2, 0, 1, 1, 0, 2]),
        np.array([[2], [0], [1], [1], [0], [2]], np.uint8),
        np.array([2.0, 0.0, 1.0, 1.0, 0.0, 2.0]),
        np.eye(3)[[2, 0, 1, 1, 0, 2]],
        np.eye(3, dtype=bool)[[2, 0, 1, 1, 0, 2]],
        np.array(["c", "a", "b", "b", "a", "c"]),
        np.array([b"c", b"a", b"b", b"b", b"a", b"c"]),
        np.array(["c", "a", "b", "b", "a", "c"], object),
        np.array([["c"], ["a"], ["b"], ["b"], ["a"], ["c"]]),
    ],
    ids=[
        "1-d",
        "column",
        "float",
        "one-hot",
        "one-hot-bool",
        "names",
        "bytes",
        "objects",
        "names-2d",
    ],
)
def test_every_form_of_targets_becomes_indices(x, y):
    dataset = load_dataset((x, y), input_shape=(4, 4, 3))
    assert dataset.targets.tolist() == [2, 0, 1, 1, 0, 2]
    assert dataset.targets.dtype == np.int64
    assert dataset.classes == (("a", "b", "c") if y.dtype.kind in "USO" else ("0", "1", "2"))


def test_targets_that_are_names_follow_the_given_order(x):
    y = np.array(["dog", "cat", "dog", "fox", "fox", "cat"])
    dataset = load_dataset((x, y), input_shape=(4, 4, 3), classes=["fox", "emu", "cat", "dog"])
    assert dataset.targets.tolist() == [3, 2, 3, 0, 0, 2]


def test_one_hot_targets_count_classes_without_samples(x):
    assert len(load_dataset((x, np.eye(9)[[0] * 6]), input_shape=(4, 4, 3)).classes) == 9


def test_given_names_replace_plain_numbers_by_position(x):
    dataset = load_dataset(
        (x, [2, 0, 1, 1, 0, 2]),
        input_shape=(4, 4, 3),
        classes=["zero", "one", "two", "three"],
    )
    assert dataset.classes == ("zero", "one", "two", "three")
    assert dataset.targets.tolist() == [2, 0, 1, 1, 0, 2]


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (np.array([0, 1, -1, 0, 1, 0]), "run from -1 to 1. " + TARGET_FORMS + "; indices start"),
        (np.array([0, 1, 2**40, 0, 1, 0]), "run from 0 to 1099511627776. " + TARGET_FORMS),
        (np.array([0, 1, 0.5, 0, 1, 0]), "float64 of shape (6,). " + TARGET_FORMS),
        (np.zeros((6, 2, 2)), "float64 of shape (6, 2, 2). " + TARGET_FORMS),
        (np.array([None] * 6), "object of shape (6,). " + TARGET_FORMS),
        (np.array([[1, 1, 0]] * 6), "not every row holds exactly one 1 and zeros. " + TARGET_FORMS),
        (
            np.array([[0.2, 0.8]] * 6),
            "not every row holds exactly one 1 and zeros. " + TARGET_FORMS,
        ),
        (np.zeros(5, int), "samples of shape (6, 4, 4, 3) but targets of shape (5,)"),
    ],
)
def test_targets_that_name_no_class_are_refused(x, y, message):
    with pytest.raises(DataError) as error:
        load_dataset((x, y), input_shape=(4, 4, 3))
    assert message in str(error.value)


def test_more_targets_than_names_are_refused(x):
    with pytest.raises(DataError) as error:
        load_dataset((x, np.arange(6)), input_shape=(4, 4, 3), classes=["a", "b"])
    assert str(error.value) == (
        "The targets of 'arrays' need 6 classes, but 2 names were given. Give one name per class."
    )


@pytest.mark.parametrize(
    ("classes", "message"), [(["a", "b", "a"], "hold 'a' twice"), ("a,b", "Got the text 'a,b'")]
)
def test_class_names_must_be_unique_and_in_a_sequence(x, classes, message):
    with pytest.raises(DataError, match=message):
        load_dataset((x, np.arange(6)), input_shape=(4, 4, 3), classes=classes)


def test_a_missing_channel_axis_is_added():
    x = make_images(4, (7, 9))
    dataset = load_dataset((x, np.arange(4)), input_shape=(7, None, 1))
    np.testing.assert_array_equal(dataset.read(np.array([2])), x[2:3, :, :, np.newaxis])


def test_none_fits_every_size():
    dataset = load_dataset((make_images(4), np.arange(4)), input_shape=(None, None, 3))
    assert dataset.read(np.array([1])).shape == (1, 4, 4, 3)


@pytest.mark.parametrize(
    ("shape", "input_shape", "way_out"),
    [
        ((4, 4, 3), (8, 8, 3), "Arrays are not resized"),
        ((4, 4), (4, 4, 3), "Arrays are not resized"),
        ((16,), (4, 4, 1), "Arrays are not resized"),
        ((3, 4, 5), (4, 5, 3), "Channels come last: use np.moveaxis"),
    ],
)
def test_samples_of_a_wrong_shape_are_refused(shape, input_shape, way_out):
    with pytest.raises(DataError) as error:
        load_dataset((make_images(4, shape), np.arange(4)), input_shape=input_shape)
    assert str(error.value).startswith(
        f"The samples of 'arrays' have shape {shape}, but the model reads {input_shape}. {way_out}"
    )


def test_two_pairs_are_train_and_test(x):
    train, test = (x, np.arange(6)), (x[:4], np.arange(4))
    dataset = load_dataset((train, test), input_shape=(4, 4, 3))
    assert {split: len(part) for split, part in dataset.splits.items()} == {"train": 6, "test": 4}


def test_names_in_one_split_and_numbers_in_another_are_refused(x):
    parts = ((x, np.arange(6)), (x, np.array(list("abcdef"))))
    with pytest.raises(DataError, match="names in one split and numbers in another"):
        load_dataset(parts, input_shape=(4, 4, 3))


def test_splits_of_different_shapes_are_refused():
    parts = ((make_images(2), np.arange(2)), (make_images(2, (5, 4, 3)), np.arange(2)))
    with pytest.raises(DataError, match=r"different shapes, \(4, 4, 3\) and \(5, 4, 3\)"):
        load_dataset(parts, input_shape=(None, 4, 3))


@pytest.mark.parametrize(
    ("source", "found"),
    [(3.5, "float"), ((1, 2), "tuple"), ([], "list"), ({"x": 1}, "dict"), (None, "NoneType")],
)
def test_a_source_of_another_kind_is_refused(source, found):
    with pytest.raises(DataError, match=f"Cannot read data from {found}. Expected a folder of im"):
        load_dataset(source, input_shape=(4, 4, 3))


def test_samples_that_are_no_numbers_are_refused():
    with pytest.raises(DataError, match=r"an array of numbers, samples first\. Got <U1 of"):
        load_dataset((np.array(["a", "b"]), np.arange(2)), input_shape=(4, 4, 3))


def test_empty_arrays_are_refused():
    with pytest.raises(DataError, match="'arrays' has no samples"):
        load_dataset((make_images(0), np.arange(0)), input_shape=(4, 4, 3))


def test_a_data_set_is_returned_as_it_is(x):
    dataset = Dataset("own", ("a", "b"), np.array([0, 1]), {"all": np.arange(2)}, lambda i: x[i])
    assert load_dataset(dataset, input_shape=(4, 4, 3)) is dataset


def test_a_sample_that_is_not_finite_is_named(x):
    x = x.astype(np.float32)
    x[4, 1, 1, 1] = np.nan
    dataset = load_dataset((x, np.arange(6)), input_shape=(4, 4, 3))
    assert np.array_equal(read_samples(dataset, [5, 3], RAW).inputs, x[[5, 3]])
    with pytest.raises(DataError, match=r"^Sample 4 of 'arrays' holds values that are not finite"):
        read_samples(dataset, [5, 4], RAW)


def test_choosing_no_samples_is_refused(x):
    dataset = load_dataset((x, np.arange(6)), input_shape=(4, 4, 3))
    with pytest.raises(DataError, match="No samples of 'arrays' were chosen"):
        read_samples(dataset, [], RAW)


def test_reading_does_not_touch_the_arrays_of_the_user(x):
    def spoil(batch):
        batch[:] = 0
        return batch

    before = x.copy()
    dataset = load_dataset((x, np.arange(6)), input_shape=(4, 4, 3))
    assert not read_samples(dataset, range(6), parse_preprocess(spoil)).inputs.any()
    np.testing.assert_array_equal(x, before)


def test_many_batches_are_read_in_the_order_asked_for():
    x = np.arange(1000, dtype=np.int32).reshape(1000, 1, 1)
    dataset = load_dataset((x, np.arange(1000) % 7), input_shape=(1, 1, 1))
    order = np.random.default_rng(0).permutation(1000)
    samples = read_samples(dataset, order, RAW)
    assert samples.inputs.dtype == np.float32
    assert samples.inputs.ravel().tolist() == order.tolist()
    assert samples.targets.tolist() == (order % 7).tolist()


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"images": 1, "labels": 1}, "holds images, labels. Expected 'x' and 'y', or 'x_train'"),
        ({"x": 1}, "has 'x' without its partner"),
        ({"x_train": 1, "y_train": 1, "y_test": 1}, "has 'y_test' without its partner"),
        ({"x": 1, "y": 1, "x_test": 1, "y_test": 1}, "holds x, x_test, y, y_test. Expected"),
    ],
)
def test_an_npz_file_with_other_arrays_says_what_was_found(tmp_path, arrays, message):
    path = save(tmp_path / "data.npz", **arrays)
    with pytest.raises(DataError, match=message):
        load_dataset(path, input_shape=(4, 4, 3))


def test_python_objects_in_an_npz_file_are_never_unpickled(tmp_path, x):
    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "sprung"), "w"))

    for arrays in ({"x": x, "y": np.array([Trap()] * 6)}, {"x": np.array([Trap()] * 6), "y": x}):
        path = save(tmp_path / "data.npz", **arrays)
        with pytest.raises(DataError, match=r"it holds Python objects\. Expected an \.npz archive"):
            load_dataset(path, input_shape=(4, 4, 3))
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("keep", [0, 100, 0.5, 0.99])
def test_a_cut_npz_file_is_refused_by_name(tmp_path, x, compressed, keep):
    path = save(tmp_path / "data.npz", compressed, x=x, y=np.arange(6))
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content)) if keep < 1 else keep])
    with pytest.raises(DataError, match=rf"^Cannot read '{path}': .+ Expected an \.npz archive"):
        load_dataset(path, input_shape=(4, 4, 3))


def test_a_wrong_path_gets_a_suggestion(tmp_path, x):
    save(tmp_path / "photos.npz", x=x, y=np.arange(6))
    with pytest.raises(DataError) as error:
        load_dataset(tmp_path / "photo.npz", input_shape=(4, 4, 3))
    assert str(error.value).startswith(
        f"There is no data at '{tmp_path / 'photo.npz'}'. "
        f"Did you mean '{tmp_path / 'photos.npz'}'? Expected a folder of images, an .npz file, "
    )


def test_another_kind_of_file_is_refused(tmp_path):
    (tmp_path / "data.csv").write_text("1,2")
    with pytest.raises(DataError, match=r"data\.csv' is neither a folder nor an \.npz file"):
        load_dataset(tmp_path / "data.csv", input_shape=(4, 4, 3))


def test_real_images_in_an_npz_file(shared_data):
    path = shared_data / "fashion_mnist" / "test.npz"
    dataset = load_dataset(path, input_shape=(28, 28, 1))
    with np.load(path) as archive:
        np.testing.assert_array_equal(
            dataset.read(np.array([9999]))[0, :, :, 0], archive["x"][9999]
        )
        np.testing.assert_array_equal(dataset.targets, archive["y"])


@pytest.mark.parametrize(
    "targets", [{}, {"y": np.zeros((6, 4, 4, 1))}, {"y": np.linspace(0.0, 1.0, 6)}]
)
def test_classes_are_asked_for_only_where_they_matter(tmp_path, x, targets):
    path = save(tmp_path / "data.npz", x=x, **targets)
    dataset = load_dataset(path, input_shape=(4, 4, 3), labelled=False)
    assert (dataset.classes, dataset.targets.tolist()) == (("unlabelled",), [0] * 6)
    np.testing.assert_array_equal(dataset.read(np.arange(6)), x)
    with pytest.raises(DataError):
        load_dataset(path, input_shape=(4, 4, 3))


def test_known_classes_are_kept_where_they_do_not_matter(tmp_path, x):
    path = save(tmp_path / "data.npz", x=x, y=np.arange(6) % 3)
    assert load_dataset(path, input_shape=(4, 4, 3), labelled=False).classes == ("0", "1", "2")


@pytest.mark.parametrize("key", ["x", "y"])
@pytest.mark.parametrize("compressed", [False, True])
def test_a_changed_byte_in_an_npz_file_is_found(tmp_path, x, key, compressed):
    arrays = {"x": x, "y": np.arange(6)}
    path = save(tmp_path / "data.npz", compressed, **arrays)
    with zipfile.ZipFile(path) as archive:
        info = archive.getinfo(f"{key}.npy")
    content = bytearray(path.read_bytes())
    content[info.header_offset + info.compress_size] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match=rf"^Cannot read '{path}': "):
        load_dataset(path, input_shape=(4, 4, 3))


@pytest.mark.parametrize("shape", ["(5, 4, 4, 3)", "(9, 4, 4, 3)", "(9999999999999, 4, 4, 3)"])
@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_header_that_does_not_fit_its_array_is_found(tmp_path, x, shape, method):
    whole = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        whole, {"descr": "|u1", "fortran_order": False, "shape": eval(shape)}
    )
    path = tmp_path / "data.npz"
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("x.npy", whole.getvalue() + x.tobytes())
        archive.writestr("y.npy", whole.getvalue())
    with pytest.raises(DataError, match=r"'x' has .* bytes, but by its header .* it should have"):
        load_dataset(path, input_shape=(4, 4, 3))


def test_a_pipe_is_never_waited_for(tmp_path):
    os.mkfifo(tmp_path / "data.npz")
    with pytest.raises(DataError, match="it is no file but a folder, a pipe or a device"):
        load_dataset(tmp_path / "data.npz", input_shape=(4, 4, 3))


def test_a_path_that_is_too_long_is_refused():
    with pytest.raises(DataError, match="There is no data at"):
        load_dataset("x/" * 5000, input_shape=(4, 4, 3))
