from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import edgeprune.building.places as places
import numpy as np
import pytest
from specialists import make_classifier, run_command, save_digits

import edgeprune.building.closed_loop as closed_loop
from edgeprune.building import Amounts, build
from edgeprune.cost.budgets import Budgets
from edgeprune.evaluation.evaluator import Grade
from edgeprune.latency import Deployment, Predictor, read_operators
from edgeprune.latency.prediction_tables import write_tables

AMOUNTS = Amounts(calibration_per_class=20, validation_per_class=20, test=300)
QUICK = {"method": "chapr", "amounts": AMOUNTS, "measure": False, "recalibration": "off"}


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return save_digits(tmp_path_factory.mktemp("data") / "digits.npz")


@pytest.fixture
def board(tmp_path) -> str:
    """A board on which products take nearly all of the time, so that a small model shows it."""
    predictor = Predictor(
        "slow", "int8", np.array([20, 20, 1, 1, 1, 1, 0.0001]), error=0.2, power_w=2.0,
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
        make_classifier(), str(data), target=board, budget=["latency=70%", "size=80%"],
        out=tmp_path / "out", step=1, **QUICK,
    )  # fmt: skip
    latency, energy = built.outcome.predictions
    assert latency["after"] <= 0.701 * latency["before"]
    assert built.outcome.size_bytes.ratio <= 0.85  # the size of the file is an estimate
    assert (latency["unit"], energy["unit"], latency["target"]) == ("ms", "mJ", "slow")
    assert (latency["error"], energy["error"]) == pytest.approx((0.2, 0.25))
    assert energy["after"] == pytest.approx(2 * latency["after"])
    assert json.loads((tmp_path / "out" / "report.json").read_text())["predictions"][0] == latency


def test_the_table_says_for_which_board_and_how_well_it_was_predicted(data, tmp_path) -> None:
    make_classifier().save(tmp_path / "model.keras")
    answer = run_command(
        "build", tmp_path / "model.keras", "--data", data, "--target", "rpi5", "--budget",
        "macs=60%,latency=100%", "--budget", "memory=100%", "--method", "chapr", "--no-bench",
        "--calibration", 20, "--validation", 20, "--out", tmp_path / "out",
    )  # fmt: skip
    assert answer.code == 0, answer.err
    assert "predicted for" in answer.out and "+-30 %" in answer.out
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

    monkeypatch.setattr(places, "bench", fake_bench)
    model = make_classifier()
    built = build(
        model, str(data), target=board if known else "x86-64", budget="latency=70%",
        meet_measured=True, out=tmp_path / "out", step=1, **QUICK,
    )  # fmt: skip
    before, after = (
        0.5 + 3e-5 * macs for macs in (built.outcome.macs.before, built.outcome.macs.after)
    )
    assert 0.6 * before <= after <= 0.7 * before
    assert built.outcome.rounds[-1]["measured_ms"] == pytest.approx(after, rel=0.01)


@dataclass(frozen=True)
class Asked:
    """What the loop reads of a request."""

    budget: Budgets
    deployment: Deployment
    fine_tuning: None = None


def as_pruned(model: float, accuracy: float = 0.5) -> SimpleNamespace:
    """Return what the loop reads of a pruned model, which stands for its latency here."""
    grade = Grade(accuracy, 0.0)
    return SimpleNamespace(
        model=model, after=SimpleNamespace(macs=6.0), chosen=SimpleNamespace(grade=grade)
    )


def test_a_budget_that_measuring_never_meets_is_a_warning(monkeypatch) -> None:
    class SlowMachine:
        def convert(self, model, path):
            return path

        def measure(self, models):
            return {name: {"original": 10.0, "product": 7.5}[name] for name in models}

    original = make_classifier()
    monkeypatch.setattr(closed_loop, "prune_prepared", lambda request, *_: SimpleNamespace(model=0))
    predictor = Predictor("board", "int8", np.ones(7))
    request = Asked(Budgets.parse("latency=50%"), Deployment(predictor=predictor))
    _, rounds, warnings = closed_loop.prune_to_measured(
        request, original, None, SlowMachine(), SILENT
    )
    assert [turn.measured_ms for turn in rounds] == [7.5, 7.5]
    assert warnings == [
        "The latency budget is missed: 7.500 ms were measured where 5.000 ms are allowed, and 2 "
        "rounds reached nothing faster."
    ]
    assert str(rounds[0].budgets) == "latency=5ms" and str(rounds[1].budgets) == "latency=3.2ms"


def test_a_machine_that_slows_down_between_two_rounds_does_not_move_a_share(monkeypatch) -> None:
    class FlaggingMachine:
        speed = 1.0

        def convert(self, model, path):
            path.write_text(str(model if isinstance(model, float) else 10.0))
            return path

        def measure(self, models):
            self.speed *= 0.8
            return {name: float(path.read_text()) / self.speed for name, path in models.items()}

    def halve_exactly(request, *_):
        asked = next(iter(request.budget)).amount
        return as_pruned(0.96 * 10.0 * asked / (10.0 / 0.8))

    monkeypatch.setattr(closed_loop, "prune_prepared", halve_exactly)
    predictor = Predictor("board", "int8", np.ones(7))
    request = Asked(Budgets.parse("latency=50%"), Deployment(predictor=predictor))
    _, rounds, warnings = closed_loop.prune_to_measured(
        request, make_classifier(), None, FlaggingMachine(), SILENT
    )
    assert rounds[0].measured_ms == pytest.approx(0.96 * 0.5 * 10 / 0.8)
    assert [str(turn.budgets) for turn in rounds[1:]] == ["macs=6"]
    assert not warnings


@pytest.mark.parametrize(
    ("rival_ms", "rival_accuracy", "taken"),
    [(4.9, 0.9, "macs"), (4.9, 0.7, "latency"), (5.1, 0.9, "latency")],
)
def test_widths_chosen_by_macs_win_if_they_are_as_fast_and_better_on_validation(
    rival_ms, rival_accuracy, taken, monkeypatch
) -> None:
    class Machine:
        def convert(self, model, path):
            path.write_text(str(model if isinstance(model, float) else 10.0))
            return path

        def measure(self, models):
            return {name: float(path.read_text()) for name, path in models.items()}

    def prune_anyhow(request, *_):
        by_macs = next(iter(request.budget)).quantity == "macs"
        return as_pruned(rival_ms, rival_accuracy) if by_macs else as_pruned(4.8, 0.8)

    monkeypatch.setattr(closed_loop, "prune_prepared", prune_anyhow)
    predictor = Predictor("board", "int8", np.ones(7))
    request = Asked(Budgets.parse("latency=50%"), Deployment(predictor=predictor))
    pruned, rounds, _ = closed_loop.prune_to_measured(
        request, make_classifier(), None, Machine(), SILENT
    )
    assert [turn.measured_ms for turn in rounds] == [4.8, rival_ms]
    assert pruned.model == (rival_ms if taken == "macs" else 4.8)
