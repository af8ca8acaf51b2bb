"""The commands, each a thin layer over one public function."""

from __future__ import annotations

import json
import os
import shlex
import sys
from typing import Any

import click

from edgeprune.cli.options import (
    data_options,
    model_options,
    output_options,
    pruning_options,
    read_labels,
)
from edgeprune.progress import SILENT, Progress


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="edgeprune")
def edgeprune() -> None:
    """Make a trained Keras CNN small enough for a board: fewer classes, fewer channels, int8.

    \b
    edgeprune build model.keras --data photos/ --classes cat,dog,fox --target rpi4
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")


@edgeprune.command()
@model_options
@data_options
@pruning_options
@click.option("--target", default="x86-64", show_default=True, help="Board; see `targets`.")
@click.option("--quantize", metavar="FORMAT", help="float32, float16, dynamic or int8.")
@click.option(
    "--io", default="float32", show_default=True, help="In and out of int8: float32, int8, uint8."
)
@click.option("--out", default="edgeprune-output", show_default=True, help="Folder for the files.")
@click.option(
    "--validation",
    type=click.IntRange(min=1),
    default=200,
    show_default=True,
    metavar="N",
    help="Validation samples per class.",
)
@click.option(
    "--test",
    type=click.IntRange(min=1),
    default=3000,
    show_default=True,
    metavar="N",
    help="Test samples of the kept classes, in all.",
)
@click.option("--threads", type=click.IntRange(min=1), metavar="N", help="Of the measurement.")
@click.option("--no-bench", is_flag=True, help="Do not measure latency.")
@output_options
def build(model: str, as_json: bool, quiet: bool, **options: Any) -> None:
    """Make a specialist of MODEL: prune, prove, recover, quantize, verify, measure."""
    with _tensorflow_silenced():
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
            amounts=amounts,
            command=shlex.join(["edgeprune", *sys.argv[1:]]),
            progress=_progress(quiet),
            **options,
        )
    _show_outcome(built.outcome, built.folder, as_json, quiet)


@edgeprune.command()
@model_options
@output_options
def inspect(model: str, weights: str | None, as_json: bool, quiet: bool) -> None:
    """Show the groups of MODEL: what can be removed together, and what cannot, and why."""
    with _tensorflow_silenced():
        from edgeprune.cost import CostModel
        from edgeprune.groups import find_groups
        from edgeprune.loading import load_model
        from edgeprune.report.inspection import describe_groups, list_groups

        groups = find_groups(load_model(model, weights=weights))
        costs = CostModel(groups)
    if as_json:
        click.echo(json.dumps(list_groups(groups, costs), indent=1))
    elif not quiet:
        _print(describe_groups(groups, costs))


@edgeprune.command()
@model_options
@data_options
@pruning_options
@click.option("--out", default="slim.keras", show_default=True, help="File for the slim model.")
@output_options
def prune(model: str, out: str, as_json: bool, quiet: bool, **options: Any) -> None:
    """Prune MODEL and recover it, without quantization: a .keras file and its plan."""
    with _tensorflow_silenced():
        from edgeprune.cli.pruning import prune_file

        result = prune_file(model, out, _progress(quiet), **options)
    if as_json:
        click.echo(json.dumps(result, indent=1))
    elif not quiet:
        for key, value in result.items():
            click.echo(f"{key:<22}{value}")


@edgeprune.command()
@model_options
@click.option("--quantize", default="int8", show_default=True, help="Number format.")
@click.option("--io", default="float32", show_default=True, help="In and out of int8.")
@click.option("--data", help="Samples for the ranges of int8; as for `build`.")
@click.option("--preprocess", default="raw", show_default=True, help="As for `build`.")
@click.option("--labels", metavar="FILE", help="Class names to put into the file, one per line.")
@click.option("--samples", type=click.IntRange(min=1), default=200, show_default=True, metavar="N")
@click.option("--out", default="model.tflite", show_default=True, help="File to write.")
@output_options
def convert(model: str, out: str, as_json: bool, quiet: bool, **options: Any) -> None:
    """Convert MODEL to .tflite as it is, without pruning."""
    with _tensorflow_silenced():
        from edgeprune.cli.conversion import convert_file

        result = convert_file(model, out, _progress(quiet), **options)
    if as_json:
        click.echo(json.dumps(result, indent=1))
    elif not quiet:
        click.echo(f"{out}: {result['size_bytes']:,} bytes, {result['quantize']}")


@edgeprune.command()
@click.argument("models", nargs=-1, required=True)
@click.option("--target", help="Board the models are for: gives the number of threads.")
@click.option("--threads", type=click.IntRange(min=1), metavar="N")
@click.option("--runs", type=click.IntRange(min=1), default=1000, show_default=True)
@click.option("--seconds", type=float, default=5.0, show_default=True, help="Per model, at most.")
@output_options
def bench(models: tuple[str, ...], as_json: bool, quiet: bool, **options: Any) -> None:
    """Measure .tflite MODELS side by side on this machine, interleaved in one clean process."""
    from edgeprune.benchmarking import bench as run

    result = run(list(models), progress=_progress(quiet), **options)
    if as_json:
        click.echo(json.dumps(result.to_dict(), indent=1))
    elif not quiet:
        from edgeprune.report.tables import describe_measurements

        _print(describe_measurements(result))


@edgeprune.command()
@click.option("--out", default="edgeprune-demo", show_default=True, help="Folder for the files.")
@click.option("--seed", type=int, default=0, show_default=True)
@output_options
def demo(out: str, seed: int, as_json: bool, quiet: bool) -> None:
    """Train a small network on handwritten digits, then make a specialist for 3, 5 and 8 of it."""
    with _tensorflow_silenced():
        from edgeprune.cli.demonstration import build_demonstration

        built = build_demonstration(out, seed, _progress(quiet))
    _show_outcome(built.outcome, built.folder, as_json, quiet)


@edgeprune.command()
@output_options
def methods(as_json: bool, quiet: bool) -> None:
    """List criteria and recoveries, with what they do and where they come from."""
    with _tensorflow_silenced():
        from edgeprune.report.methods import describe_methods, list_methods

        found = list_methods()
    if as_json:
        click.echo(json.dumps(found, indent=1))
    elif not quiet:
        _print(describe_methods(found))


@edgeprune.command()
@output_options
def targets(as_json: bool, quiet: bool) -> None:
    """List the boards that a model can be built for."""
    from edgeprune.benchmarking import list_targets
    from edgeprune.report.tables import describe_targets

    found = list_targets()
    if as_json:
        from dataclasses import asdict

        click.echo(json.dumps([asdict(target) for target in found], indent=1))
    elif not quiet:
        _print(describe_targets(found))


def _progress(quiet: bool) -> Progress:
    if quiet:
        return SILENT
    from edgeprune.cli.terminal import TerminalProgress

    return TerminalProgress()


def _tensorflow_silenced() -> Any:
    """Keep what TensorFlow writes while it is imported and used off the terminal."""
    from edgeprune.noise import captured_stderr

    return captured_stderr()


def _print(renderable: Any) -> None:
    from rich.console import Console

    Console().print(renderable)


def _show_outcome(outcome: Any, folder: Any, as_json: bool, quiet: bool) -> None:
    for warning in outcome.warnings:
        click.echo(f"Warning: {warning}", err=True)
    if as_json:
        click.echo(outcome.to_json())
    elif not quiet:
        from edgeprune.report import describe_outcome

        _print(describe_outcome(outcome))
        click.echo(f"\nFiles in {folder}: {', '.join(outcome.files)}")
