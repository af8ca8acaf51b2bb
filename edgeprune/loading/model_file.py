"""Which file a model is in, as data: `ModelFile`."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgeprune.errors import ModelError


@dataclass(frozen=True, eq=False)
class ModelFile:
    """Where a model is, and what is needed to open it.

    Attributes:
        path: a `.keras`, `.h5` or `.hdf5` file, the JSON of an architecture, or the folder of a
            SavedModel.
        weights: the file with the weights, when `path` is an architecture or the weights are to be
            replaced: `.h5`, `.weights.h5`, `.keras`, or the prefix of a TensorFlow checkpoint.
        custom_objects: classes and functions of your own by the name they have in the file.
        input_size: of every axis between batch and channels, where the model leaves it open.
    """

    path: str | os.PathLike[str]
    weights: str | os.PathLike[str] | None = None
    custom_objects: Mapping[str, Any] | None = None
    input_size: Sequence[int] | None = None


def parse_size(text: str) -> tuple[int, ...]:
    """Read sizes such as `96x96`, height first, or the length of a sequence.

    Raises:
        ModelError: it is something else.

    Example:
        >>> parse_size("96x128")
        (96, 128)
    """
    if not re.fullmatch(r"[1-9]\d{0,5}(x[1-9]\d{0,5}){0,2}", text):
        raise ModelError(
            f"'{text}' is no size of an input. Expected height and width, such as 96x96, or the "
            "length of a sequence, such as 16000."
        )
    return tuple(map(int, text.split("x")))


def name_model(model: Any) -> str:
    """Return the path of a model's file, or the name of a model in memory."""
    if isinstance(model, ModelFile):
        return str(model.path)
    return str(model) if isinstance(model, (str, os.PathLike)) else str(model.name)
