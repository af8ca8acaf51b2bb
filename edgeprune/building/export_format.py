"""The form in which a build delivers its model: number format, and what goes in and out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from edgeprune.boards import Target
from edgeprune.data import Preprocess
from edgeprune.errors import ConversionError, DataError
from edgeprune.tflite.conversion_checks import check_choices
from edgeprune.tflite.edgetpu import is_edgetpu


@dataclass(frozen=True)
class Format:
    """How a model is converted.

    Attributes:
        scheme: number format, one of `edgeprune.tflite.SCHEMES`.
        io: what goes in and out of an int8 model.
        input: `uint8` for stored values, with the scaling inside; `None` for what `io` says.
    """

    scheme: str
    io: str = "float32"
    input: str | None = None

    def check(self, target: Target, preprocess: Preprocess) -> None:
        """Refuse what does not go together, before anything is loaded.

        Raises:
            ConversionError: an unknown choice, floats for the Edge TPU, or a scaling that cannot go
                inside.
        """
        check_choices(self.scheme, self.io)
        if is_edgetpu(target.delegate) and not self.scheme.startswith("int8"):
            raise ConversionError(
                f"Target '{target.name}' is an Edge TPU, which computes in int8 only; got "
                f"'{self.scheme}'. Take int8, the target's own format."
            )
        if self.input not in (None, "float32", "uint8"):
            raise ConversionError(f"Unknown input '{self.input}'. Choose float32 or uint8.")
        if self.input == "uint8" and preprocess.scaling is None:
            raise ConversionError(
                "Input uint8 puts the scaling inside the model, and "
                f"'{preprocess.name}' is a function. Say how the model was fed with --preprocess "
                "raw, unit, symmetric or 'standardize:mean=..;std=..'."
            )

    def to_dict(self) -> dict[str, Any]:
        """Return the settings of the report as JSON types."""
        return {"quantize": self.scheme, "io": self.io, "input": self.input or self.io}

    def store(self, inputs: np.ndarray, preprocess: Preprocess) -> np.ndarray:
        """Return what the `.tflite` is fed with: the inputs, or the bytes they were made from.

        Args:
            inputs: `(n, ...)` as the Keras model takes them.
            preprocess: how they were made.

        Raises:
            DataError: they were not made from bytes.
        """
        if self.input != "uint8" or preprocess.scaling is None:
            return inputs
        stored = preprocess.scaling.invert(inputs)
        whole = np.rint(stored)
        if np.abs(stored - whole).max() > 0.01 or whole.min() < 0 or whole.max() > 255:
            raise DataError(
                f"Input uint8 is for samples stored as whole numbers from 0 to 255; these go from "
                f"{stored.min():.4g} to {stored.max():.4g}. Leave the input as float32."
            )
        return whole.astype(np.uint8)
