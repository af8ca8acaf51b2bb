"""The layers that 8 bits spoil stay in float: as few as a limit on the loss allows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from edgeprune.errors import ConversionError
from edgeprune.tflite.layer_errors import LayerError


@dataclass(frozen=True)
class Fallback:
    """How much quantization may cost before layers stay in float.

    Attributes:
        limit: largest loss, 0 to 1. With targets: accuracy lost. Without: share of samples whose
            answer (argmax) changes, which bounds the accuracy lost. For outputs of one value: the
            root mean square of the change, relative to the output.
    """

    limit: float

    def __post_init__(self) -> None:
        """Refuse what is no share."""
        if not 0 < self.limit < 1:
            raise ConversionError(
                f"The limit of the fallback must be more than 0 and less than 1 (0.01 is one "
                f"percent of the answers). Got {self.limit:g}."
            )

    @classmethod
    def parse(cls, text: str | float) -> Fallback:
        """Read `1%` or `0.01`.

        Raises:
            ConversionError: it is neither.

        Example:
            >>> Fallback.parse("1%").limit
            0.01
        """
        try:
            percent = isinstance(text, str) and text.strip().endswith("%")
            number = float(text.strip().rstrip("%")) if isinstance(text, str) else float(text)
        except ValueError:
            raise ConversionError(
                f"Cannot read the limit of the fallback '{text}'. Expected a share such as 1%."
            ) from None
        return cls(number / 100 if percent else number)


def measure_loss(
    expected: Sequence[np.ndarray], found: Sequence[np.ndarray], targets: np.ndarray | None
) -> float:
    """Return what `Fallback.limit` limits.

    Args:
        expected: outputs of the float model, each `(n, ...)`.
        found: of the quantized one.
        targets: true classes `(n,)`, or None.

    Example:
        >>> exact = [np.array([[0.9, 0.1], [0.6, 0.4]])]
        >>> measure_loss(exact, [np.array([[0.9, 0.1], [0.4, 0.6]])], None)
        0.5
        >>> measure_loss(exact, [np.array([[0.9, 0.1], [0.4, 0.6]])], np.array([0, 1]))
        -0.5
    """
    losses = []
    for exact, rounded in zip(expected, found, strict=True):
        if exact.shape[-1] == 1:
            scale = max(float(np.sqrt(np.square(exact).mean())), 1e-12)
            losses.append(float(np.sqrt(np.square(exact - rounded).mean())) / scale)
        elif targets is not None and exact.ndim == 2:
            hits = [(outputs.argmax(-1) == targets).mean() for outputs in (exact, rounded)]
            losses.append(float(hits[0] - hits[1]))
        else:
            losses.append(float((exact.argmax(-1) != rounded.argmax(-1)).mean()))
    return max(losses)


def choose_float_layers(
    layers: Sequence[LayerError], loss_with: Callable[[Sequence[int]], float], limit: float
) -> tuple[int, ...]:
    """Find a small number of tensors to keep in float, the worst first, that meets the limit.

    Args:
        layers: from `compare_layers`, with everything in integers.
        loss_with: the loss when these tensors stay in float.
        limit: the largest loss that is allowed.

    Returns:
        Indices of tensors; empty where nothing needs to.

    Raises:
        ConversionError: not even the model in float meets the limit on these samples, or only the
            weights' integers are to blame.
    """
    if loss_with(()) <= limit:
        return ()
    worst = [
        layer.tensor
        for layer in sorted(layers, key=lambda layer: -layer.rounding)
        if layer.layer not in ("(input)", "(output)")
    ]
    low, high = 0, 1
    while high < len(worst) and loss_with(worst[:high]) > limit:
        low, high = high, high * 2
    high = min(high, len(worst))
    if (final := loss_with(worst[:high])) > limit:
        raise ConversionError(
            f"The fallback cannot keep the loss below {limit:.2%}: with every layer in float it is "
            f"still {final:.2%}, so the input or the output is to blame. Use scheme 'int16x8' or "
            "'dynamic', or give --io float32."
        )
    while high - low > 1:
        middle = (low + high) // 2
        if loss_with(worst[:middle]) <= limit:
            high = middle
        else:
            low = middle
    return tuple(worst[:high])
