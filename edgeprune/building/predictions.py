"""What a build says about its board: predicted figures, and budgets that ask for little."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeprune.budgets import OWN_UNITS, Budgets
from edgeprune.prediction import Deployment, read_operators

if TYPE_CHECKING:
    from edgeprune.pruning import Pruned


def predict_costs(
    deployment: Deployment, before: Path, after: Path
) -> tuple[Mapping[str, Any], ...]:
    """Return latency and energy of two `.tflite` files on the target, with the error to expect.

    Args:
        deployment: with the target's predictor; without one nothing is predicted.
        before: file of the original.
        after: file of the new model.
    """
    predictor = deployment.predictor
    if predictor is None or predictor.kind == "assumed":
        return ()
    files = [read_operators(path) for path in (before, after)]
    rows = []
    for quantity, predict in (("latency", predictor.latency), ("energy", predictor.energy)):
        pair = [predict(operators) for operators in files]
        if pair[0] is not None and pair[1] is not None:
            rows.append(
                {
                    "quantity": quantity,
                    "unit": pair[1].unit,
                    "before": pair[0].value,
                    "after": pair[1].value,
                    "target": pair[1].target,
                    "error": pair[1].error,
                }
            )
    return tuple(rows)


def warn_loose_budgets(budgets: Budgets, pruned: Pruned, deployment: Deployment) -> list[str]:
    """Say so when an absolute budget asks for nothing, which is what a wrong unit looks like.

    Likewise when the work of a layer is not known.

    Args:
        budgets: that were asked for.
        pruned: with the groups of the original.
        deployment: that the budgets are about.
    """
    from edgeprune.cost import CostModel

    costs = CostModel(pruned.groups, deployment)
    found = [costs.caveat] if costs.caveat else []
    for budget in budgets:
        cost = costs.spend(budget.quantity, {})
        if budget.relative or budget.amount < cost:
            continue
        unit = OWN_UNITS.get(budget.quantity, "")
        written = f"{cost:,.0f}" if cost >= 100 else f"{cost:.3g}"
        found.append(
            f"The budget {budget} is not below what the original costs, "
            f"{budget.quantity}={written}{unit}: for it no channel had to go."
        )
    return found
