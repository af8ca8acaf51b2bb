"""`edgeprune sensitivity`: what accuracy each group costs at each width, as JSON and a plot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from edgeprune.cli.options import (
    COUNT,
    SEED,
    classes_option,
    data_option,
    labels_option,
    model_options,
    output_options,
    preprocess_option,
    read_labels,
)
from edgeprune.cli.terminal import show, working
from edgeprune.support.progress import Progress


@click.command(
    short_help="Measure what each group of channels is worth.",
    epilog="\b\nExample:\n"
    "  edgeprune sensitivity model.keras --data photos/ --out curves.json --plot curves.png",
)
@model_options
@data_option
@preprocess_option
@classes_option
@labels_option
@click.option(
    "--out", metavar="FILE", default="sensitivity.json", help="Written after every group; resumed."
)
@click.option(
    "--plot",
    metavar="FILE",
    default=None,
    show_default="no plot",
    help="A .png, .svg or .pdf with the curves.",
)
@click.option(
    "--criterion",
    metavar="NAME",
    default=None,
    show_default="that of auto",
    help="How channels are ranked.",
)
@click.option("--step", type=COUNT, default=8, help="Widths are multiples of N.")
@click.option(
    "--calibration", type=COUNT, default=100, help="Samples per class for the statistics."
)
@click.option("--validation", type=COUNT, default=200, help="Samples per class that are graded.")
@click.option("--seed", type=SEED, default=0, help="Of everything that is drawn.")
@output_options
def sensitivity(model: str, as_json: bool, quiet: bool, **options: Any) -> None:
    """Narrow one group of MODEL at a time, the others whole, and measure the accuracy.

    Removed channels are folded into the others first. An interrupted measurement goes on where it
    stopped when the same file is given.
    """
    with working(quiet) as progress:
        result = measure_file(model, progress, **options)
    from edgeprune.report.tables import describe_values

    show(lambda: result, lambda: describe_values(result), as_json, quiet)


def measure_file(model: str, progress: Progress, **options: Any) -> dict[str, Any]:
    """Measure the sensitivity of a model file and write it.

    Args:
        model: path of the model.
        progress: told about stages.
        options: as parsed from the command line.

    Returns:
        What the command prints.

    Raises:
        EdgepruneError: one of its kinds.
    """
    from edgeprune.building import Amounts
    from edgeprune.building.material import read_material
    from edgeprune.building.request import open_model
    from edgeprune.data import parse_preprocess
    from edgeprune.errors import EdgepruneError
    from edgeprune.pruning.curves import measure_curves

    plot = options["plot"]
    if plot is not None and Path(plot).suffix not in {".png", ".svg", ".pdf"}:
        raise EdgepruneError(f"Cannot draw '{plot}'. Expected a name in .png, .svg or .pdf.")
    original = open_model(model, options["weights"], progress)
    material = read_material(
        original,
        options["data"],
        classes=options["classes"],
        labels=read_labels(options["labels"]),
        preprocess=parse_preprocess(options["preprocess"]),
        amounts=Amounts(options["calibration"], options["validation"], test=1),
        seed=options["seed"],
    )
    found = measure_curves(
        original,
        material.calibration,
        classes=material.classes,
        validation=material.validation,
        criterion=options["criterion"],
        step=options["step"],
        cache=options["out"],
        seed=options["seed"],
        progress=progress,
    )
    if plot is not None:
        found.plot(plot)
    return {
        "file": options["out"],
        "plot": plot,
        "full": found.full,
        **{name: {str(w): grade for w, grade in sorted(grades.items())}
           for name, grades in found.grades.items()},
    }  # fmt: skip
