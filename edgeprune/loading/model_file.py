"""Which file a model is in, as data: `ModelFile`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, eq=False)
class ModelFile:
    """Where a model is, and what is needed to open it.

    Attributes:
        path: a `.keras`, `.h5` or `.hdf5` file, the JSON of an architecture, or the folder of a
            SavedModel.
        weights: the file with the weights, when `path` is an architecture or the weights are to be
            replaced: `.h5`, `.weights.h5`, `.keras`, or the prefix of a TensorFlow checkpoint.
        custom_objects: classes and functions of your own by the name they have in the file.
    """

    path: str | os.PathLike[str]
    weights: str | os.PathLike[str] | None = None
    custom_objects: Mapping[str, Any] | None = None


def name_model(model: Any) -> str:
    """Return the path of a model's file, or the name of a model in memory."""
    if isinstance(model, ModelFile):
        return str(model.path)
    return str(model) if isinstance(model, (str, os.PathLike)) else str(model.name)
