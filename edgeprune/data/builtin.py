"""Data sets known by name: scikit-learn's digits, and those of `keras.datasets`."""

from __future__ import annotations

import contextlib
import importlib
import sys

import numpy as np

from edgeprune.data.arrays import Part, Shape, load_arrays
from edgeprune.data.dataset import Dataset
from edgeprune.errors import DataError

NUM_DIGITS_FOR_TRAINING = 1198

FASHION_MNIST = """
    t-shirt trouser pullover dress coat sandal shirt sneaker bag ankle_boot
"""
CIFAR10 = """
    airplane automobile bird cat deer dog frog horse ship truck
"""
CIFAR100 = """
    apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus
    butterfly camel can castle caterpillar cattle chair chimpanzee clock cloud cockroach
    couch crab crocodile cup dinosaur dolphin elephant flatfish forest fox girl hamster
    house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree
    motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear
    pickup_truck pine_tree plain plate poppy porcupine possum rabbit raccoon ray road rocket
    rose sea seal shark shrew skunk skyscraper snail snake spider squirrel streetcar
    sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip
    turtle wardrobe whale willow_tree wolf woman worm
"""
CLASS_NAMES: dict[str, tuple[str, ...] | None] = {
    "digits": None,
    "mnist": None,
    "fashion_mnist": tuple(FASHION_MNIST.split()),
    "cifar10": tuple(CIFAR10.split()),
    "cifar100": tuple(CIFAR100.split()),
}


def load_builtin(name: str, input_shape: Shape, classes: tuple[str, ...] | None) -> Dataset:
    """Load a data set by name; those of Keras are downloaded once, which Keras keeps."""
    parts = _load_digits() if name == "digits" else _load_keras_dataset(name)
    return load_arrays(parts, input_shape, classes, name, CLASS_NAMES[name])


def _load_digits() -> dict[str, Part]:
    """8x8 real handwriting, values 0 to 16.

    The test part is the last third in the file's own order, so that its digits are not the
    neighbours of training digits, which one hand wrote one after the other.
    """
    try:
        from sklearn.datasets import load_digits
    except ModuleNotFoundError as error:
        raise DataError(
            "The built-in digits need scikit-learn: pip install 'edgeprune[tensorflow]'."
        ) from error
    digits = load_digits()
    x, y = digits.images.astype(np.uint8), digits.target
    cut = NUM_DIGITS_FOR_TRAINING
    return {"train": (x[:cut], y[:cut]), "test": (x[cut:], y[cut:])}


def _load_keras_dataset(name: str) -> dict[str, Part]:
    try:
        with contextlib.redirect_stdout(sys.stderr):  # its progress bar would spoil --json
            module = importlib.import_module(f"keras.datasets.{name}")
            train, test = module.load_data()
    except Exception as error:  # Keras raises a bare Exception when the download fails
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(
            f"The data set '{name}' could not be fetched through keras.datasets: {reason}. "
            "Check the network, or give the path of an .npz file with x_train, y_train, x_test, "
            "y_test."
        ) from error
    return {"train": train, "test": test}
