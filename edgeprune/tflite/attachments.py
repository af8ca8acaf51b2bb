"""The files that travel inside a `.tflite`, so that nobody needs edgeprune to use it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from edgeprune.tflite.metadata import LABELS, PREPROCESSING, PROVENANCE

if TYPE_CHECKING:
    import keras

    from edgeprune.data.preprocessing import Preprocess

COLOURS = {1: "grey", 2: "grey, alpha", 3: "red, green, blue", 4: "red, green, blue, alpha"}
FORMAT_VERSION = 1


def describe_model(
    model: keras.Model,
    labels: Sequence[str] | None,
    preprocess: Preprocess | None,
    inside: bool,
    provenance: Mapping[str, Any] | None,
) -> dict[str, str]:
    """Return the text of each file that there is something to say in, by name.

    Args:
        model: that is converted.
        labels: class names, or `None`.
        preprocess: how stored values become inputs, or `None` where nobody said.
        inside: whether the model does it itself.
        provenance: how the model came about, or `None`.
    """
    files: dict[str, str] = {}
    if labels is not None:
        files[LABELS] = "".join(f"{label}\n" for label in labels)
    if preprocess is not None:
        files[PREPROCESSING] = _write(_preprocessing(model, preprocess, inside))
    if provenance is not None:
        files[PROVENANCE] = _write(provenance)
    return files


def _preprocessing(model: keras.Model, preprocess: Preprocess, inside: bool) -> dict[str, Any]:
    shape = tuple(model.inputs[0].shape[1:])
    scaling = preprocess.scaling
    return {
        "version": FORMAT_VERSION,
        "preprocess": preprocess.name,
        "inside": inside,
        "mean": None if scaling is None else scaling.mean,
        "std": None if scaling is None else scaling.std,
        **(
            {
                "size": shape[:2],
                "colours": COLOURS.get(shape[2]),
                "resize": "bilinear, without keeping the aspect ratio",
            }
            if len(shape) == 3
            else {"shape": shape}
        ),
    }


def _write(value: Any) -> str:
    return json.dumps(value, separators=(",", ":")) + "\n"
