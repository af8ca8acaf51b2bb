from __future__ import annotations

import sys
import types

import numpy as np
import pytest
from sklearn.datasets import load_digits

from edgeprune.data import load_dataset
from edgeprune.errors import DataError


def test_digits_are_as_scikit_learn_stores_them():
    digits = load_digits()
    dataset = load_dataset("digits", input_shape=(8, 8, 1))
    everything = np.concatenate([dataset.splits["train"], dataset.splits["test"]])
    np.testing.assert_array_equal(dataset.read(everything)[..., 0], digits.images)
    np.testing.assert_array_equal(dataset.targets, digits.target)
    assert dataset.read(everything).max() == 16
    assert dataset.classes == tuple("0123456789")


def test_the_split_of_digits_is_fixed_and_holds_every_class():
    dataset = load_dataset("digits", input_shape=(8, 8, 1))
    np.testing.assert_array_equal(dataset.splits["train"], np.arange(1198))
    np.testing.assert_array_equal(dataset.splits["test"], np.arange(1198, 1797))
    assert np.bincount(dataset.targets[dataset.splits["test"]]).min() > 50


def test_the_names_of_digits_may_be_given():
    names = [f"digit {number}" for number in range(10)]
    assert load_dataset("digits", input_shape=(8, 8, 1), classes=names).classes == tuple(names)


def test_a_model_for_another_size_is_refused():
    with pytest.raises(DataError, match=r"of 'digits' have shape \(8, 8\), but the model reads"):
        load_dataset("digits", input_shape=(28, 28, 1))


def test_digits_without_scikit_learn_say_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(DataError) as error:
        load_dataset("digits", input_shape=(8, 8, 1))
    assert str(error.value) == (
        "The built-in digits need scikit-learn: pip install 'edgeprune[tensorflow]'."
    )


@pytest.fixture
def keras_datasets(monkeypatch):
    """Stand-ins for the modules of `keras.datasets`, which would download."""

    def install(name, load_data):
        module = types.ModuleType(f"keras.datasets.{name}")
        module.load_data = load_data
        for parent in ("keras", "keras.datasets"):
            if parent not in sys.modules:
                monkeypatch.setitem(sys.modules, parent, types.ModuleType(parent))
        monkeypatch.setitem(sys.modules, module.__name__, module)

    return install


@pytest.mark.parametrize(
    ("name", "shape", "num_classes", "some_names"),
    [
        ("mnist", (28, 28), 10, {7: "7"}),
        ("fashion_mnist", (28, 28), 10, {0: "t-shirt", 9: "ankle_boot"}),
        ("cifar10", (32, 32, 3), 10, {3: "cat", 5: "dog", 7: "horse"}),
        ("cifar100", (32, 32, 3), 100, {0: "apple", 42: "leopard", 99: "worm"}),
    ],
)
def test_keras_datasets_keep_their_split_and_get_names(
    keras_datasets, capsys, name, shape, num_classes, some_names
):
    y = np.arange(num_classes, dtype=np.uint8)[:, np.newaxis]
    x = np.broadcast_to(y.reshape(-1, *[1] * len(shape)), (num_classes, *shape))

    def load_data():
        print("Downloading data")
        return (x, y), (x[::-1], y[::-1])

    keras_datasets(name, load_data)
    dataset = load_dataset(name, input_shape=(*shape[:2], 3 if len(shape) == 3 else 1))
    assert len(set(dataset.classes)) == num_classes
    assert {index: dataset.classes[index] for index in some_names} == some_names
    test = dataset.read(dataset.splits["test"])
    np.testing.assert_array_equal(test[:, 0, 0, 0], dataset.targets[dataset.splits["test"]])
    np.testing.assert_array_equal(test[:, 0, 0, 0], np.arange(num_classes)[::-1])
    assert capsys.readouterr().out == ""


def test_a_failed_download_says_what_to_do(keras_datasets):
    def load_data():
        raise Exception("URL fetch failure on https://example.org/x.npz: None -- timed out\nmore")

    keras_datasets("mnist", load_data)
    with pytest.raises(DataError) as error:
        load_dataset("mnist", input_shape=(28, 28, 1))
    assert str(error.value) == (
        "The data set 'mnist' could not be fetched through keras.datasets: URL fetch failure on "
        "https://example.org/x.npz: None -- timed out. Check the network, or give the path of an "
        ".npz file with x_train, y_train, x_test, y_test."
    )


def test_a_misspelt_name_gets_a_suggestion():
    with pytest.raises(DataError) as error:
        load_dataset("cifar-10", input_shape=(32, 32, 3))
    assert str(error.value).startswith(
        "There is no data at 'cifar-10'. Did you mean 'cifar10'? Expected a folder of images, an "
        ".npz file, one of digits, mnist, fashion_mnist, cifar10, cifar100, arrays (x, y) or "
    )


def test_a_folder_with_the_name_of_a_data_set_is_asked_about(tmp_path, monkeypatch):
    (tmp_path / "digits").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError) as error:
        load_dataset("digits", input_shape=(8, 8, 1))
    assert str(error.value) == (
        "'digits' is a built-in data set and also a file or folder here. "
        "Write './digits' for the latter, or rename it."
    )
    with pytest.raises(DataError, match="'digits' holds no images"):
        load_dataset("./digits", input_shape=(8, 8, 1))
