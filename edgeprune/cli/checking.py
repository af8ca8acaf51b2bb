"""`edgeprune check`: whether a model suits a board, before anything is built."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from edgeprune.cli.options import model_options, output_options
from edgeprune.cli.terminal import show, working

DOES_NOT_FIT = 1


@click.command(
    short_help="Say what keeps a model off a board, and what to change.",
    epilog="\b\nExamples:\n"
    "  edgeprune check model.keras --target coral-usb\n"
    "  edgeprune check model.tflite --target coral-usb --json",
)
@model_options
@click.option("--target", metavar="NAME", required=True, help="Board; see `edgeprune targets`.")
@output_options
def check(model: str, weights: str | None, target: str, as_json: bool, quiet: bool) -> None:
    """Say which operators, shapes and types keep MODEL off a board, and what to change.

    MODEL is a .tflite, or whatever `build` takes: that is converted quickly, with made-up ranges,
    and its real operators are looked at. Nothing is written. Exit code: 0 it fits, 1 it does not,
    2 it cannot be checked.
    """
    with working(quiet) as progress:
        from edgeprune.boards import find_target
        from edgeprune.tflite.compatibility import check_file, check_model

        board = find_target(target)
        if Path(model).suffix == ".tflite":
            if weights is not None:
                raise click.UsageError("--weights is for models of Keras, not for a .tflite.")
            found = check_file(model, board)
        else:
            from edgeprune.building.request import open_model

            loaded = open_model(model, weights, progress)
            with progress.stage("converting, looking at operators"):
                found = check_model(loaded, board, name=model)
    from edgeprune.report.compatibility_report import describe_suitability

    show(found.to_dict, lambda: describe_suitability(found), as_json, quiet)
    if not found.fits:
        sys.exit(DOES_NOT_FIT)
