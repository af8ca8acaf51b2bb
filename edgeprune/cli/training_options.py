"""The option that asks for gradients."""

from __future__ import annotations

from typing import Any

import click

from edgeprune.distillation import FineTuning
from edgeprune.errors import EdgepruneError


def _read(context: click.Context, option: click.Parameter, given: str | None) -> Any:
    if given is None:
        return None
    try:
        return FineTuning.parse(given)
    except EdgepruneError as error:
        raise click.BadParameter(str(error), context, option) from error


fine_tune_option = click.option(
    "--fine-tune",
    "fine_tuning",
    metavar="TIME",
    default=None,
    show_default="no training",
    callback=_read,
    help="Train the slim model towards the answers of the original, on the train split, for at "
    "most this long: 5min, 90s, or 20epochs. Kept where validation gains.",
)
