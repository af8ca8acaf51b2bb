"""`edgeprune prune`: from a model file to a slim `.keras` file and its plan."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgeprune.building import Amounts
from edgeprune.building.checks import check_output
from edgeprune.building.request import Request, prepare, prune_prepared
from edgeprune.building.training_stage import describe_tuning, tune_prepared
from edgeprune.cli.options import read_labels
from edgeprune.cost.budgets import Budgets
from edgeprune.data import parse_preprocess
from edgeprune.latency import Deployment
from edgeprune.support.files import replace_on_success
from edgeprune.support.progress import Progress
from edgeprune.support.stopwatch import Stopwatch


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
    check_output(out, suffix=".keras")
    request = Request(
        model,
        options["data"],
        weights=options["weights"],
        classes=options["classes"],
        labels=read_labels(options["labels"]),
        preprocess=parse_preprocess(options["preprocess"]),
        budget=Budgets.parse(options["budget"]),
        method=options["method"],
        criterion=options["criterion"],
        allocation=options["allocation"],
        recovery=options["recovery"],
        recalibration=options["recalibrate"],
        step=options["step"],
        time_limit=options["time_limit"],
        amounts=Amounts(options["calibration"], options["validation"], test=1),
        seed=options["seed"],
        deployment=Deployment(),
        fine_tuning=options["fine_tuning"],
        gathers=options["gathers"],
    )
    original, material = prepare(request, Stopwatch(), progress)
    pruned = prune_prepared(request, original, material, progress)
    pruned, tuned = tune_prepared(request, original, pruned, material, out, progress)
    plan = Path(out).with_suffix(".plan.json")
    with replace_on_success(out) as temporary:  # which is moved last: no model without its plan
        pruned.model.save(temporary)
        pruned.plan.save(plan)
    return {
        "model": out,
        "plan": str(plan),
        "classes": list(material.names),
        "macs": {"before": pruned.before.macs, "after": pruned.after.macs},
        "params": {"before": pruned.before.params, "after": pruned.after.params},
        "method": pruned.chosen.method,
        "recovery": pruned.chosen.name,
        "validation_accuracy": pruned.chosen.grade.accuracy,
        **({} if tuned is None else {"fine_tuning": describe_tuning(tuned)}),
        "equivalence": {
            "max_abs_error": pruned.equivalence.max_abs_error,
            "scale": pruned.equivalence.scale,
        },
    }
