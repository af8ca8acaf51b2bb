"""The form in which a model is delivered, as data: `Export`."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from edgeprune.boards import Target
from edgeprune.data.preprocessing import Preprocess
from edgeprune.errors import ConversionError, DataError
from edgeprune.tflite.conversion_checks import check_choices
from edgeprune.tflite.edgetpu import is_edgetpu
from edgeprune.tflite.quantization import Quantization


@dataclass(frozen=True)
class Export:
    """Number format of a `.tflite`, and what goes in and out of it.

    Attributes:
        scheme: number format, one of `edgeprune.tflite.SCHEMES`; `None` for the target's.
        io: what goes in and out of an int8 model: `float32`, `int8` or `uint8`.
        input: `uint8` puts the scaling inside the model, which then takes the bytes of a camera;
            `None` for what `io` says.
        quantization: how integers are chosen, and what may stay in float.

    Example:
        >>> Export.parse("int8").types("float32")
        ('float32', None)
    """

    scheme: str | None = None
    io: str = "float32"
    input: str | None = None
    quantization: Quantization = field(default_factory=Quantization)

    @classmethod
    def parse(cls, given: Export | str | None) -> Export:
        """Return settings as they are, or those of a number format by its name."""
        return given if isinstance(given, Export) else cls(given)

    def resolve(self, target: Target, preprocess: Preprocess) -> Export:
        """Return the settings with the target's number format where none is given.

        Raises:
            ConversionError: an unknown choice, floats for the Edge TPU, or a scaling that cannot go
                inside.
        """
        scheme = self.scheme or target.scheme
        check_choices(scheme, self.io)
        self.quantization.check(scheme)
        if is_edgetpu(target.delegate) and not scheme.startswith("int8"):
            raise ConversionError(
                f"Target '{target.name}' is an Edge TPU, which computes in int8 only; got "
                f"'{scheme}'. Take int8, the target's own format."
            )
        if self.input not in (None, "float32", "uint8"):
            raise ConversionError(f"Unknown input '{self.input}'. Choose float32 or uint8.")
        if self.input == "uint8" and preprocess.scaling is None:
            raise ConversionError(
                "Input uint8 puts the scaling inside the model, and "
                f"'{preprocess.name}' is a function. Say how the model was fed with --preprocess "
                "raw, unit, symmetric or 'standardize:mean=..;std=..'."
            )
        return replace(self, scheme=scheme)

    def types(self, scheme: str) -> tuple[str, str | None]:
        """Return `io` and `input` of a model in a number format: floats where it has no int8."""
        return (self.io if scheme.startswith("int8") else "float32"), self.input

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
