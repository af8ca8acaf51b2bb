"""What is to be pruned, for whom and how: checked first, then loaded, then pruned."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from edgeprune.building.checks import check_source
from edgeprune.building.material import Amounts, Material, read_material
from edgeprune.cost.budgets import Budgets
from edgeprune.data import Preprocess
from edgeprune.distillation import FineTuning
from edgeprune.latency import Deployment
from edgeprune.pruning.methods import METHODS, Recalibration
from edgeprune.support.progress import Progress
from edgeprune.support.stopwatch import Stopwatch

if TYPE_CHECKING:
    import keras

    from edgeprune.pruning.pruning import Pruned


@dataclass(frozen=True, eq=False)
class Request:
    """What is asked for, as far as pruning goes.

    Attributes:
        model: whatever `load_model` takes; likewise `weights`.
        data: whatever `load_dataset` takes.
        weights: of an architecture in JSON.
        classes: to keep, in this order; `None` keeps all.
        labels: names of the model's outputs, if not those of the data.
        preprocess: how stored samples become inputs.
        budget: the most the model may cost.
        method: name in `METHODS`.
        criterion: in place of the method's own; likewise the others.
        allocation: see `criterion`.
        recovery: see `criterion`.
        recalibration: see `criterion`.
        step: widths are multiples of it.
        time_limit: seconds for trying methods; `None` for the method's own.
        amounts: how many samples serve for what.
        seed: of everything that is drawn.
        deployment: number format and board that budgets are about.
        fine_tuning: how to train after pruning; `None` does not.
        gathers: whether to try channel gathers as well, see `prune_with_gathers`.

    Raises:
        BudgetError: the board has no predictor for a budget, or gathers do not work with it.
        DataError: there is nothing at the path of the data.
    """

    model: str | os.PathLike[str] | keras.Model
    data: Any
    weights: str | os.PathLike[str] | None
    classes: str | Sequence[str | int] | None
    labels: Sequence[str] | None
    preprocess: Preprocess
    budget: Budgets
    method: str
    criterion: str | None
    allocation: str | None
    recovery: str | None
    recalibration: Recalibration | None
    step: int
    time_limit: float | None
    amounts: Amounts
    seed: int
    deployment: Deployment
    fine_tuning: FineTuning | None = None
    gathers: bool = False

    def __post_init__(self) -> None:
        """Refuse what can be refused without loading anything."""
        check_source(self.data)
        if self.gathers:
            self.budget.require_counted("Gathers")
        for budget in self.budget:
            if budget.quantity in ("latency", "energy"):
                self.deployment.require(budget.quantity)

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as JSON types; a model in memory by its name, data by its type."""
        stored = (str, os.PathLike)
        return {
            "model": str(self.model) if isinstance(self.model, stored) else self.model.name,
            "data": str(self.data) if isinstance(self.data, stored) else type(self.data).__name__,
            "preprocess": self.preprocess.name,
            "budget": str(self.budget),
            "method": self.method,
            **{
                part: getattr(self, part) or getattr(METHODS.get(self.method), part, None)
                for part in ("criterion", "allocation", "recovery", "recalibration")
            },
            "step": self.step,
            "gathers": self.gathers,
            "fine_tuning": None if self.fine_tuning is None else self.fine_tuning.to_dict(),
            "samples": asdict(self.amounts),
        }


def open_model(
    model: str | os.PathLike[str] | keras.Model,
    weights: str | os.PathLike[str] | None,
    progress: Progress,
) -> keras.Model:
    """Load a model as a stage of its own: TensorFlow takes seconds to start.

    Args:
        model: whatever `load_model` takes.
        weights: likewise.
        progress: told about it.

    Raises:
        ModelError: it cannot be opened.
    """
    with progress.stage("starting TensorFlow, loading model"):
        from edgeprune.loading import load_model

        return load_model(model, weights=weights)


def prepare(
    request: Request, stopwatch: Stopwatch, progress: Progress
) -> tuple[keras.Model, Material]:
    """Load the model and read the samples for it.

    Args:
        request: what is asked for.
        stopwatch: gets the seconds of each stage.
        progress: told about stages.

    Raises:
        EdgepruneError: one of its kinds.
    """
    with stopwatch.time("load model"):
        original = open_model(request.model, request.weights, progress)
    from edgeprune.pruning.pruning import check_methods

    check_methods(
        request.method,
        request.criterion,
        request.allocation,
        request.recovery,
        request.recalibration,
    )
    with stopwatch.time("read data"), progress.stage("reading the data"):
        material = read_material(
            original,
            request.data,
            classes=request.classes,
            labels=request.labels,
            preprocess=request.preprocess,
            amounts=request.amounts,
            seed=request.seed,
        )
    return original, material


def prune_prepared(
    request: Request, model: keras.Model, material: Material, progress: Progress
) -> Pruned:
    """Prune a prepared model.

    Args:
        request: what is asked for.
        model: that `prepare` loaded.
        material: that it read.
        progress: told about stages.

    Raises:
        EquivalenceError: the slim model is not what the plan says.
    """
    from edgeprune.pruning.gathering import prune_with_gathers
    from edgeprune.pruning.pruning import prune

    return (prune_with_gathers if request.gathers else prune)(
        model,
        material.calibration,
        budget=request.budget,
        classes=material.classes,
        validation=material.validation,
        method=request.method,
        criterion=request.criterion,
        allocation=request.allocation,
        recovery=request.recovery,
        recalibration=request.recalibration,
        step=request.step,
        time_limit=request.time_limit,
        deployment=request.deployment,
        seed=request.seed,
        progress=progress,
    )
