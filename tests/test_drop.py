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
from edgeprune.pruning.drop_search import QUICK, meet_drop

PLAIN = edgeprune.Pruning("chapr", recalibration="off", step=1)


@pytest.mark.parametrize("edge", [0.03, 0.2, 0.5, 0.61, 0.93])
def test_the_search_ends_beside_the_smallest_share_that_passes(edge: float) -> None:
    def make(found: Budgets, training: float) -> tuple[float, float]:
        share = next(iter(found)).amount
        return share, 0.0 if share >= edge else 0.5

    made, trials = meet_drop(make, Budgets.parse("drop=1%"), "macs")
    assert 0 <= made - edge <= 0.07 and len(trials) <= 8
    assert made == min(trial.share for trial in trials if trial.lost <= 0.01)


def test_what_needs_all_its_training_is_found() -> None:
    """The loss with a share of the training is twice the loss with all of it."""

    def make(found: Budgets, training: float) -> tuple[float, float]:
        share = next(iter(found)).amount
        return share, (1 if training == 1.0 else 2) * 0.02 * (1 - share)

    made, trials = meet_drop(make, Budgets.parse("drop=1%"), "macs")
    assert 0.5 <= made <= 0.57
    assert {trial.training for trial in trials} == {QUICK, 1.0}


def test_other_budgets_are_tried_first_with_all_their_training() -> None:
    asked = []

    def make(found: Budgets, training: float) -> tuple[str, float]:
        asked.append((str(found), training))
        return str(found), 0.0

    made, trials = meet_drop(make, Budgets.parse("params=30%,drop=2%"), "macs")
    assert asked[:2] == [("params=30%", 1.0), ("params=30%,macs=50%", QUICK)]
    assert made.startswith("params=30%,macs=") and len(trials) == len(asked) <= 8


def test_a_smaller_model_that_fails_in_full_gives_way_to_the_one_that_passed() -> None:
    def make(found: Budgets, training: float) -> tuple[tuple[float, float], float]:
        share = next(iter(found)).amount
        return (share, training), 0.02 if training == 1.0 or share < 0.4 else 0.0

    made, trials = meet_drop(make, Budgets.parse("drop=1%"), "macs")
    assert made == (0.4375, QUICK)
    assert (trials[-1].share, trials[-1].training, trials[-1].lost) == (0.4375, 1.0, 0.02)


def test_what_cannot_be_had_is_said() -> None:
    lossy = lambda found, share: (found, 0.3)  # noqa: E731
    with pytest.raises(BudgetError, match=r"Not both can be had.* loses 30\.0 points.*drop=1%"):
        meet_drop(lossy, Budgets.parse("drop=1%,size=3KB"), "macs")
    with pytest.raises(BudgetError, match=r"drop=1% cannot be met.*the closest one, with .* of"):
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
        model, data, classes="three,five,eight", budget="drop=3%,params=90%", pruning=PLAIN,
        training=edgeprune.Training(seconds=None, epochs=4), out=tmp_path / "out",
        measurement=edgeprune.Measurement(latency=False),
    )  # fmt: skip
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    trials, checks = report["trials"], {check["quantity"]: check for check in report["budgets"]}
    assert 2 <= len(trials) <= 8 and trials[0]["share"] is None
    passing = [trial for trial in trials if trial["lost"] is not None and trial["lost"] <= 0.03]
    smallest = min(passing, key=lambda trial: trial["share"] or 1.0)
    assert checks["drop"]["found"] == pytest.approx(100 * smallest["lost"], abs=0.01)
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
        pruning=PLAIN, training="fast",
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
