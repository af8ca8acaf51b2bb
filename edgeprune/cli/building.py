"""`edgeprune build`, `prune`, `sensitivity` and `demo`: from a model file to a smaller model."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from edgeprune.cli.options import (
    COUNT,
    FORMATS,
    SEED,
    TARGETS_OWN,
    HeadedCommand,
    accuracy_option,
    budget_option,
    classes_option,
    data_options,
    format_option,
    keeping_option,
    list_inputs,
    measuring_option,
    model_options,
    output_option,
    output_options,
    pruning_options,
    quantization_options,
    read_data,
    read_export,
    read_measurement,
    read_model,
    read_pruning,
)
from edgeprune.cli.terminal import show_built, show_values, warn, working

EXAMPLE = "edgeprune build model.keras --data photos/ --classes cat,dog,fox --target rpi4"


@click.command(
    cls=HeadedCommand,
    short_help="Prune, prove, recover, quantize, verify and measure.",
    epilog="\b\nExamples:\n"
    f"  {EXAMPLE}\n"
    "  edgeprune build net.h5 --data cifar10 --preprocess unit --budget params=40k --out small/",
)
@model_options
@data_options(test=True)
@classes_option
@keeping_option(
    "--target", metavar="NAME", default="x86-64", help="Board; see `edgeprune targets`."
)
@budget_option(default=["macs=50%"])
@pruning_options(show_default="4; the target's where milliseconds count")
@format_option("--quantize", metavar="FORMAT", show_default=TARGETS_OWN, help=FORMATS)
@quantization_options
@measuring_option("--no-bench", is_flag=True, help="Do not measure latency.")
@measuring_option(
    "--measure",
    is_flag=True,
    help="Prune again until the latency that is measured meets the budget for it.",
)
@measuring_option("--threads", type=COUNT, show_default=TARGETS_OWN, help="Threads of the runtime.")
@measuring_option(
    "--host", metavar="USER@HOST", show_default="this machine", help="Where to measure, by SSH."
)
@output_option("--out", metavar="FOLDER", default="edgeprune-output", help="For the files.")
@output_options
@click.pass_obj
def build(arguments: Sequence[str] | None, /, as_json: bool, quiet: bool, **options: Any) -> None:
    """Make a smaller, quantized, proven .tflite of MODEL that knows the classes you need.

    MODEL is a .keras or .h5 file, an architecture in JSON (with --weights) or a SavedModel folder.
    The folder given by --out receives model.tflite, model.keras, labels.txt, plan.json, report.json
    and measurement.json.
    """
    with working(quiet):
        from edgeprune.building import COMMAND
        from edgeprune.building import build as run
        from edgeprune.support.files import check_output

        check_output(options["out"], inputs=list_inputs(options))
        COMMAND.set(shlex.join(["edgeprune", *(arguments or ["build"])]))
        pruning, training = read_pruning(options)
        built = run(
            read_model(options),
            read_data(options),
            pruning=pruning,
            training=training,
            export=read_export(options),
            measurement=read_measurement(options),
            **options,
        )
    show_built(built, as_json, quiet)


@click.command(
    cls=HeadedCommand,
    short_help="Prune and recover only: from Keras to Keras.",
    epilog="\b\nExample:\n"
    "  edgeprune prune model.keras --data photos/ --budget macs=30% --out small.keras",
)
@model_options
@data_options()
@classes_option
@budget_option(default=["macs=50%"])
@pruning_options(show_default="4; 8 where milliseconds count")
@output_option("--out", metavar="FILE", default="slim.keras", help="For the pruned model.")
@output_options
def prune(out: str, as_json: bool, quiet: bool, **options: Any) -> None:
    """Prune MODEL and recover it, without conversion: a .keras file, and its plan beside it."""
    with working(quiet):
        result = _prune_file(out, options)
    show_values(result, as_json, quiet)


def _prune_file(out: str, options: dict[str, Any]) -> dict[str, Any]:
    """Prune a model file, write the result and return what is printed."""
    from edgeprune.building.production import describe_training, train_pruned, warn_untrained
    from edgeprune.building.splits import read_splits
    from edgeprune.cost.budgets import Budgets
    from edgeprune.data.datasets import check_source
    from edgeprune.support.files import check_output, remove_dates, replace_on_success

    plan = Path(out).with_suffix(".plan.json")
    for path, suffix in ((out, ".keras"), (plan, ".json")):
        check_output(path, suffix=suffix, inputs=list_inputs(options))
    data, (pruning, training), file = read_data(options), read_pruning(options), read_model(options)
    budgets = Budgets.parse(options["budget"])
    check_source(data.source)
    original = open_model(file)
    pruning.find_method()
    splits = read_splits(original, data, options["classes"], pruning.seed)
    from edgeprune.pruning.one_shot import prune as run

    pruned = run(
        original,
        splits.calibration,
        budget=budgets,
        classes=splits.classes,
        validation=splits.validation,
        pruning=pruning,
        training=None,
        task=splits.kind.task,
    )
    pruned = train_pruned(original, pruned, splits, training, out, pruning.seed)
    with replace_on_success(out) as temporary:
        pruned.model.save(temporary)
        remove_dates(temporary)
        pruned.plan.save(temporary.with_suffix(".plan.json"))
    for warning in (*splits.notes, *warn_untrained(training, splits, pruning.seed)):
        warn(warning)
    trained = describe_training(pruned.training, splits.dataset.labelled)
    return {
        "model": out,
        "plan": str(plan),
        "task": splits.kind.describe(),
        **({"classes": list(splits.names)} if splits.names else {}),
        "macs": {"before": pruned.before.macs, "after": pruned.after.macs},
        "params": {"before": pruned.before.params, "after": pruned.after.params},
        "method": pruning.method,
        "recovery": pruned.chosen.name,
        **pruned.chosen.score.describe(splits.dataset.labelled),
        **({} if trained is None else {"training": trained}),
        "equivalence": {
            "max_abs_error": pruned.equivalence.max_abs_error,
            "scale": pruned.equivalence.scale,
        },
    }


def open_model(file: Any) -> Any:
    """Load a model as a stage of its own: TensorFlow takes seconds to start.

    Raises:
        ModelError: it cannot be opened.
    """
    from edgeprune.support.progress import stage

    with stage("starting TensorFlow, loading model"):
        from edgeprune.loading import load_model

        return load_model(file)


@click.command(
    cls=HeadedCommand,
    short_help="Measure what each group of channels is worth.",
    epilog="\b\nExample:\n"
    "  edgeprune sensitivity model.keras --data photos/ --out curves.json --plot curves.png",
)
@model_options
@data_options()
@classes_option
@accuracy_option(
    "--criterion", metavar="NAME", show_default="that of auto", help="How channels are ranked."
)
@accuracy_option("--step", type=COUNT, default=8, help="Widths are multiples of N.")
@accuracy_option("--seed", type=SEED, default=0, help="Of everything that is drawn.")
@output_option(
    "--out", metavar="FILE", default="sensitivity.json", help="Written after every group; resumed."
)
@output_option(
    "--plot", metavar="FILE", show_default="no plot", help="A .png, .svg or .pdf with the curves."
)
@output_options
def sensitivity(as_json: bool, quiet: bool, **options: Any) -> None:
    """Narrow one group of MODEL at a time, the others whole, and measure the accuracy.

    Removed channels are folded into the others first. An interrupted measurement goes on where it
    stopped when the same file is given.
    """
    with working(quiet):
        result = _measure_sensitivity(options)
    show_values(result, as_json, quiet)


def _measure_sensitivity(options: dict[str, Any]) -> dict[str, Any]:
    """Measure the sensitivity of a model file, write it and return what is printed."""
    from edgeprune.building.splits import read_splits
    from edgeprune.errors import EdgepruneError
    from edgeprune.pruning.pruning_settings import Pruning
    from edgeprune.support.files import check_output

    out, plot = options["out"], options["plot"]
    check_output(out, suffix=Path(out).suffix, inputs=list_inputs(options))
    if plot is not None and Path(plot).suffix not in {".png", ".svg", ".pdf"}:
        raise EdgepruneError(f"Cannot draw '{plot}'. Expected a name in .png, .svg or .pdf.")
    data = read_data(options)
    pruning = Pruning(criterion=options["criterion"], step=options["step"], seed=options["seed"])
    original = open_model(read_model(options))
    splits = read_splits(original, data, options["classes"], pruning.seed)
    for note in splits.notes:
        warn(note)
    from edgeprune.pruning.curves import measure_curves

    found = measure_curves(
        original,
        splits.calibration,
        classes=splits.classes,
        validation=splits.validation,
        pruning=pruning,
        cache=out,
        task=splits.kind.task,
    )
    if plot is not None:
        found.plot(plot)
    scores = {
        name: {str(width): score for width, score in sorted(by_width.items())}
        for name, by_width in found.scores.items()
    }
    return {"file": out, "plot": plot, "full": found.full, **scores}


@click.command(
    cls=HeadedCommand,
    short_help="See it work, without a model or data of your own.",
    epilog="\b\nExample:\n  edgeprune demo",
)
@accuracy_option("--seed", type=SEED, default=0, help="Of everything that is drawn.")
@output_option("--out", metavar="FOLDER", default="edgeprune-demo", help="For the files.")
@output_options
@click.pass_obj
def demo(
    arguments: Sequence[str] | None, /, out: str, seed: int, as_json: bool, quiet: bool
) -> None:
    """Train a small network on handwritten digits, then make a specialist for 3, 5 and 8 of it."""
    with working(quiet):
        from edgeprune.building import COMMAND
        from edgeprune.cli.demonstration import build_demonstration

        COMMAND.set(shlex.join(["edgeprune", *(arguments or ["demo"])]))
        built = build_demonstration(out, seed)
    show_built(built, as_json, quiet)
