"""`edgeprune prune`: from a model file to a slim `.keras` file and its plan."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgeprune.building.material import Amounts, check_source, read_material
from edgeprune.cli.options import read_labels
from edgeprune.datasets import parse_preprocess
from edgeprune.errors import EdgepruneError
from edgeprune.files import replace_on_success
from edgeprune.plan import Budget
from edgeprune.progress import Progress


def prune_file(model: str, out: str, progress: Progress, **options: Any) -> dict[str, Any]:
    """Prune a model file and write the result.

    Args:
        model: path of the model.
        out: path of the `.keras` file; the plan lies beside it.
        progress: told about stages.
        options: as parsed from the command line.

    Returns:
        What the command prints.

    Raises:
        EdgepruneError: one of its kinds; nothing is written.
    """
    if Path(out).suffix != ".keras":
        raise EdgepruneError(f"--out must end in .keras. Got '{out}'.")
    budget = Budget.parse(options["budget"] or "macs=50%")
    scaling = parse_preprocess(options["preprocess"])
    labels = read_labels(options["labels"])
    check_source(options["data"])
    from edgeprune.loading import load_model
    from edgeprune.pruning import DEFAULT_CRITERION, DEFAULT_STEP, prune

    with progress.stage("loading the model"):
        original = load_model(model, weights=options["weights"])
    with progress.stage("reading the data"):
        material = read_material(
            original,
            options["data"],
            classes=options["classes"],
            labels=labels,
            preprocess=scaling,
            amounts=Amounts(calibration_per_class=options["calibration"], test=1),
            seed=options["seed"],
        )
    pruned = prune(
        original,
        material.calibration,
        budget=budget,
        classes=material.classes,
        validation=material.validation,
        criterion=options["criterion"] or DEFAULT_CRITERION,
        recovery=options["recovery"] or "auto",
        recalibration=options["recalibrate"],
        step=options["step"] or DEFAULT_STEP,
        seed=options["seed"],
        progress=progress,
    )
    plan = Path(out).with_suffix(".plan.json")
    with replace_on_success(out) as temporary:
        pruned.model.save(temporary)
    pruned.plan.save(plan)
    return {
        "model": out,
        "plan": str(plan),
        "classes": ", ".join(material.names),
        "macs": f"{pruned.before.macs:,} -> {pruned.after.macs:,}",
        "params": f"{pruned.before.params:,} -> {pruned.after.params:,}",
        "recovery": pruned.chosen.name,
        "validation accuracy": f"{pruned.chosen.grade.accuracy:.4f}",
        "equivalence error": f"{pruned.equivalence.max_abs_error:.3g}"
        f" at a scale of {pruned.equivalence.scale:.3g}",
    }
