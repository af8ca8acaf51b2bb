"""The commands, each a thin layer over one public function."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from typing import Any

import click

from edgeprune.cli.benchmarking import bench
from edgeprune.cli.calibration import calibrate
from edgeprune.cli.checking import check
from edgeprune.cli.options import (
    COUNT,
    SEED,
    TARGETS_OWN,
    InOrder,
    budget_option,
    classes_option,
    data_option,
    input_option,
    labels_option,
    model_options,
    output_options,
    preprocess_option,
    read_labels,
    tuning_options,
)
from edgeprune.cli.quantization_options import FORMATS, quantization_options, read_quantization
from edgeprune.cli.sensitivity_command import sensitivity
from edgeprune.cli.terminal import show, show_built, working
from edgeprune.cli.training_options import fine_tune_option

EXAMPLE = "edgeprune build model.keras --data photos/ --classes cat,dog,fox --target rpi4"


@click.group(
    cls=InOrder,
    invoke_without_command=True,
    context_settings={
        "help_option_names": ["-h", "--help"],
        "max_content_width": 100,
        "show_default": True,
    },
    epilog=f"\b\nExamples:\n  edgeprune demo\n  {EXAMPLE}",
)
@click.version_option(None, "--version", "-V", package_name="edgeprune")
@click.pass_context
def edgeprune(context: click.Context) -> None:
    """Make a trained Keras CNN small enough for a board: fewer classes, fewer channels, int8."""
    if context.invoked_subcommand is None:
        raise click.UsageError(f"No command was given, such as: {EXAMPLE}  See edgeprune --help.")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


@edgeprune.command(
    short_help="Prune, prove, recover, quantize, verify and measure.",
    epilog="\b\nExamples:\n"
    f"  {EXAMPLE}\n"
    "  edgeprune build net.h5 --data cifar10 --preprocess unit --budget params=40k --out small/",
)
@model_options
@data_option
@preprocess_option
@classes_option
@click.option("--target", metavar="NAME", default="x86-64", help="Board; see `edgeprune targets`.")
@budget_option(show_default=TARGETS_OWN)
@click.option(
    "--quantize",
    metavar="FORMAT",
    show_default=TARGETS_OWN,
    help=FORMATS,
)
@click.option(
    "--io",
    metavar="TYPE",
    default="float32",
    help="What goes in and out of an int8 model: float32, int8 or uint8.",
)
@input_option
@quantization_options
@click.option("--out", metavar="FOLDER", default="edgeprune-output", help="For the files.")
@labels_option
@tuning_options(
    method={"default": None, "show_default": TARGETS_OWN}, step={"show_default": TARGETS_OWN}
)
@fine_tune_option
@click.option(
    "--test", type=COUNT, default=3000, help="Test samples of the kept classes, all together."
)
@click.option("--threads", type=COUNT, show_default=TARGETS_OWN, help="Threads of the measurement.")
@click.option("--no-bench", is_flag=True, help="Do not measure latency.")
@click.option(
    "--measure",
    is_flag=True,
    help="Prune again until the latency that is measured meets the budget for it.",
)
@click.option(
    "--host", metavar="USER@HOST", show_default="this machine", help="Where to measure, by SSH."
)
@output_options
@click.pass_obj
def build(
    arguments: Sequence[str] | None, /, model: str, as_json: bool, quiet: bool, **options: Any
) -> None:
    """Make a smaller, quantized, proven .tflite of MODEL that knows the classes you need.

    MODEL is a .keras or .h5 file, an architecture in JSON (with --weights) or a SavedModel folder.
    The folder given by --out receives model.tflite, model.keras, labels.txt, plan.json, report.json
    and measurement.json.
    """
    with working(quiet) as progress:
        from edgeprune.building import Amounts
        from edgeprune.building import build as run

        amounts = Amounts(
            options.pop("calibration"), options.pop("validation"), options.pop("test")
        )
        built = run(
            model,
            options.pop("data"),
            labels=read_labels(options.pop("labels")),
            recalibration=options.pop("recalibrate"),
            measure=not options.pop("no_bench"),
            meet_measured=options.pop("measure"),
            amounts=amounts,
            quantization=read_quantization(options),
            command=_command(arguments, "build"),
            progress=progress,
            **options,
        )
    show_built(built, as_json, quiet)


@edgeprune.command(
    short_help="Show which channels can be removed, and which cannot.",
    epilog="\b\nExamples:\n"
    "  edgeprune inspect model.keras\n"
    "  edgeprune inspect model.keras --picture model.svg",
)
@model_options
@click.option(
    "--picture",
    metavar="FILE",
    show_default="no picture",
    help="Draw the model, groups in colour: .svg, .png or .pdf (by Graphviz), or .dot.",
)
@output_options
def inspect(
    model: str, weights: str | None, picture: str | None, as_json: bool, quiet: bool
) -> None:
    """Show the groups of MODEL: channels that go or stay together, what they cost, and for those
    that must stay the reason.
    """  # noqa: D205
    with working(quiet) as progress:
        from edgeprune.cli.inspection import inspect_file
        from edgeprune.report.group_tables import describe_groups, list_groups

        groups, costs = inspect_file(model, weights, picture, progress)
    show(lambda: list_groups(groups, costs), lambda: describe_groups(groups, costs), as_json, quiet)


@edgeprune.command(
    short_help="Prune and recover only: from Keras to Keras.",
    epilog="\b\nExample:\n"
    "  edgeprune prune model.keras --data photos/ --budget macs=30% --out small.keras",
)
@model_options
@data_option
@preprocess_option
@classes_option
@budget_option(default=["macs=50%"])
@click.option("--out", metavar="FILE", default="slim.keras", help="For the slim model.")
@labels_option
@tuning_options(method={"default": "auto"}, step={"default": 8})
@fine_tune_option
@output_options
def prune(model: str, out: str, as_json: bool, quiet: bool, **options: Any) -> None:
    """Prune MODEL and recover it, without conversion: a .keras file, and its plan beside it."""
    with working(quiet) as progress:
        from edgeprune.cli.pruning_command import prune_file

        result = prune_file(model, out, progress, **options)
    from edgeprune.report.tables import describe_values

    show(lambda: result, lambda: describe_values(result), as_json, quiet)


edgeprune.add_command(check)
edgeprune.add_command(sensitivity)


@edgeprune.command(
    short_help="Convert to .tflite without pruning.",
    epilog="\b\nExamples:\n"
    "  edgeprune convert model.keras --data photos/ --labels labels.txt\n"
    "  edgeprune convert model.keras --quantize dynamic",
)
@model_options
@click.option("--quantize", metavar="FORMAT", default="int8", help=FORMATS)
@click.option(
    "--io",
    metavar="TYPE",
    default="float32",
    help="What goes in and out of an int8 model: float32, int8 or uint8.",
)
@input_option
@click.option(
    "--data", metavar="SAMPLES", help="For the ranges of int8, needed there; as for `build`."
)
@preprocess_option
@quantization_options
@click.option("--samples", type=COUNT, default=200, help="How many samples serve for the ranges.")
@click.option(
    "--labels", metavar="FILE", help="Class names to put into the .tflite file, one per line."
)
@click.option("--out", metavar="FILE", default="model.tflite", help="The file to write.")
@output_options
def convert(model: str, out: str, as_json: bool, quiet: bool, **options: Any) -> None:
    """Convert MODEL to .tflite as it is, without pruning."""
    with working(quiet) as progress:
        from edgeprune.cli.conversion import convert_file

        result = convert_file(model, out, progress, **options)
    from edgeprune.report.tables import describe_values

    show(lambda: result, lambda: describe_values(result), as_json, quiet)


edgeprune.add_command(bench)


edgeprune.add_command(calibrate)


@edgeprune.command(
    short_help="See it work, without a model or data of your own.",
    epilog="\b\nExample:\n  edgeprune demo",
)
@click.option("--out", metavar="FOLDER", default="edgeprune-demo", help="For the files.")
@click.option("--seed", type=SEED, default=0, help="Of everything that is drawn.")
@output_options
@click.pass_obj
def demo(
    arguments: Sequence[str] | None, /, out: str, seed: int, as_json: bool, quiet: bool
) -> None:
    """Train a small network on handwritten digits, then make a specialist for 3, 5 and 8 of it."""
    with working(quiet) as progress:
        from edgeprune.cli.demonstration import build_demonstration

        built = build_demonstration(out, seed, _command(arguments, "demo"), progress)
    show_built(built, as_json, quiet)


@edgeprune.command(short_help="List methods, criteria, allocations and recoveries.")
@output_options
def methods(as_json: bool, quiet: bool) -> None:
    """List methods, criteria, allocations and recoveries: what they do, where they come from."""
    from edgeprune.report.method_list import describe_methods, list_methods

    found = list_methods()
    show(lambda: found, lambda: describe_methods(found), as_json, quiet)


@edgeprune.command(short_help="List the boards.")
@output_options
def targets(as_json: bool, quiet: bool) -> None:
    """List the boards that a model can be built for."""
    from dataclasses import asdict

    from edgeprune.boards import list_targets
    from edgeprune.report.tables import describe_targets

    found = list_targets()
    values = [asdict(target) for target in found]
    show(lambda: values, lambda: describe_targets(found), as_json, quiet)


def _command(arguments: Sequence[str] | None, name: str) -> str:
    """Return the command line for the report."""
    return shlex.join(["edgeprune", *(arguments or [name])])
