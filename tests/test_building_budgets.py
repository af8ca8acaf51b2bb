from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from specialists import make_classifier, run_command, save_digits

from edgeprune.benchmarking import Measurement
from edgeprune.building import artifacts, build
from edgeprune.building.closed_loop import Trial, meet_budgets
from edgeprune.cost.budgets import Budgets
from edgeprune.cost.cost_model import Cost
from edgeprune.data import Data
from edgeprune.errors import BudgetError
from edgeprune.evaluation.evaluator import Score
from edgeprune.latency import Predictor, read_operators
from edgeprune.latency.predictor import write_tables
from edgeprune.pruning.pruning_settings import Pruning

QUICK = Pruning("chapr", recalibration="off", step=1)
UNMEASURED = Measurement(latency=False)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return save_digits(tmp_path_factory.mktemp("data") / "digits.npz")


def small(data: Path) -> Data:
    return Data(data, calibration=20, validation=20, test=300)


@pytest.fixture
def board(tmp_path) -> str:
    """A board on which products take nearly all of the time, so that a small model shows it."""
    predictor = Predictor(
        "slow", "int8", np.array([20, 20, 1, 1, 1, 1, 1, 0.0001]), error=0.2, power_w=2.0,
        power_error=0.05, source="made up",
    )  # fmt: skip
    path = tmp_path / "slow.toml"
    tables = write_tables({"int8": predictor.to_dict()}, "a test")
    path.write_text(f'based_on = "rpi4"\n{tables}')
    return str(path)


def test_latency_and_size_budgets_are_met_and_predicted_for_the_board(
    data, tmp_path, board
) -> None:
    built = build(
        make_classifier(), small(data), target=board, budget=["latency=70%", "size=80%"],
        out=tmp_path / "out", pruning=QUICK, training="fast", measurement=UNMEASURED,
    )  # fmt: skip
    latency, energy = built.outcome.predictions
    assert latency["after"] <= 0.7 * latency["before"]
    size = built.outcome.size_bytes
    assert (tmp_path / "out" / "model.tflite").stat().st_size == size.after <= 0.8 * size.before
    checked = {check["quantity"]: check for check in built.outcome.budgets}
    assert checked["size"]["found"] == size.after and checked["size"]["limit"] == 0.8 * size.before
    assert checked["latency"]["found"] == latency["after"]
    assert all(check["met"] for check in checked.values())
    assert (latency["unit"], energy["unit"], latency["target"]) == ("ms", "mJ", "slow")
    assert (latency["error"], energy["error"]) == pytest.approx((0.2, 0.25))
    assert energy["after"] == pytest.approx(2 * latency["after"])
    assert json.loads((tmp_path / "out" / "report.json").read_text())["predictions"][0] == latency


def test_the_table_says_for_which_board_and_how_well_it_was_predicted(data, tmp_path) -> None:
    make_classifier().save(tmp_path / "model.keras")
    answer = run_command(
        "build", tmp_path / "model.keras", "--data", data, "--target", "rpi5", "--budget",
        "macs=60%,latency=100%", "--budget", "memory=100%", "--method", "chapr", "--no-bench",
        "--effort", "fast",
        "--calibration", 20, "--validation", 20, "--out", tmp_path / "out",
    )  # fmt: skip
    assert answer.code == 0, answer.err
    (shown,) = json.loads((tmp_path / "out" / "report.json").read_text())["predictions"]
    assert shown["how"].startswith("predicted for rpi5 with TFLite 2.7 (ruy), +-")
    assert shown["error"] >= 0.3, (
        "scaled from another board, and smaller than what that was fitted to"
    )
    assert shown["how"].partition("+-")[2] in answer.out
    settings = json.loads((tmp_path / "out" / "report.json").read_text())["settings"]
    assert settings["budget"] == "macs=60%,latency=100%,memory=100%"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--budget", "latency=2ms"], "cannot be predicted for target 'x86-64'"),
        (["--budget", "energy=2mJ", "--target", "rpi5"], "needs the power of target 'rpi5'"),
        (["--budget", "macs=50%", "--measure"], "--measure needs a budget for latency"),
        (["--budget", "latency=1us", "--target", "rpi4"], "can go down to latency="),
        (["--budget", "macs=50%,macs=40%"], "two budgets for macs"),
    ],
)
def test_budgets_that_the_target_cannot_judge_or_meet_are_refused(
    data, tmp_path, options, expected
) -> None:
    make_classifier().save(tmp_path / "model.keras")
    answer = run_command(
        "build", tmp_path / "model.keras", "--data", data, "--out", tmp_path / "out", *options
    )
    assert answer.code == 2 and expected in answer.error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("known", [True, False])
def test_the_loop_measures_here_until_the_budget_is_met(
    known, data, tmp_path, board, monkeypatch
) -> None:
    """On a machine that takes another time than the predictor says, or that has none."""

    class Measured:
        def __init__(self, path: Path) -> None:
            self.p50_ms = 0.5 + 3e-5 * sum(operator.macs for operator in read_operators(path))

    def fake_bench(models, **options):
        return {name: Measured(path) for name, path in models.items()}

    monkeypatch.setattr(artifacts, "bench", fake_bench)
    model = make_classifier()
    built = build(
        model, small(data), target=board if known else "x86-64", budget="latency=70%",
        measurement=Measurement(latency=False, until_met=True), out=tmp_path / "out",
        pruning=QUICK, training="fast",
    )  # fmt: skip
    before, after = (
        0.5 + 3e-5 * macs for macs in (built.outcome.macs.before, built.outcome.macs.after)
    )
    assert 0.6 * before <= after <= 0.7 * before
    assert built.outcome.rounds[-1]["latency"] == pytest.approx(after, rel=0.01)
    (check,) = built.outcome.budgets
    assert check["how"] == "measured" and check["found"] <= check["limit"]


