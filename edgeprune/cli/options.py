"""Options that commands share, under headings, and the one place where they become objects."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgeprune.errors import DataError, ModelError
from edgeprune.support.files import check_regular
from edgeprune.support.user_code import import_object
from edgeprune.tracing.tasks import TASKS

if TYPE_CHECKING:
    from edgeprune.benchmarking import Measurement
    from edgeprune.data import Data
    from edgeprune.distillation import Training
    from edgeprune.loading import ModelFile
    from edgeprune.pruning.pruning_settings import Pruning
    from edgeprune.tflite import Quantization
    from edgeprune.tflite.export_settings import Export

Command = Callable[..., Any]
TARGETS_OWN = "the target's"
METHODS_OWN = "the method's"
MOST_LABEL_BYTES = 16 * 2**20
FORMATS = "float32, float16, dynamic, int8, int16x8 or int8-qat."


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


class Headed(click.Option):
    """An option that stands under a heading of its command's help."""

    def __init__(self, *names: Any, heading: str = "Output", **settings: Any) -> None:
        """Remember the heading."""
        super().__init__(*names, **settings)
        self.heading = heading


class HeadedCommand(click.Command):
    """A command whose help groups its options under their headings."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write one list per heading, in the order in which headings first appear."""
        lists: dict[str, list[tuple[str, str]]] = {}
        for option in self.get_params(ctx):
            record = option.get_help_record(ctx)
            if record is not None:
                lists.setdefault(getattr(option, "heading", "Output"), []).append(record)
        for heading, records in lists.items():
            with formatter.section(heading):
                formatter.write_dl(records)


def _under(heading: str) -> Callable[..., Callable[[Command], Command]]:
    """Return `click.option` for a heading of the help."""
    return partial(click.option, cls=Headed, heading=heading)


data_option = _under("Model and data")
keeping_option = _under("What to keep")
accuracy_option = _under("Accuracy")
format_option = _under("Format")
measuring_option = _under("Measuring")
measured_option = _under("What is measured")
place_option = _under("Where")
output_option = _under("Output")


def combine(*options: Callable[[Command], Command]) -> Callable[[Command], Command]:
    """Return one decorator for several options, listed in `--help` in this order."""

    def decorate(command: Command) -> Command:
        for each in reversed(options):
            command = each(command)
        return command

    return decorate


output_options = combine(
    output_option("--json", "as_json", is_flag=True, help="Print JSON on stdout."),
    output_option("--quiet", "-q", is_flag=True, help="No progress, no tables; errors only."),
)
model_options = combine(
    click.argument("model"),
    data_option(
        "--weights",
        metavar="FILE",
        help="Weights, if MODEL is an architecture in JSON or its weights are to be replaced.",
    ),
    data_option(
        "--custom",
        metavar="[NAME=]MODULE:NAME",
        multiple=True,
        show_default="none",
        help="Class or function of your own that MODEL uses, imported from your code; NAME= where "
        "MODEL calls it otherwise (a Lambda layer: by its name). Several times for several.",
    ),
    data_option(
        "--input-size",
        metavar="HxW",
        show_default="the model's own",
        help="Height and width (or length) of the input, where MODEL leaves them open: 96x96.",
    ),
)
preprocess_option = data_option(
    "--preprocess",
    default="raw",
    metavar="HOW",
    help="How stored samples become inputs, as in training: raw, unit (x/255), symmetric "
    "(x/127.5-1), 'standardize:mean=..;std=..' or module:function.",
)


def data_options(*, test: bool = False) -> Callable[[Command], Command]:
    """Return the options that make a `Data`.

    Args:
        test: whether the command tests on samples of their own.
    """
    tested = [
        data_option(
            "--test",
            type=COUNT,
            default=3000,
            help="Test samples of the kept classes, all together.",
        )
    ]
    return combine(
        data_option(
            "--data",
            required=True,
            metavar="SAMPLES",
            help="Image folder (split/class/* or class/*), .npz with x and y, or digits, cifar10, "
            "cifar100, mnist, fashion_mnist.",
        ),
        preprocess_option,
        data_option(
            "--labels",
            metavar="FILE",
            help="Names of the model's outputs, one per line, if the data does not name them all.",
        ),
        data_option(
            "--calibration", type=COUNT, default=100, help="Calibration samples per class."
        ),
        data_option("--validation", type=COUNT, default=200, help="Validation samples per class."),
        data_option(
            "--task",
            type=click.Choice(TASKS),
            default="auto",
            help="What the outputs mean. auto: told by how MODEL ends and what the targets are.",
        ),
        *(tested if test else []),
        data_option(
            "--memory",
            metavar="SIZE",
            callback=_read_size,
            show_default="a quarter of what is free",
            help="Most memory for samples, such as 4GB; all others are held on disk.",
        ),
    )


