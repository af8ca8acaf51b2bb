"""Models and images in a form that any backend of Keras reads: prepared once, in one folder."""

from __future__ import annotations

import io
import itertools
import os
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.experiments.recipes import Recipe
from edgeprune.support.files import replace_on_success

POOL_PER_CLASS = 600
"""Images of the train split per class that calibration and validation are drawn from."""
VWW_POOL_PER_CLASS = 250
"""Visual wake words has no train split here: so many of every class are the pool."""
TRAIN = {"cifar10": ("cifar10/train_1.npz", "cifar10/train_2.npz")}
TEST = {"cifar10": "cifar10/test.npz", "vww01": "mlperf_tiny/vww01.npz"}


@dataclass(frozen=True, eq=False)
class Images:
    """One data set.

    Attributes:
        names: of the classes.
        pool: `(n, h, w, c)` uint8 images that calibration and validation are drawn from.
        pool_targets: `(n,)` their classes.
        test: likewise, for the table only.
        test_targets: see `pool_targets`.
    """

    names: tuple[str, ...]
    pool: np.ndarray
    pool_targets: np.ndarray
    test: np.ndarray
    test_targets: np.ndarray


def prepare(recipe: Recipe, names: Iterable[str], shared: Path, folder: Path) -> None:
    """Write the models as `.keras` and the images as `.npz`; what is there already stays.

    Args:
        recipe: describes the models and data sets.
        names: of the models that are needed.
        shared: the folder of real models and data.
        folder: where the files go.
    """
    folder.mkdir(parents=True, exist_ok=True)
    subjects = {name: recipe.subjects[name] for name in names}
    for data in sorted({subject.data for subject in subjects.values()}):
        path = folder / f"{data}.npz"
        if not path.exists():
            found = _read_images(shared, data)
            with replace_on_success(path) as temporary:
                np.savez_compressed(temporary, **found)
    for name, subject in subjects.items():
        path = folder / f"{name}.keras"
        if not path.exists():
            from edgeprune.loading import load_model

            model = load_model(shared / subject.model)
            with replace_on_success(path) as temporary:
                model.save(temporary)


def load_images(folder: Path, data: str) -> Images:
    """Read a data set that was prepared.

    Args:
        folder: given to `prepare`.
        data: its name.
    """
    with np.load(folder / f"{data}.npz", allow_pickle=False) as found:
        return Images(
            tuple(str(name) for name in found["names"]),
            found["pool"],
            found["pool_targets"],
            found["test"],
            found["test_targets"],
        )


@lru_cache(maxsize=1)
def load_train_split(shared: Path, data: str) -> tuple[np.ndarray, np.ndarray]:
    """Read all images that may be trained on: the train split without the pool.

    Args:
        shared: the folder of real models and data.
        data: name of the data set.
    """
    images, targets, _ = _decode_files([shared / name for name in TRAIN[data]])
    rest = np.setdiff1d(np.arange(len(targets)), _choose_pool(targets, POOL_PER_CLASS))
    return images[rest], targets[rest]


def draw(
    images: Images, classes: tuple[int, ...], per_class: tuple[int, int], seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return indices into the pool for calibration and for validation, none in both.

    Args:
        images: of the data set.
        classes: to draw from.
        per_class: for calibration and for validation.
        seed: of the draw.
    """
    generator = np.random.default_rng([seed, 7])
    parts: tuple[list[int], list[int]] = ([], [])
    for number in range(len(images.names)):
        order = generator.permutation(np.flatnonzero(images.pool_targets == number)).tolist()
        if number in classes:
            parts[0].extend(order[: per_class[0]])
            parts[1].extend(order[per_class[0] :][: per_class[1]])
    return np.sort(np.array(parts[0])), np.sort(np.array(parts[1]))


def _read_images(shared: Path, data: str) -> dict[str, np.ndarray]:
    test, test_targets, names = _decode_files([shared / TEST[data]])
    if data in TRAIN:
        train, targets, _ = _decode_files([shared / name for name in TRAIN[data]])
        chosen = _choose_pool(targets, POOL_PER_CLASS)
        pool, pool_targets = train[chosen], targets[chosen]
    else:
        chosen = _choose_pool(test_targets, VWW_POOL_PER_CLASS)
        pool, pool_targets = test[chosen], test_targets[chosen]
        test, test_targets = np.delete(test, chosen, axis=0), np.delete(test_targets, chosen)
    return {
        "names": np.array(names), "pool": pool, "pool_targets": pool_targets,
        "test": test, "test_targets": test_targets,
    }  # fmt: skip


def _choose_pool(targets: np.ndarray, per_class: int) -> np.ndarray:
    """Return the first images of every class; a file may be sorted by class."""
    first = [np.flatnonzero(targets == c)[:per_class] for c in np.unique(targets)]
    return np.sort(np.concatenate(first))


def _decode_files(paths: list[Path]) -> tuple[np.ndarray, np.ndarray, list[str]]:
    images, targets = [], []
    names: list[str] = []
    with ProcessPoolExecutor(os.cpu_count()) as executor:
        for path in paths:
            with np.load(path, allow_pickle=False) as packed:
                data, offsets = packed["webp"].tobytes(), packed["offsets"]
                targets.append(packed["labels"].astype(np.int64))
                names = [str(name) for name in packed["classes"]]
            parts = [data[i:j] for i, j in itertools.pairwise(offsets)]
            images.append(np.stack(list(executor.map(_decode, parts, chunksize=500))))
    return np.concatenate(images), np.concatenate(targets), names


def _decode(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
