"""Options that say how a model is quantized."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from edgeprune.cli.options import COUNT, combine

if TYPE_CHECKING:
    from edgeprune.tflite import Quantization

FORMATS = "float32, float16, dynamic, int8, int16x8 or int8-qat."

quantization_options = combine(
    click.option(
        "--fallback",
        metavar="SHARE",
        show_default="every layer in integers",
        help="Loss above which the worst layers of an int8 model stay in float: 1% of the accuracy "
        "(without labels: of the answers).",
    ),
    click.option(
        "--ranges",
        metavar="HOW",
        default="auto",
        help="How int8 finds the ranges of its integers: limits, percentile, least_squares. auto: "
        "whichever brings the outputs closest to the float model's.",
    ),
    click.option(
        "--qat-epochs", type=COUNT, default=10, help="Epochs of the training of int8-qat, at most."
    ),
    click.option(
        "--qat-minutes",
        type=float,
        metavar="MINUTES",
        default=10.0,
        help="Time of the training of int8-qat, at most.",
    ),
)


def read_quantization(options: dict[str, Any]) -> Quantization:
    """Take the options of this module out of what was parsed.

    Raises:
        ConversionError: a value cannot be.
    """
    from edgeprune.tflite import Fallback, Quantization
    from edgeprune.tflite.qat import Training

    limit = options.pop("fallback")
    return Quantization(
        options.pop("ranges"),
        None if limit is None else Fallback.parse(limit),
        Training(epochs=options.pop("qat_epochs"), minutes=options.pop("qat_minutes")),
    )
