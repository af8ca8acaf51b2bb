"""CIFAR-10 in the parts that the experiments use, and JSON results."""

from __future__ import annotations

import json
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgeprune.support.files import replace_on_success

MEAN = np.array([125.307, 122.950, 113.865], np.float32)
DEVIATION = np.array([62.993, 62.089, 66.705], np.float32)


@dataclass(frozen=True, eq=False)
class Part:
    """Images as stored and their classes.

    Attributes:
        images: `(n, 32, 32, 3)` uint8.
        labels: `(n,)` int64.
    """

    images: np.ndarray
    labels: np.ndarray

    def pair(self) -> tuple[np.ndarray, np.ndarray]:
        """Return inputs and targets."""
        return scale(self.images), self.labels


def scale(images: np.ndarray) -> np.ndarray:
    """Return inputs of the networks: every colour with mean 0 and deviation 1."""
    return (images.astype(np.float32) - MEAN) / DEVIATION


def read_parts(path: Path, recipe: dict[str, Any]) -> dict[str, Part]:
    """Read train, validation, calibration and test; the last images of train are validation.

    Args:
        path: `.npz` with `x_train`, `y_train`, `x_test`, `y_test`.
        recipe: says how many.
    """
    with np.load(path, allow_pickle=False) as file:
        x, y = file["x_train"], file["y_train"].reshape(-1).astype(np.int64)
        test = Part(file["x_test"], file["y_test"].reshape(-1).astype(np.int64))
    end = len(x) - recipe["validation"]
    train = Part(x[:end], y[:end])
    wanted = recipe["calibration_per_class"]
    chosen = np.concatenate([np.nonzero(train.labels == c)[0][:wanted] for c in range(10)])
    return {
        "train": train,
        "validation": Part(x[end:], y[end:]),
        "calibration": Part(train.images[chosen], train.labels[chosen]),
        "test": test,
    }


def read_recipe(path: Path) -> dict[str, Any]:
    """Read the recipe."""
    return tomllib.loads(path.read_text(encoding="utf-8"))


def write_result(folder: Path, name: str, result: dict[str, Any]) -> None:
    """Write the figures of one stage at once, so that a later failure loses nothing."""
    with replace_on_success(folder / f"{name}.json") as temporary:
        temporary.write_text(json.dumps(result, indent=1), encoding="utf-8")