classes_option = keeping_option(
    "--classes",
    metavar="NAMES",
    show_default="all",
    help="Classes to keep, by name or index, in the order of the new outputs: cat,dog,fox.",
)


def budget_option(**default: Any) -> Callable[[Command], Command]:
    """Return `--budget`.

    Args:
        default: `default`, or `show_default` where it is decided later.
    """
    return keeping_option(
        "--budget",
        metavar="QUANTITY=AMOUNT",
        multiple=True,
        callback=_join_budgets,
        help="The most it may cost: macs=50%, params=120k, size=500KB, memory=64KB, latency=20ms, "
        "energy=50mJ, fits=edgetpu. drop=1%: the smallest that loses at most one point of "
        "accuracy. Several times, or with commas, for several at once.",
        **default,
    )


def pruning_options(**step: Any) -> Callable[[Command], Command]:
    """Return the options that make a `Pruning` and a `Training`.

    Args:
        step: `default` of the step, or `show_default` where it is decided later.
    """
    return combine(
        accuracy_option(
            "--method",
            metavar="NAME",
            default="auto",
            help="Criterion, allocation and recovery by one name; see `edgeprune methods`.",
        ),
        accuracy_option(
            "--criterion", metavar="NAME", show_default=METHODS_OWN, help="How channels are ranked."
        ),
        accuracy_option(
            "--allocation",
            metavar="NAME",
            show_default=METHODS_OWN,
            help="How the widths of layers are chosen.",
        ),
        accuracy_option(
            "--recovery",
            metavar="NAME",
            show_default=METHODS_OWN,
            help="How accuracy is given back. auto: whichever is best on validation.",
        ),
        accuracy_option(
            "--recalibrate",
            type=click.Choice(["auto", "on", "off"]),
            show_default=METHODS_OWN,
            help="BatchNorm recalibration after the recovery. auto: where it helps.",
        ),
        accuracy_option(
            "--step",
            type=COUNT,
            help="Layers get widths that are multiples of N; 1 allows any.",
            **step,
        ),
        accuracy_option(
            "--time-limit",
            type=float,
            metavar="S",
            default=60.0,
            help="Seconds after which a search for a blend of criteria tries nothing new.",
        ),
        accuracy_option(
            "--effort",
            metavar="HOW",
            default="balanced",
            help="Training towards the answers of the original, on the train split: balanced (at "
            "most 90 s), thorough (5 minutes), a length such as 10min or 20epochs, fast (none). "
            "Kept where validation gains.",
        ),
        accuracy_option("--fine-tune", metavar="TIME", hidden=True, help="Old name of --effort."),
        accuracy_option("--seed", type=SEED, default=0, help="Of everything that is drawn."),
    )


quantization_options = combine(
    format_option(
        "--io",
        metavar="TYPE",
        default="float32",
        help="What goes in and out of an int8 model: float32, int8 or uint8.",
    ),
    format_option(
        "--input",
        metavar="TYPE",
        show_default="as --io says",
        help="uint8 puts the scaling of --preprocess inside, so that the model takes the bytes of "
        "a camera.",
    ),
    format_option(
        "--fallback",
        metavar="SHARE",
        show_default="every layer in integers",
        help="Loss above which the worst layers of an int8 model stay in float: 1% of the accuracy "
        "(without labels: of the answers).",
    ),
    format_option(
        "--ranges",
        metavar="HOW",
        default="auto",
        help="How int8 finds the ranges of its integers: limits, percentile, least_squares. auto: "
        "whichever brings the outputs closest to the float model's.",
    ),
    format_option(
        "--qat-epochs", type=COUNT, default=10, help="Epochs of the training of int8-qat, at most."
    ),
    format_option(
        "--qat-minutes",
        type=float,
        metavar="MINUTES",
        default=10.0,
        help="Time of the training of int8-qat, at most.",
    ),
)


