"""How a model is quantized, where there is a choice."""

from __future__ import annotations

from dataclasses import dataclass, field

from edgeprune.errors import ConversionError
from edgeprune.tflite.conversion_checks import INT8
from edgeprune.tflite.fallback import Fallback
from edgeprune.tflite.qat.qat_settings import QuantizedTraining
from edgeprune.tflite.ranges import RANGES


@dataclass(frozen=True)
class Quantization:
    """Choices for integer schemes.

    Attributes:
        ranges: how the ranges of int8 are found, a name in `edgeprune.tflite.RANGES`; `auto`
            takes the way whose outputs are closest to the float model's on the calibration samples.
        fallback: the loss above which the worst layers of an int8 model stay in float; `None`
            quantizes every layer.
        training: of int8-qat.

    Raises:
        ConversionError: an unknown way to ranges.
    """

    ranges: str = "auto"
    fallback: Fallback | None = None
    training: QuantizedTraining = field(default_factory=QuantizedTraining)

    def __post_init__(self) -> None:
        """Refuse an unknown way."""
        if self.ranges not in ("auto", *RANGES):
            raise ConversionError(
                f"Unknown way to ranges '{self.ranges}'. Choose one of auto, {', '.join(RANGES)}."
            )

    def check(self, scheme: str) -> None:
        """Refuse a fallback where nothing is quantized to 8 bits.

        Raises:
            ConversionError: that.
        """
        if self.fallback is not None and scheme not in INT8:
            raise ConversionError(
                f"A fallback to float needs scheme 'int8' or 'int8-qat'. Got '{scheme}'."
            )


DEFAULT = Quantization()
