from __future__ import annotations

import json
from pathlib import Path

import pytest
from specialists import make_classifier, run_command, save_digits

from edgeprune.pruning.methods import METHODS
from edgeprune.scoring.criteria import CRITERIA
from edgeprune.surgery.plan import Plan


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("methods")
    save_digits(folder / "digits.npz")
    make_classifier().save(folder / "model.keras")
    return folder


def prune(place: Path, out: Path, options: str) -> tuple[dict, Plan]:
    command = f"prune {place}/model.keras --data {place}/digits.npz --classes 8,3 --calibration 20"
    options += f" --effort fast --json --out {out}/slim.keras"
    answer = run_command(*f"{command} {options}".split())
    assert answer.code == 0, answer.err
    result = json.loads(answer.out)
    return result, Plan.load(result["plan"])


@pytest.mark.parametrize("method", METHODS)
def test_every_method_prunes_from_the_command_line(place, tmp_path, method) -> None:
    quick = "--recovery mean --recalibrate off --time-limit 1"
    result, plan = prune(place, tmp_path, f"--method {method} {quick}")
    assert (result["method"], result["recovery"]) == (method, "mean")
    assert result["macs"]["after"] <= 0.5 * result["macs"]["before"]
    assert plan.keep


def test_names_beside_a_method_replace_its_own(place, tmp_path) -> None:
    quick = "--recovery none --recalibrate off"
    plans = [
        prune(place, tmp_path, f"--method {method} --criterion l1 --allocation gain {quick}")[1]
        for method in ("chapr", "specialist")
    ]
    assert plans[0] == plans[1]
    assert plans[0] != prune(place, tmp_path, f"--method chapr {quick}")[1]


def test_all_criteria_are_listed_with_their_sources() -> None:
    listed = json.loads(run_command("methods", "--json").out)["criteria"]
    assert set(listed) == set(CRITERIA)
    for name, text in listed.items():
        assert name == "random" or "After " in text or "Ours" in text, name
