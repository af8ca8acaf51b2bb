"""What is reported about a conversion, as JSON types."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from edgeprune.tflite.converter import Conversion


def describe_conversion(made: Conversion) -> dict[str, Any] | None:
    """Return the losses of an integer model, or `None` where there is nothing to report.

    Returns:
        `ranges`, `loss` and `error` (on the calibration samples), `float_layers`, `layers` in the
        order of computation (see `LayerError`), and after int8-qat `training`: `losses` before and
        after each epoch, which was `chosen`, the layers `left` without simulated rounding, and
        `seconds`.
    """
    if not made.layers and made.trained is None:
        return None
    described: dict[str, Any] = {
        "ranges": made.ranges,
        "loss": made.loss,
        "error": made.error,
        "float_layers": list(made.float_layers),
        "layers": [asdict(layer) for layer in made.layers],
    }
    if made.trained is not None:
        described["training"] = {
            "losses": list(made.trained.losses),
            "chosen": made.trained.chosen,
            "left": list(made.trained.left),
            "seconds": made.trained.seconds,
        }
    return described
