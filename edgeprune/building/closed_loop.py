"""Prune, export, look at the file, correct the budgets: until what is delivered meets them.

Inside, pruning works with what widths are estimated to cost. What counts is the file: its bytes,
the memory and the latency that follow from its operators, or the latency that is measured.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeprune.boards import Target
from edgeprune.building.artifacts import Bench, Exporter
from edgeprune.cost.budgets import COUNTED, OWN_UNITS, Budget, Budgets, Quantity
from edgeprune.errors import BudgetError
from edgeprune.latency import Deployment, Kernels, Predictor, parse_operators
from edgeprune.latency.expectations import expect_coefficients
from edgeprune.latency.features import FEATURES, ITEM_BYTES
from edgeprune.tflite import Conversion
from edgeprune.tflite.arena import peak_memory
from edgeprune.tflite.edgetpu import edgetpu_parameter_bytes

if TYPE_CHECKING:
    import keras

    from edgeprune.pruning.one_shot import Pruned

TRIAL_SECONDS = 1.0
TRIALS = 2
TOLERANCE = 0.1
"""How far below its limit a measured latency may end without another round."""
AIM = 0.96
"""Share of the limit that a correction aims at: under it, and well within the tolerance."""
MOST_ROUNDS = 5
TYPICAL = {"float32": 50.0, "int8": 100.0}
"""Peak in GOP/s of a small CPU: gives shares of operators, the first measurement their scale."""

Make = Callable[[Budgets], "Pruned"]


@dataclass(frozen=True)
class Round:
    """One turn of the loop.

    Attributes:
        budgets: that were asked of the pruning.
        found: cost of the file by quantity; a measured latency at the machine's speed of the start.
        pruned: the model.
        exported: the same, converted as it is delivered; `None` where no budget asks for its file.
    """

    budgets: Budgets
    found: Mapping[Quantity, float]
    pruned: Pruned = field(repr=False)
    exported: Conversion | None = field(repr=False)

    def misses(self, limits: Mapping[Quantity, float]) -> list[Quantity]:
        """Return the quantities that are above their limits."""
        return [quantity for quantity, limit in limits.items() if self.found[quantity] > limit]


def cost_of_file(quantity: Quantity, content: bytes, deployment: Deployment) -> float:
    """Return what a `.tflite` costs: counted in the file, or predicted from its operators.

    Args:
        quantity: one of those that are not counted in the model.
        content: of the file.
        deployment: with the predictor of latency and energy.

    Raises:
        BudgetError: there is no predictor, or no power is known.
    """
    if quantity == "size":
        return float(len(content))
    if quantity == "memory":
        return float(peak_memory(content))
    if quantity == "fits":
        return float(edgetpu_parameter_bytes(content))
    predictor = deployment.require(quantity)
    operators = parse_operators(content)
    found = predictor.latency(operators) if quantity == "latency" else predictor.energy(operators)
    assert found is not None  # `require` has looked
    return found.value


@dataclass(frozen=True, eq=False)
class Trial:
    """What the loop measures files with.

    Attributes:
        exporter: converts as a build delivers.
        deployment: what budgets are about.
        original: converted, which shares in budgets are of.
        bench: where latency is measured; `None` predicts it.
    """

    exporter: Exporter
    deployment: Deployment
    original: Conversion
    bench: Bench | None = None

    def limits(self, budgets: Budgets, start_ms: float | None) -> dict[Quantity, float]:
        """Return the limit of every quantity that the file decides, in its own unit.

        Args:
            budgets: that were asked for.
            start_ms: measured latency of the original, where latency is measured.
        """
        limits: dict[Quantity, float] = {}
        for budget in budgets:
            if budget.quantity in COUNTED:
                continue
            if not budget.relative:
                limits[budget.quantity] = budget.amount
            elif budget.quantity == "latency" and start_ms is not None:
                limits["latency"] = budget.limit(start_ms)
            else:
                content = self.original.content
                cost = cost_of_file(budget.quantity, content, self.deployment)
                limits[budget.quantity] = budget.limit(cost)
        return limits

    def find(
        self, exported: Conversion, limits: Mapping[Quantity, float], start_ms: float | None
    ) -> dict[Quantity, float]:
        """Return what a file costs of every limited quantity."""
        found: dict[Quantity, float] = {}
        for quantity in limits:
            if quantity == "latency" and start_ms is not None:
                times = self.measure({"product": exported, "original": self.original})
                found["latency"] = start_ms * times["product"] / times["original"]
            else:
                found[quantity] = cost_of_file(quantity, exported.content, self.deployment)
        return found

    def measure(self, models: Mapping[str, Conversion]) -> dict[str, float]:
        """Return the median latencies of named models in ms, taken in turns.

        Others on the machine only ever slow it down: the fastest of several medians counts.
        """
        assert self.bench is not None
        with tempfile.TemporaryDirectory() as folder:
            paths = {name: Path(folder) / f"{name}.tflite" for name in models}
            for name, path in paths.items():
                path.write_bytes(models[name].content)
            runs = [self.bench.measure(paths, TRIAL_SECONDS) for _ in range(TRIALS)]
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
    kind = "int8" if ITEM_BYTES[scheme] == 1 else "float32"
    coefficients = expect_coefficients(TYPICAL[kind], 5000, clock_ghz=2.0, scheme=kind)
    # What cannot be pruned would refuse budgets on a guess; the loop finds it by measuring.
    coefficients[list(FEATURES).index("operators")] = 0
    assumed = Predictor(board.name, scheme, coefficients, Kernels(4, 8, 1), 1.0, kind="assumed")
    return replace(deployment, predictor=assumed)


def scale_to_machine(
    deployment: Deployment, original: keras.Model, measured_ms: float
) -> Deployment:
    """Return the deployment with a predictor that is right about the original's latency."""
    from edgeprune.cost.cost_model import CostModel
    from edgeprune.tracing.groups import find_groups

    assert deployment.predictor is not None  # see make_measurable
    predicted = CostModel(find_groups(original), deployment).spend("latency", {})
    return replace(deployment, predictor=deployment.predictor.scaled(measured_ms / predicted))


