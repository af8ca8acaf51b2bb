"""`drop=1%`: the smallest model that still is good enough."""

from __future__ import annotations

import json

import keras
import numpy as np
import pytest
from specialists import NUM_TRAIN, digits, make_classifier, run_command, save_digits

import edgeprune
from edgeprune.cost.budgets import Budgets
from edgeprune.errors import BudgetError, DataError
from edgeprune.pruning.drop_search import FINE, MOST_TRIALS, find_smallest, list_passing, meet_drop

QUICK = edgeprune.Pruning("chapr", recalibration="off", step=1)


@pytest.mark.parametrize("edge", [0.03, 0.2, 0.5, 0.61, 0.95])
def test_the_search_ends_beside_the_smallest_share_that_passes(edge: float) -> None:
    asked = []

    def make(share: float | None) -> tuple[float | None, float]:
        asked.append(share)
        return share, 0.0 if share >= edge else 0.5

    trials = find_smallest(make, 0.01, limited=False)
    assert len(asked) == len(set(asked)) == len(trials) <= MOST_TRIALS
    passing = list_passing(trials, 0.01)
    if edge < 0.95:
        assert 0 <= passing[0].share - edge <= FINE
    assert [trial.share for trial in passing] == sorted(s for s in asked if s >= edge)


def test_other_budgets_are_tried_first_and_bound_the_search() -> None:
    budgets, asked = Budgets.parse("params=30%,drop=2%"), []

    def make(found: Budgets, share: float) -> tuple[str, float]:
        asked.append((str(found), share))
        return str(found), 0.0

    made, trials = meet_drop(make, budgets, "macs")
    assert asked[0] == ("params=30%", 0.25) and asked[1] == ("params=30%,macs=50%", 0.25)
    assert asked[-1] == (made, 1.0) and len(trials) == len(asked) <= 8


@pytest.mark.parametrize(("in_full", "delivered"), [(0.02, 0.25), (0.0, 1.0)])
def test_a_model_that_loses_more_after_its_full_training_gives_way_to_its_trial(
    in_full: float, delivered: float
) -> None:
    def make(found: Budgets, share: float) -> tuple[tuple[float, float], float]:
        return (next(iter(found)).amount, share), in_full if share == 1.0 else 0.0

    made, trials = meet_drop(make, Budgets.parse("drop=1%"), "macs")
    assert made == (min(trial.share for trial in trials), delivered)
    assert trials[-1].lost == in_full


def test_what_cannot_be_had_is_said() -> None:
    lossy = lambda found, share: (found, 0.3)  # noqa: E731
    with pytest.raises(BudgetError, match=r"Not both can be had.* loses 30\.0 points.*drop=1%"):
        meet_drop(lossy, Budgets.parse("drop=1%,size=3KB"), "macs")
    with pytest.raises(BudgetError, match=r"drop=1% cannot be met.*the closest one, with 50 % of"):
        meet_drop(lossy, Budgets.parse("drop=1%"), "macs")


@pytest.mark.parametrize(
    ("text", "message"),
    [("drop=1", "Expected the points"), ("drop=-1%", "Expected the points"), ("drop=", "Expected"),
     ("drop=1%,drop=2%", "two budgets for drop"), ("drop=100%", "out of range")],
)  # fmt: skip
def test_a_drop_that_cannot_be_meant_is_refused(text: str, message: str) -> None:
    with pytest.raises(BudgetError, match=message):
        Budgets.parse(text)


def test_a_build_delivers_a_file_that_loses_no_more(tmp_path) -> None:
    data = edgeprune.Data(save_digits(tmp_path / "d.npz"), calibration=20, validation=30, test=300)
    model = make_classifier()
    built = edgeprune.build(
        model, data, classes="three,five,eight", budget="drop=3%,params=90%", pruning=QUICK,
        training=edgeprune.Training(seconds=None, epochs=4), out=tmp_path / "out",
        measurement=edgeprune.Measurement(latency=False),
    )  # fmt: skip
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    trials, checks = report["trials"], {check["quantity"]: check for check in report["budgets"]}
    assert 2 <= len(trials) <= 8 and trials[0]["share"] is None
    assert checks["drop"]["found"] == pytest.approx(100 * trials[-1]["lost"], abs=0.01)
    assert checks["drop"]["found"] <= checks["drop"]["limit"] == pytest.approx(3.0)
    assert built.outcome.params.after <= 0.9 * built.outcome.params.before
    lost = built.outcome.accuracy["original_subset"] - built.outcome.accuracy["tflite"]
    assert lost < 0.1 and built.outcome.macs.after < 0.6 * built.outcome.macs.before


def test_prune_finds_the_fewest_macs(tmp_path) -> None:
    x, y = digits()
    x = x.astype(np.float32)
    held_out = x[:NUM_TRAIN][::4], y[:NUM_TRAIN][::4]
    model = make_classifier()
    pruned = edgeprune.prune(
        model, (x[1:NUM_TRAIN:4], y[1:NUM_TRAIN:4]), validation=held_out, budget="drop=2%",
        pruning=QUICK, training="fast",
    )  # fmt: skip

    def right(found: keras.Model) -> float:
        return float((found.predict(held_out[0], verbose=0).argmax(-1) == held_out[1]).mean())

    assert right(model) - right(pruned.model) <= 0.02
    assert pruned.after.macs < pruned.before.macs
    with pytest.raises(DataError, match="class indices"):
        edgeprune.prune(model, x[:40], budget="drop=2%")


def test_the_command_says_that_both_cannot_be_had(tmp_path) -> None:
    model, data = tmp_path / "model.keras", save_digits(tmp_path / "digits.npz")
    make_classifier().save(model)
    answer = run_command(
        "build", model, "--data", data, "--budget", "drop=0%,macs=3%", "--step", 1, "--effort",
        "fast", "--method", "chapr", "--calibration", 10, "--validation", 20, "--no-bench",
        "--out", tmp_path / "out",
    )  # fmt: skip
    assert answer.code == 2 and "Not both can be had" in answer.error
    assert not (tmp_path / "out").exists()
