"""The last proofs of a build: what the `.tflite` answers, and what it costs against the budgets."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from edgeprune.building.closed_loop import cost_of_file
from edgeprune.building.splits import DataSplits
from edgeprune.cost.budgets import COUNTED, OWN_UNITS, Budgets, Quantity
from edgeprune.errors import BudgetError, EquivalenceError
from edgeprune.evaluation.metrics import measure, measure_agreement
from edgeprune.latency import Deployment, parse_operators, read_operators
from edgeprune.tflite.export_settings import Export
from edgeprune.tflite.runtime import TFLiteModel

if TYPE_CHECKING:
    import keras

    from edgeprune.building.production import Making


def verify_file(
    path: Path,
    model: keras.Model,
    splits: DataSplits,
    expected: np.ndarray,
    export: Export,
) -> tuple[np.ndarray, dict[str, Any]]:
    """Run a `.tflite` on real samples and compare it with the Keras model.

    Args:
        path: of the file.
        model: that it was made of, with one input and one output.
        splits: with the test samples.
        expected: what the Keras model answers to them, `(n, ...)`.
        export: how the file takes its samples.

    Returns:
        What the file answers, and for the report: `samples`, `top1_agreement` (share of equal
        answers; `r2` where they are numbers), `max_abs_error` and
        `mean_abs_error` of its outputs, their `scale` (largest absolute output of Keras), the
        `output_step` (of the integers; 0 for floats), `inputs` and `outputs` by signature name, and
        the `runtime`.

    Raises:
        EquivalenceError: the names are not those of the Keras model, or it answers with NaN.
    """
    runner = TFLiteModel(path, threads=os.cpu_count() or 1)
    given, answered = runner.inputs[0], runner.outputs[0]
    names = {"inputs": [given.name], "outputs": [answered.name]}
    wanted = _signature(model)
    if names != wanted:
        raise EquivalenceError(
            f"The .tflite calls its input and output {names}, the Keras model {wanted}. Nothing "
            "was written. Please report the model."
        )
    outputs = _answer(runner, splits.test.inputs, export, splits)
    if not np.isfinite(outputs).all():
        raise EquivalenceError(
            "The .tflite answers with NaN or infinity where the Keras model does not. Nothing was "
            "written. Choose another number format with --quantize."
        )
    error, agreement = np.abs(outputs - expected), measure_agreement(splits.kind, expected, outputs)
    return outputs, {
        "samples": len(outputs),
        "r2" if splits.kind.task == "regress" else "top1_agreement": agreement,
        "max_abs_error": float(error.max()),
        "mean_abs_error": float(error.mean()),
        "scale": float(np.abs(expected).max()),
        "output_step": _step(path, answered.scale),
        "inputs": {given.name: f"{given.dtype} {given.shape}"},
        "outputs": {answered.name: f"{answered.dtype} {answered.shape}"},
        "runtime": str(runner.runtime),
    }


def measure_on_validation(content: bytes, splits: DataSplits, export: Export) -> float:
    """Return the accuracy of a file on validation samples.

    Args:
        content: of a `.tflite` of the kept classes.
        splits: with the validation samples.
        export: how the file takes its samples.
    """
    runner = TFLiteModel(content, threads=os.cpu_count() or 1)
    outputs = _answer(runner, splits.validation.inputs, export, splits)
    return measure(splits.kind, outputs, splits.validation.targets, splits.classes)["accuracy"]


def _answer(
    runner: TFLiteModel, inputs: np.ndarray, export: Export, splits: DataSplits
) -> np.ndarray:
    """Return what a file answers; samples become what it takes one by one."""
    return np.asarray(
        runner.predict(inputs, lambda sample: export.store(sample, splits.preprocess))
    )


@dataclass(frozen=True)
class BudgetCheck:
    """One budget, held against what is delivered.

    Attributes:
        quantity: that is limited.
        limit: in the quantity's own unit.
        found: in the same.
        how: `counted`, `measured` with where, or `predicted` with the error to expect.
    """

    quantity: Quantity | Literal["drop"]
    limit: float
    found: float
    how: str

    @property
    def met(self) -> bool:
        """Whether the delivered model is within the limit."""
        return self.found <= self.limit

    def to_dict(self) -> dict[str, Any]:
        """Return the check as JSON types."""
        return {
            "quantity": self.quantity,
            "unit": "points" if self.quantity == "drop" else OWN_UNITS.get(self.quantity, ""),
            "limit": self.limit,
            "found": self.found,
            "how": self.how,
            "met": self.met,
        }


def check_budgets(
    budgets: Budgets, making: Making, measured: tuple[float, str] | None
) -> tuple[BudgetCheck, ...]:
    """Hold every budget against the delivered model and file.

    Args:
        budgets: that were asked for.
        making: the delivered model and file.
        measured: latency in ms and where, if the budget is about what is measured.

    Raises:
        BudgetError: one is missed; says by how much.
    """
    checks, limits, pruned = [], making.limits, making.pruned
    for budget in budgets:
        quantity = budget.quantity
        if quantity in COUNTED:
            before, found = (float(getattr(c, quantity)) for c in (pruned.before, pruned.after))
            checks.append(BudgetCheck(quantity, budget.limit(before), found, "counted"))
        elif quantity == "latency" and measured is not None:
            checks.append(BudgetCheck(quantity, limits[quantity], *measured))
        else:
            content, how = making.exported.content, "counted in the file"
            found = cost_of_file(quantity, content, making.deployment)
            if quantity in ("latency", "energy"):
                predictor = making.deployment.require(quantity)
                how = getattr(predictor, quantity)(parse_operators(content)).how
            checks.append(BudgetCheck(quantity, limits[quantity], found, how))
    if budgets.drop is not None and making.lost is not None:
        how = "measured with the .tflite on validation samples"
        checks.append(BudgetCheck("drop", 100 * budgets.drop, 100 * making.lost, how))
    missed = [check for check in checks if not check.met]
    if missed:
        texts = ", ".join(
            f"{c.quantity}={c.found:.4g}{OWN_UNITS.get(c.quantity, '')} ({c.how}) where "
            f"{c.limit:.4g} is allowed"
            for c in missed
        )
        raise BudgetError(
            f"The model that was made misses its budget: {texts}. Nothing was written."
        )
    return tuple(checks)


def warn_loose_budgets(
    checks: tuple[BudgetCheck, ...], budgets: Budgets, costs: Mapping[str, float]
) -> list[str]:
    """Say so when an absolute budget asks for nothing, which is what a wrong unit looks like.

    Args:
        checks: of the budgets.
        budgets: that were asked for.
        costs: of the original, by quantity.
    """
    found = []
    for check, budget in zip(checks[: len(budgets.budgets)], budgets, strict=True):
        cost = costs[check.quantity]
        if budget.relative or check.limit < cost:
            continue
        written = f"{cost:,.0f}" if cost >= 100 else f"{cost:.3g}"
        found.append(
            f"The budget {budget} is not below what the original costs, {check.quantity}={written}"
            f"{OWN_UNITS.get(check.quantity, '')}: for it no channel had to go."
        )
    return found


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
        old, new = (predict(operators) for operators in files)
        if old is not None and new is not None:
            rows.append(
                {
                    "quantity": quantity,
                    "unit": new.unit,
                    "before": old.value,
                    "after": new.value,
                    "target": new.target,
                    "error": new.error,
                    "how": new.how,
                }
            )
    return tuple(rows)


def _signature(model: keras.Model) -> dict[str, list[str]]:
    from edgeprune.tflite.tensorflow_lite import signature_names

    return signature_names(model)


def _step(path: Path, scale: float) -> float:
    """Return the step of the integers an output is made from, also behind a DEQUANTIZE."""
    from edgeprune.tflite.flatbuffer import operator_kind, parse_model

    if scale:
        return scale
    parsed = parse_model(path.read_bytes())
    subgraph = parsed.subgraphs[0]
    for operator in subgraph.operators:
        if subgraph.outputs[0] in operator.outputs and operator_kind(parsed, operator) == (
            "DEQUANTIZE"
        ):
            return float(subgraph.tensors[operator.inputs[0]].quantization.scale[0])
    return 0.0