def meet_budgets(
    make: Make, trial: Trial, budgets: Budgets, start_ms: float | None = None
) -> tuple[Round, tuple[Round, ...]]:
    """Prune until the exported file meets all budgets.

    What is over its limit is asked for less next time, by the factor that was missed; a measured
    latency also for more where it ends well below. A share of a measured latency has the original
    measured beside every product, so that a machine that changes its speed between two rounds does
    not look like a product that does. What meets it has a rival, with as many MACs and the widths
    that a budget of MACs chooses: where that is as fast, validation decides.

    Args:
        make: prunes for budgets.
        trial: exports and measures.
        budgets: that were asked for.
        start_ms: measured latency of the original, where latency is to be measured.

    Returns:
        The round that is delivered, and all rounds.

    Raises:
        BudgetError: no round met all budgets; says what came closest.
    """
    limits = trial.limits(budgets, start_ms)
    asked = Budgets(
        tuple(
            Budget(b.quantity, limits[b.quantity], relative=False) if b.quantity in limits else b
            for b in budgets
        )
    )
    rounds: list[Round] = []

    def turn(asked: Budgets) -> Round:
        pruned = make(asked)
        twin = next((turn for turn in rounds if turn.pruned.plan == pruned.plan), None)
        if twin is not None:  # the same widths again make the same file
            rounds.append(replace(twin, budgets=asked))
        elif limits:
            exported = trial.exporter.export_pruned(pruned, trial=True)
            rounds.append(Round(asked, trial.find(exported, limits, start_ms), pruned, exported))
        else:
            rounds.append(Round(asked, {}, pruned, None))
        return rounds[-1]

    while len(rounds) < MOST_ROUNDS:
        try:
            last = turn(asked)
        except BudgetError:
            if not rounds:
                raise
            break
        if len(rounds) > 1 and last.pruned.plan == rounds[-2].pruned.plan:
            break  # the same widths again: nothing lies in between
        again = _correct(asked, last, limits, start_ms is not None)
        if again == asked:
            break
        asked = again
    best = _choose(rounds, limits)
    if start_ms is not None:
        best = _compare_with_rival(best, turn, limits)
    return best, tuple(rounds)


def _correct(
    asked: Budgets, last: Round, limits: Mapping[Quantity, float], measured: bool
) -> Budgets:
    for quantity, limit in limits.items():
        found = last.found[quantity]
        loose = quantity == "latency" and measured and found < (1 - TOLERANCE) * limit
        if found > limit or loose:
            asked = asked.scale(quantity, AIM * limit / found)
    return asked


def _choose(rounds: Sequence[Round], limits: Mapping[Quantity, float]) -> Round:
    """Return the most expensive round that meets all limits.

    Raises:
        BudgetError: there is none.
    """
    met = [turn for turn in rounds if not turn.misses(limits)]
    if met:
        return max(met, key=lambda turn: [turn.found[quantity] for quantity in limits])
    over = lambda turn: max(turn.found[q] / limits[q] for q in limits)  # noqa: E731
    closest = min(rounds, key=over)
    missed = ", ".join(
        f"{quantity}={closest.found[quantity]:.4g}{OWN_UNITS.get(quantity, '')} where "
        f"{limits[quantity]:.4g} is allowed"
        for quantity in closest.misses(limits)
    )
    raise BudgetError(
        f"The budget cannot be met: of {len(rounds)} rounds the closest one ended at {missed}. "
        "Nothing was written. Allow more, take --step 1, or another number format."
    )


def _compare_with_rival(
    best: Round, turn: Callable[[Budgets], Round], limits: Mapping[Quantity, float]
) -> Round:
    others = [b for b in best.budgets if b.quantity not in ("latency", "macs")]
    macs = Budget("macs", best.pruned.after.require_macs(), relative=False)
    rival = turn(Budgets((macs, *others)))
    scores = [each.pruned.chosen.score for each in (best, rival)]
    return rival if not rival.misses(limits) and scores[1] > scores[0] else best


def describe_rounds(rounds: Sequence[Round]) -> tuple[Mapping[str, Any], ...]:
    """Return the rounds for the report, as JSON types."""
    return tuple({"budget": str(turn.budgets), **turn.found} for turn in rounds)
