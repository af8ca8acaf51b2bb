"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from edgeprune.errors import DataError

Command = Callable[..., Any]


class WholeNumber(click.ParamType):  # type: ignore[type-arg]
    """A whole number from a smallest one up; adds nothing to the help, unlike `click.IntRange`."""

    name = "n"

    def __init__(self, smallest: int) -> None:
        """Remember the smallest number that is allowed."""
        self.smallest = smallest

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Read the number."""
        number: int = click.INT.convert(value, param, ctx)
        if number < self.smallest:
            self.fail(f"{number} is too small, expected at least {self.smallest}.", param, ctx)
        return number


COUNT = WholeNumber(1)
SEED = WholeNumber(0)


class InOrder(click.Group):
    """A group whose help lists the commands in the order in which they are defined."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names."""
        return list(self.commands)


def combine(*options: Callable[[Command], Command]) -> Callable[[Command], Command]:
    """Return one decorator for several options, listed in `--help` in this order."""

    def decorate(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


output_options = combine(
    click.option("--json", "as_json", is_flag=True, help="Print the result as JSON on stdout."),
    click.option("--quiet", "-q", is_flag=True, help="No progress, no tables; errors only."),
)
model_options = combine(
    click.argument("model"),
    click.option(
        "--weights",
        metavar="FILE",
        help="Weights, if MODEL is an architecture in JSON or its weights are to be replaced.",
    ),
)
data_option = click.option(
    "--data",
    required=True,
    metavar="SAMPLES",
    help="Image folder (split/class/* or class/*), .npz with x and y, or digits, cifar10, "
    "cifar100, mnist, fashion_mnist.",
)
preprocess_option = click.option(
    "--preprocess",
    default="raw",
    metavar="HOW",
    help="How stored samples become inputs, as in training: raw, unit (x/255), symmetric "
    "(x/127.5-1), 'standardize:mean=..;std=..' or module:function.",
)
input_option = click.option(
    "--input",
    metavar="TYPE",
    default=None,
    show_default="as --io says",
    help="uint8 puts the scaling of --preprocess inside, so that the model takes the bytes of a "
    "camera.",
)
labels_option = click.option(
    "--labels",
    metavar="FILE",
    help="Names of the model's outputs, one per line, if the data does not name them all.",
)
classes_option = click.option(
    "--classes",
    metavar="NAMES",
    show_default="all",
    help="Classes to keep, by name or index, in the order of the new outputs: cat,dog,fox.",
)


TARGETS_OWN = "the target's"
METHODS_OWN = "the method's"


def budget_option(**default: Any) -> Callable[[Command], Command]:
    """Return `--budget`.

    Args:
        default: `default`, or `show_default` where it is decided later.
    """
    return click.option(
        "--budget",
        metavar="QUANTITY=AMOUNT",
        multiple=True,
        callback=lambda context, option, given: ",".join(given) or None,
        help="The most it may cost: macs=50%, params=120k, size=500KB, memory=64KB, latency=20ms, "
        "energy=50mJ, fits=edgetpu. Several times, or with commas, for several at once.",
        **default,
    )


def tuning_options(*, method: dict[str, Any], step: dict[str, Any]) -> Callable[[Command], Command]:
    """Return the options that say how to prune.

    Args:
        method: `default`, or `show_default` where it is decided later.
        step: likewise.
    """
    return combine(
        click.option(
            "--method",
            metavar="NAME",
            help="Criterion, allocation and recovery by one name; see `edgeprune methods`.",
            **method,
        ),
        click.option(
            "--criterion",
            metavar="NAME",
            default=None,
            show_default=METHODS_OWN,
            help="How channels are ranked.",
        ),
        click.option(
            "--allocation",
            metavar="NAME",
            default=None,
            show_default=METHODS_OWN,
            help="How the widths of layers are chosen.",
        ),
        click.option(
            "--recovery",
            metavar="NAME",
            default=None,
            show_default=METHODS_OWN,
            help="How accuracy is given back. auto: whichever is best on validation.",
        ),
        click.option(
            "--recalibrate",
            type=click.Choice(["auto", "on", "off"]),
            default=None,
            show_default=METHODS_OWN,
            help="BatchNorm recalibration after the recovery. auto: where it helps.",
        ),
        click.option(
            "--step",
            type=COUNT,
            help="Layers get widths that are multiples of N; 1 allows any.",
            **step,
        ),
        click.option(
            "--time-limit",
            type=float,
            metavar="S",
            default=None,
            show_default=METHODS_OWN,
            help="Seconds after which a method that tries several tries no more.",
        ),
        click.option(
            "--gathers",
            is_flag=True,
            help="Also try readers of residual streams that read some channels; three times the "
            "work.",
        ),
        click.option(
            "--calibration", type=COUNT, default=100, help="Calibration samples per class."
        ),
        click.option("--validation", type=COUNT, default=200, help="Validation samples per class."),
        click.option("--seed", type=SEED, default=0, help="Of everything that is drawn."),
    )


def read_labels(path: str | None) -> list[str] | None:
    """Read class names from a file, one per line.

    Raises:
        DataError: the file cannot be read or is empty.
    """
    if path is None:
        return None
    try:
        names = [line.strip() for line in Path(path).read_text(encoding="utf-8-sig").splitlines()]
    except OSError as error:
        raise DataError(f"Cannot read the labels '{path}': {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise DataError(
            f"The labels file '{path}' is not text in UTF-8. Expected one class name per line."
        ) from error
    names = [name for name in names if name]
    if not names:
        raise DataError(f"The labels file '{path}' is empty. Expected one class name per line.")
    return names