class Machine:
    """A trial in which a pruned model is its budget of latency, or what `takes` makes of it."""

    def __init__(self, takes: Callable[[float], float], *, start_ms: float = 20.0) -> None:
        self.takes = takes
        self.start_ms = start_ms
        self.exporter = SimpleNamespace(export_pruned=lambda pruned, trial: pruned)

    def limits(self, budgets: Budgets, start_ms: float | None) -> dict:
        return {b.quantity: b.limit(self.start_ms) for b in budgets if b.quantity != "macs"}

    def find(self, exported: SimpleNamespace, limits: dict, start_ms: float | None) -> dict:
        return {name: self.takes(exported.plan) if name == "latency" else 1.0 for name in limits}


def prune_to(budgets: Budgets, score: float = 0.5) -> SimpleNamespace:
    """Return what the loop reads of a pruned model; its plan is the latency it was asked for."""
    asked = {budget.quantity: budget.amount for budget in budgets}
    return SimpleNamespace(
        plan=asked.get("latency", 0.0), model=str(budgets), after=Cost(6, 6),
        chosen=SimpleNamespace(score=Score(score, 0.0)),
    )  # fmt: skip


def never_better(budgets: Budgets) -> SimpleNamespace:
    return prune_to(budgets, 0.0 if next(iter(budgets)).quantity == "macs" else 0.5)


@pytest.mark.parametrize("wrong", [0.5, 0.97, 1.0, 1.02, 1.8])
def test_the_measured_latency_meets_the_budget_however_wrong_the_predictor_is(wrong) -> None:
    best, rounds = meet_budgets(
        never_better, Machine(lambda ms: 0.3 + wrong * ms), Budgets.parse("latency=10ms"), 20.0
    )
    assert 9 <= best.found["latency"] <= 10
    assert len(rounds) <= 4  # the rival is the last


def test_a_predictor_that_is_right_needs_one_round_where_nothing_is_measured() -> None:
    _, rounds = meet_budgets(prune_to, Machine(lambda ms: 0.95 * ms), Budgets.parse("latency=10ms"))
    assert len(rounds) == 1


def test_other_budgets_are_kept_in_every_round_and_shares_are_of_the_original() -> None:
    best, rounds = meet_budgets(
        prune_to, Machine(lambda ms: 2 * ms), Budgets.parse("latency=50%,size=500KB")
    )
    assert [turn.pruned.model for turn in rounds] == [
        "latency=10ms,size=500000B", "latency=4.8ms,size=500000B"
    ]  # fmt: skip
    assert best is rounds[-1]


def test_widths_come_in_steps_so_the_most_expensive_that_meets_the_limit_is_delivered() -> None:
    best, rounds = meet_budgets(
        prune_to, Machine(lambda ms: 12.0 if ms > 9 else 7.0), Budgets.parse("latency=10ms")
    )
    assert best.found["latency"] == 7.0
    assert [turn.found["latency"] for turn in rounds] == [12.0, 7.0]


def test_a_budget_that_no_round_meets_is_refused_with_what_came_closest() -> None:
    machine, budgets = Machine(lambda ms: 20 + ms), Budgets.parse("latency=10ms")
    with pytest.raises(BudgetError, match=r"closest one ended at latency=2\d\.\d*ms where 10 is"):
        meet_budgets(prune_to, machine, budgets)


def test_a_correction_that_cannot_be_made_ends_the_loop() -> None:
    def make(budgets: Budgets) -> SimpleNamespace:
        pruned = prune_to(budgets)
        if pruned.plan < 8:
            raise BudgetError("can go down to latency=8ms")
        return pruned

    with pytest.raises(BudgetError, match="of 1 rounds the closest one ended at latency=20ms"):
        meet_budgets(make, Machine(lambda ms: 2 * ms), Budgets.parse("latency=10ms"))
    with pytest.raises(BudgetError, match="can go down to"):
        meet_budgets(make, Machine(lambda ms: ms), Budgets.parse("latency=5ms"))


@pytest.mark.parametrize(
    ("rival_ms", "rival_score", "taken"),
    [(9.9, 0.9, "macs"), (9.9, 0.7, "latency"), (10.1, 0.9, "latency")],
)
def test_widths_chosen_by_macs_win_if_they_are_as_fast_and_better_on_validation(
    rival_ms, rival_score, taken
) -> None:
    def make(budgets: Budgets) -> SimpleNamespace:
        by_macs = next(iter(budgets)).quantity == "macs"
        return prune_to(budgets, rival_score if by_macs else 0.8)

    machine = Machine(lambda ms: 0.96 * ms if ms else rival_ms)
    best, rounds = meet_budgets(make, machine, Budgets.parse("latency=10ms"), 20.0)
    assert [turn.found["latency"] for turn in rounds] == [9.6, rival_ms]
    assert best.pruned.model == ("macs=6" if taken == "macs" else "latency=10ms")


def test_a_machine_that_slows_down_between_two_rounds_does_not_move_a_share() -> None:
    class Slowing:
        speed = 1.0

        def measure(self, paths, seconds):
            self.speed *= 0.8
            time = {name: float(path.read_bytes()) / self.speed for name, path in paths.items()}
            return {name: SimpleNamespace(p50_ms=ms) for name, ms in time.items()}

    trial = Trial(None, None, SimpleNamespace(content=b"10"), Slowing())
    limits = trial.limits(Budgets.parse("latency=50%"), 12.0)
    found = trial.find(SimpleNamespace(content=b"4"), limits, 12.0)
    assert limits == {"latency": 6.0}
    assert found["latency"] == pytest.approx(0.4 * 12.0)
