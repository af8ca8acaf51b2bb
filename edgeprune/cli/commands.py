"""The commands, each a thin layer over one public function."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import click

from edgeprune.cli.building import EXAMPLE, build, demo, open_model, prune, sensitivity
from edgeprune.cli.measuring import bench, calibrate
from edgeprune.cli.options import (
    COUNT,
    FORMATS,
    HeadedCommand,
    InOrder,
    data_option,
    format_option,
    keeping_option,
    list_inputs,
    model_options,
    output_option,
    output_options,
    place_option,
    preprocess_option,
    quantization_options,
    read_labels,
    read_model,
    read_quantization,
)
from edgeprune.cli.terminal import show, show_values, warn, working

DOES_NOT_FIT = 1


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


@click.command(
    cls=HeadedCommand,
    short_help="Show which channels can be removed, and which cannot.",
    epilog="\b\nExamples:\n"
    "  edgeprune inspect model.keras\n"
    "  edgeprune inspect model.keras --picture model.svg",
)
@model_options
@place_option(
    "--target",
    metavar="NAME",
    show_default="no milliseconds",
    help="Board for which milliseconds are predicted, per group: where pruning pays.",
)
@output_option(
    "--picture",
    metavar="FILE",
    show_default="no picture",
    help="Draw the model, groups in colour: .svg, .png or .pdf (by Graphviz), or .dot.",
)
@output_options
def inspect(
    picture: str | None, target: str | None, as_json: bool, quiet: bool, **options: Any
) -> None:
    """Show the groups of MODEL: channels that go or stay together, what they cost, and for those
    that must stay the reason.
    """  # noqa: D205
    with working(quiet):
        from edgeprune.boards import find_target
        from edgeprune.cost.cost_model import CostModel
        from edgeprune.latency import Deployment, deploy
        from edgeprune.report.drawing import check_drawing, draw_groups
        from edgeprune.report.group_tables import describe_groups, list_groups
        from edgeprune.support.progress import stage
        from edgeprune.tracing.groups import find_groups

        if picture is not None:
            check_drawing(picture)
        deployment = Deployment()
        if target is not None:
            board = find_target(target)
            deployment = deploy(board.name, board.prediction, board.scheme)
            deployment.require("latency")
        groups = find_groups(open_model(read_model(options)))
        if picture is not None:
            with stage("picture"):
                draw_groups(groups, picture)
        costs = CostModel(groups, deployment)
    show(lambda: list_groups(groups, costs), lambda: describe_groups(groups, costs), as_json, quiet)


@click.command(
    cls=HeadedCommand,
    short_help="Say what keeps a model off a board, and what to change.",
    epilog="\b\nExamples:\n"
    "  edgeprune check model.keras --target coral-usb\n"
    "  edgeprune check model.tflite --target coral-usb --json",
)
@model_options
@keeping_option("--target", metavar="NAME", required=True, help="Board; see `edgeprune targets`.")
@output_options
def check(target: str, as_json: bool, quiet: bool, **options: Any) -> None:
    """Say which operators, shapes and types keep MODEL off a board, and what to change.

    MODEL is a .tflite, or whatever `build` takes: that is converted quickly, with made-up ranges,
    and its real operators are looked at. Nothing is written. Exit code: 0 it fits, 1 it does not,
    2 it cannot be checked.
    """
    file = read_model(options)
    with working(quiet):
        from edgeprune.boards import find_target
        from edgeprune.support.progress import stage
        from edgeprune.tflite.compatibility import check_file, check_model

        board = find_target(target)
        if Path(file.path).suffix == ".tflite":
            if file.weights is not None or file.custom_objects or file.input_size:
                raise click.UsageError(
                    "--weights, --custom and --input-size are for models of Keras, not a .tflite."
                )
            found = check_file(file.path, board)
        else:
            loaded = open_model(file)
            with stage("converting, looking at operators"):
                found = check_model(loaded, board, name=str(file.path))
    from edgeprune.report.compatibility_report import describe_compatibility

    show(found.to_dict, lambda: describe_compatibility(found), as_json, quiet)
    if not found.fits:
        sys.exit(DOES_NOT_FIT)


@click.command(
    cls=HeadedCommand,
    short_help="Convert to .tflite without pruning.",
    epilog="\b\nExamples:\n"
    "  edgeprune convert model.keras --data photos/ --labels labels.txt\n"
    "  edgeprune convert model.keras --quantize dynamic",
)
@model_options
@data_option(
    "--data",
    metavar="SAMPLES",
    help="For the ranges of int8, needed there; as for `build`, but classes may be missing.",
)
@preprocess_option
@data_option("--samples", type=COUNT, default=200, help="How many samples serve for the ranges.")
@data_option(
    "--labels", metavar="FILE", help="Class names to put into the .tflite file, one per line."
)
@format_option("--quantize", metavar="FORMAT", default="int8", help=FORMATS)
@quantization_options
@output_option("--out", metavar="FILE", default="model.tflite", help="The file to write.")
@output_options
def convert(out: str, as_json: bool, quiet: bool, **options: Any) -> None:
    """Convert MODEL to .tflite as it is, without pruning."""
    with working(quiet):
        result, warning = _convert_file(out, options)
    if warning:
        warn(warning)
    show_values(result, as_json, quiet)


def _convert_file(out: str, options: dict[str, Any]) -> tuple[dict[str, Any], str | None]:
    """Convert a model file, write the `.tflite`; return what is printed, and a warning."""
    from edgeprune.data import load_dataset, parse_preprocess, read_samples
    from edgeprune.data.assignment import balance
    from edgeprune.data.datasets import check_source
    from edgeprune.errors import ConversionError
    from edgeprune.support.files import check_output, replace_on_success
    from edgeprune.support.progress import stage
    from edgeprune.tflite import CALIBRATED, convert_in_detail
    from edgeprune.tflite.conversion_checks import check_choices

    scheme, io, source = options["quantize"], options["io"], options["data"]
    check_choices(scheme, io)
    check_output(out, suffix=".tflite", inputs=list_inputs(options))
    scaling = parse_preprocess(options["preprocess"])
    labels = read_labels(options["labels"])
    quantization = read_quantization(options)
    quantization.check(scheme)
    if scheme in CALIBRATED and source is None:
        raise ConversionError(
            f"{scheme} needs samples for the ranges of its integers: give --data, or take "
            "--quantize dynamic, which needs none."
        )
    check_source(source)
    original = open_model(read_model(options))
    calibration = targets = None
    if scheme in CALIBRATED:
        with stage("reading the data"):
            shape = tuple(original.inputs[0].shape[1:])
            dataset = load_dataset(source, input_shape=shape, labelled=False)
            split = dataset.splits.get("train", next(iter(dataset.splits.values())))
            samples = read_samples(dataset, balance(dataset, split, options["samples"]), scaling)
            calibration = samples.inputs
            shapes = [tuple(tensor.shape) for tensor in original.outputs]
            known = dataset.labelled and shapes == [(None, len(dataset.classes))]
            targets = samples.targets if known else None
    with stage(f"converting to {scheme}"):
        made = convert_in_detail(
            original,
            scheme=scheme,
            calibration=calibration,
            labels=labels,
            io=io,
            input=options["input"],
            preprocess=scaling,
            targets=targets,
            quantization=quantization,
        )
    with replace_on_success(out) as temporary:
        Path(temporary).write_bytes(made.content)
    result = {
        "file": out,
        "quantize": scheme,
        "input": options["input"] or io,
        "io": io,
        "size_bytes": len(made.content),
    }
    if made.loss is not None:
        worst = sorted(made.layers, key=lambda layer: -layer.rounding)[:3]
        result |= {
            "loss_on_samples": f"{made.loss:.2%}",
            "ranges": made.ranges,
            "worst_layers": ", ".join(f"{x.layer} ({x.operator}) {x.rounding:.1%}" for x in worst),
            "float_layers": ", ".join(made.float_layers) or "none",
        }
    return result, made.warning


@click.command(
    "compile",
    cls=HeadedCommand,
    short_help="Compile .tflite models for the Edge TPU.",
    epilog="\b\nExamples:\n  edgeprune compile model.tflite --out compiled/\n"
    "  edgeprune compile faces.tflite hands.tflite --compiler me@my-pc --out compiled/",
)
@click.argument("models", nargs=-1, required=True)
@place_option(
    "--compiler",
    metavar="USER@HOST",
    show_default="this machine",
    help="x86-64 Linux machine with edgetpu_compiler, by SSH.",
)
@place_option(
    "--ssh-config", metavar="FILE", show_default="your own", help="Settings for ssh (ssh -F)."
)
@output_option("--out", metavar="FOLDER", default=".", help="Gets NAME_edgetpu.tflite of each.")
@output_options
def compile_(
    models: tuple[str, ...],
    compiler: str | None,
    ssh_config: str | None,
    out: str,
    as_json: bool,
    quiet: bool,
) -> None:
    """Compile int8 .tflite MODELS for the Edge TPU; several together, so that they share its memory
    for parameters. What the compiler leaves to the CPU is named.
    """  # noqa: D205
    with working(quiet):
        from edgeprune.benchmarking.remote_compiler import compile_on
        from edgeprune.errors import ConversionError
        from edgeprune.support.progress import stage
        from edgeprune.tflite.edgetpu import compile_here, compile_together, find_compiler
        from edgeprune.tflite.runtime import check_file

        paths = [Path(model) for model in models]
        for path in paths:
            check_file(path)
        if len({path.stem for path in paths}) < len(paths):
            raise click.UsageError("Two models have the same name: their files would be one.")
        program = compiler or find_compiler()
        if program is None:
            raise ConversionError(
                "edgetpu_compiler is not on the PATH; it runs on x86-64 Linux. Name a machine that "
                "has it: --compiler USER@HOST."
            )
        config = Path(ssh_config) if ssh_config else None
        run = compile_on(compiler, config) if compiler else compile_here(program)
        Path(out).mkdir(parents=True, exist_ok=True)
        with stage("compiling for the Edge TPU"):
            made = compile_together(paths, Path(out), run, program)
        if made[0].failure is not None:
            raise ConversionError(f"edgetpu_compiler failed: {made[0].failure}.")
    from rich.console import Group
    from rich.text import Text

    from edgeprune.report.compatibility_report import describe_compilation
    from edgeprune.support.printable import printable

    found = dict(zip(models, (each.to_dict() for each in made), strict=True))

    def table() -> Group:
        lines = []
        for each in found.values():
            lines += [Text(printable(each["file"])), describe_compilation({"compilation": each})]
        return Group(*lines)

    show(lambda: found, table, as_json, quiet)


@click.command(cls=HeadedCommand, short_help="List methods, criteria, allocations and recoveries.")
@output_options
def methods(as_json: bool, quiet: bool) -> None:
    """List methods, criteria, allocations and recoveries: what they do, where they come from."""
    from edgeprune.report.method_list import describe_methods, list_methods

    found = list_methods()
    show(lambda: found, lambda: describe_methods(found), as_json, quiet)


@click.command(cls=HeadedCommand, short_help="List the boards.")
@output_options
def targets(as_json: bool, quiet: bool) -> None:
    """List the boards that a model can be built for."""
    from dataclasses import asdict

    from edgeprune.boards import list_targets
    from edgeprune.report.tables import describe_targets

    found = list_targets()
    values = [asdict(target) for target in found]
    show(lambda: values, lambda: describe_targets(found), as_json, quiet)


for command in (
    build, inspect, prune, check, sensitivity, convert, compile_, bench, calibrate, demo, methods,
    targets,
):  # fmt: skip
    edgeprune.add_command(command)