def _join_budgets(context: click.Context, parameter: click.Parameter, given: Any) -> str:
    if any(not part.strip() for text in given for part in text.split(",")):
        raise click.BadParameter("it is empty: give one such as macs=50%.", context, parameter)
    return ",".join(given)


def _read_size(context: click.Context, parameter: click.Parameter, given: Any) -> float | None:
    if given is None:
        return None
    from edgeprune.cost.budgets import Budget
    from edgeprune.errors import BudgetError

    try:
        size = Budget.parse(f"size={given}")
    except BudgetError:
        size = None
    if size is None or size.relative:
        raise click.BadParameter(
            f"{given!r} is no size. Give one such as 4GB or 500MB.", context, parameter
        )
    return size.amount


def list_inputs(options: dict[str, Any]) -> list[str]:
    """Return the paths that a command reads; none of them may be written to."""
    return [options[name] for name in ("model", "weights", "data", "labels") if options[name]]


def read_model(options: dict[str, Any]) -> ModelFile:
    """Take the options of `model_options`.

    Raises:
        ModelError: code of the user's own cannot be imported, or the size of the input is none.
    """
    from edgeprune.loading import ModelFile
    from edgeprune.loading.model_file import parse_size

    named, size = options.pop("custom"), options.pop("input_size")
    size = None if size is None else parse_size(size)
    custom = {}
    for text in named:
        name, _, where = text.rpartition("=")
        custom[name or where.partition(":")[2]] = import_object(where, "--custom", ModelError)
    return ModelFile(options.pop("model"), options.pop("weights"), custom, size)


def read_data(options: dict[str, Any]) -> Data:
    """Take the options of `data_options`.

    Raises:
        DataError: the labels cannot be read, or the preprocessing does not exist.
    """
    from edgeprune.data import Data, parse_preprocess

    return Data(
        options.pop("data"),
        parse_preprocess(options.pop("preprocess")),
        read_labels(options.pop("labels")),
        options.pop("calibration"),
        options.pop("validation"),
        options.pop("test", 1),
        options.pop("memory"),
        options.pop("task"),
    )


def read_pruning(options: dict[str, Any]) -> tuple[Pruning, Training | None]:
    """Take the options of `pruning_options`."""
    from edgeprune.distillation import Training
    from edgeprune.pruning.pruning_settings import Pruning

    names = ("method", "criterion", "allocation", "recovery", "step", "seed")
    pruning = Pruning(
        recalibration=options.pop("recalibrate"),
        search_seconds=options.pop("time_limit"),
        **{name: options.pop(name) for name in names},
    )
    effort, length = options.pop("effort"), options.pop("fine_tune")
    return pruning, Training.choose(effort if length is None else length)


def read_quantization(options: dict[str, Any]) -> Quantization:
    """Take what says how integers are chosen.

    Raises:
        ConversionError: a value cannot be.
    """
    from edgeprune.tflite import Fallback, Quantization
    from edgeprune.tflite.qat import QuantizedTraining

    limit = options.pop("fallback")
    return Quantization(
        options.pop("ranges"),
        None if limit is None else Fallback.parse(limit),
        QuantizedTraining(epochs=options.pop("qat_epochs"), minutes=options.pop("qat_minutes")),
    )


def read_export(options: dict[str, Any]) -> Export:
    """Take `--quantize` and the options of `quantization_options`."""
    from edgeprune.tflite.export_settings import Export

    scheme, io, input = (options.pop(name) for name in ("quantize", "io", "input"))
    return Export(scheme, io, input, read_quantization(options))


def read_measurement(options: dict[str, Any]) -> Measurement:
    """Take the options of `build` that say how it measures."""
    from edgeprune.benchmarking import Measurement

    return Measurement(
        latency=not options.pop("no_bench"),
        until_met=options.pop("measure"),
        host=options.pop("host"),
        threads=options.pop("threads"),
    )


def read_labels(path: str | None) -> list[str] | None:
    """Read class names from a file, one per line.

    Raises:
        DataError: the file cannot be read or is empty.
    """
    if path is None:
        return None
    check_regular(path, DataError, MOST_LABEL_BYTES)
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
