"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from edgeprune.errors import DataError

Command = Callable[..., Any]


def combine(*options: Callable[[Command], Command]) -> Callable[[Command], Command]:
    """Return one decorator for several options, listed in `--help` in this order."""

    def decorate(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


output_options = combine(
    click.option("--json", "as_json", is_flag=True, help="Print the result as JSON."),
    click.option("--quiet", "-q", is_flag=True, help="No progress, no tables."),
)
model_options = combine(
    click.argument("model"),
    click.option(
        "--weights", metavar="FILE", help="Weights, where MODEL is an architecture in JSON."
    ),
)
data_options = combine(
    click.option(
        "--data",
        required=True,
        help="Image folder (split/class/* or class/*), .npz with x and y, or digits, cifar10, "
        "cifar100, mnist, fashion_mnist.",
    ),
    click.option(
        "--preprocess",
        default="raw",
        show_default=True,
        metavar="HOW",
        help="How stored samples become inputs: raw, unit (x/255), symmetric (x/127.5-1), "
        "'standardize:mean=..;std=..' or module:function.",
    ),
    click.option(
        "--labels",
        metavar="FILE",
        help="Names of the model's outputs, one per line, if the data does not name them all.",
    ),
)
pruning_options = combine(
    click.option("--classes", metavar="NAMES", help="Classes to keep, by name or index: cat,dog."),
    click.option(
        "--budget",
        metavar="QUANTITY=AMOUNT",
        help="The most it may cost: macs=50%, macs=6.2M, params=120k.  [default: the target's]",
    ),
    click.option("--criterion", metavar="NAME", help="How channels are ranked; see `methods`."),
    click.option("--recovery", metavar="NAME", help="How accuracy is given back; auto tries all."),
    click.option(
        "--recalibrate",
        type=click.Choice(["auto", "on", "off"]),
        default="auto",
        show_default=True,
        help="BatchNorm recalibration after the recovery.",
    ),
    click.option(
        "--step",
        type=click.IntRange(min=1),
        metavar="N",
        help="Widths are multiples of N; 1 allows any.  [default: the target's]",
    ),
    click.option(
        "--calibration",
        type=click.IntRange(min=1),
        default=100,
        show_default=True,
        metavar="N",
        help="Calibration samples per class.",
    ),
    click.option("--seed", type=int, default=0, show_default=True, help="Of everything drawn."),
)


def read_labels(path: str | None) -> list[str] | None:
    """Read class names from a file, one per line.

    Raises:
        DataError: the file cannot be read or is empty.
    """
    if path is None:
        return None
    try:
        names = [line.strip() for line in Path(path).read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"Cannot read the labels '{path}': {error}.") from error
    names = [name for name in names if name]
    if not names:
        raise DataError(f"The labels file '{path}' is empty. Expected one class name per line.")
    return names
