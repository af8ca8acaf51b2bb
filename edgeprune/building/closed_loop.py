"""A latency budget that is met by what is measured, not by what is predicted."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeprune.boards import Target
from edgeprune.building.export_format import Format
from edgeprune.building.latency_rounds import Round, meet_latency
from edgeprune.building.material import Material
from edgeprune.building.places import Place
from edgeprune.building.request import Request, prune_prepared
from edgeprune.cost.budgets import Budget, Budgets
from edgeprune.errors import BudgetError
from edgeprune.latency import Deployment, Kernels, Predictor
from edgeprune.latency.expectations import expect_coefficients
from edgeprune.latency.features import FEATURES, ITEM_BYTES
from edgeprune.support.progress import Progress
from edgeprune.tflite import convert

if TYPE_CHECKING:
    import keras

    from edgeprune.pruning.pruning import Pruned

TRIAL_SECONDS = 1.0
TRIALS = 2
CALIBRATION_SAMPLES = 100
TYPICAL = {"float32": 50.0, "int8": 100.0}
"""Peak in GOP/s of a small CPU: gives shares of operators, the first measurement their scale."""


@dataclass(frozen=True)
class Trial:
    """Converts models and measures them.

    Attributes:
        material: for the ranges of int8.
        form: number format.
        place: where to measure.
        progress: told about stages.
    """

    material: Material
    form: Format
    place: Place
    progress: Progress

    def convert(self, model: keras.Model, path: Path) -> Path:
        """Write a model as it would be delivered and return the path."""
        with self.progress.stage("converting for a measurement"):
            convert(
                model,
                scheme=self.form.scheme,
                calibration=self.material.calibration.inputs[:CALIBRATION_SAMPLES],
                io=self.form.io if self.form.scheme.startswith("int8") else "float32",
                path=path,
            )
        return path

    def measure(self, models: Mapping[str, Path]) -> dict[str, float]:
        """Return the median latencies of named files in ms, taken in turns.

        Others on the machine only ever slow it down: the fastest of several medians counts.
        """
        runs = [self.place.measure(models, TRIAL_SECONDS, self.progress) for _ in range(TRIALS)]
        return {name: min(run[name].p50_ms for run in runs) for name in models}


def make_measurable(budgets: Budgets, deployment: Deployment, board: Target) -> Deployment:
    """Return the deployment with a predictor to start from, where its target has none.

    Args:
        budgets: with one for latency.
        deployment: number format on the target.
        board: the target.

    Raises:
        BudgetError: there is no budget for latency.
    """
    if not any(budget.quantity == "latency" for budget in budgets):
        raise BudgetError(
            f"--measure needs a budget for latency, such as --budget latency=20ms or latency=50%. "
            f"Got {budgets}."
        )
    if deployment.predictor is not None:
        return deployment
    scheme = deployment.scheme if deployment.scheme in ITEM_BYTES else "float32"
    peak = TYPICAL["int8" if ITEM_BYTES[scheme] == 1 else "float32"]
    coefficients = expect_coefficients(peak, bandwidth_mb_s=5000, clock_ghz=2.0)
    # What cannot be pruned would refuse budgets on a guess; the loop finds it by measuring.
    coefficients[list(FEATURES).index("operators")] = 0
    assumed = Predictor(board.name, scheme, coefficients, Kernels(4, 8, 1), 1.0, kind="assumed")
    return replace(deployment, predictor=assumed)


def prune_to_measured(
    request: Request, original: keras.Model, material: Material, trial: Trial, progress: Progress
) -> tuple[Pruned, tuple[Round[Pruned], ...], list[str]]:
    """Prune until the measured latency meets the budget.

    A share in the budget is one of the original's measured latency. The original is then measured
    beside every product, so that a machine that changes its speed between two rounds does not
    look like a product that does. What meets the budget has a rival, with as many MACs and the
    widths that a budget of MACs chooses: where that is as fast, validation decides.

    Args:
        request: with a budget for latency, see `make_measurable`.
        original: the model.
        material: its samples.
        trial: measures.
        progress: told about stages.

    Returns:
        The pruned model, all rounds, and warnings if the budget is missed.

    Raises:
        BudgetError: the budget cannot be met.
    """
    from edgeprune.cost.cost_model import CostModel
    from edgeprune.tracing.groups import find_groups

    wanted = next(budget for budget in request.budget if budget.quantity == "latency")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        before = {"original": trial.convert(original, folder / "original.tflite")}
        measured = trial.measure(before)["original"]
        limit = wanted.limit(measured)
        deployment = request.deployment
        predicted = CostModel(find_groups(original), deployment).spend("latency", {})
        assert deployment.predictor is not None  # see make_measurable
        scaled = deployment.predictor.scaled(measured / predicted)
        budgets = Budgets(
            tuple(
                Budget("latency", limit, relative=False) if budget is wanted else budget
                for budget in request.budget
            )
        )
        request = replace(request, deployment=replace(deployment, predictor=scaled))
        quick = replace(request, fine_tuning=None)  # weights do not change the latency

        def make(asked: Budgets) -> Pruned:
            return prune_prepared(replace(quick, budget=asked), original, material, progress)

        def measure(pruned: Pruned) -> float:
            after = {"product": trial.convert(pruned.model, folder / "product.tflite")}
            if not wanted.relative:
                return trial.measure(after)["product"]
            found = trial.measure(before | after)
            return measured * found["product"] / found["original"]

        best, rounds = meet_latency(make, measure, budgets, limit, progress=progress)
        if best.measured_ms <= limit:
            rival_budgets = _price_in_macs(budgets, best.product.after.macs)
            product = make(rival_budgets)
            rival = Round(rival_budgets, measure(product), product)
            rounds = (*rounds, rival)
            grades = [turn.product.chosen.grade for turn in (best, rival)]
            if rival.measured_ms <= limit and grades[1] > grades[0]:
                best = rival
    missed = []
    if best.measured_ms > limit:
        missed.append(
            f"The latency budget is missed: {best.measured_ms:.3f} ms were measured where "
            f"{limit:.3f} ms are allowed, and {len(rounds)} rounds reached nothing faster."
        )
    if request.fine_tuning is None:
        return best.product, rounds, missed
    final = replace(request, budget=best.budgets)
    return prune_prepared(final, original, material, progress), rounds, missed


def _price_in_macs(budgets: Budgets, macs: float) -> Budgets:
    """Return the budgets with one of MACs in place of that of latency."""
    others = [budget for budget in budgets if budget.quantity not in ("latency", "macs")]
    return Budgets((Budget("macs", macs, relative=False), *others))


def describe_rounds(rounds: Sequence[Round[Pruned]]) -> tuple[Mapping[str, Any], ...]:
    """Return the rounds for the report, as JSON types."""
    return tuple({"budget": str(turn.budgets), "measured_ms": turn.measured_ms} for turn in rounds)
