"""A short form of `make fuzz`, and what the campaign itself promises."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from random import Random

import keras
import networks
import pytest
from fuzzing import campaign, hostile_boards, killed_builds

from edgeprune.tflite import convert_in_detail

if not hasattr(keras.layers, "AdaptiveMaxPooling2D"):
    pytest.skip("the grammar draws layers that this Keras lacks", allow_module_level=True)
from fuzzing import random_graphs


@pytest.mark.parametrize("seed", range(1000, 1006))
def test_a_random_network_keeps_its_promises_in_every_form(seed: int) -> None:
    """More of them in `test_random_graphs.py`, as drawn."""
    try:
        random_graphs.check(seed)
    except random_graphs.UnrunnableError:
        pytest.skip("plain Keras cannot run what this seed draws")


@pytest.mark.parametrize("seed", [2, 66, 71, 114, 210, 270])
def test_a_network_that_int8_once_lost_follows_again(seed: int) -> None:
    model = networks.randomize(random_graphs.draw_runnable(Random(seed)))
    samples = networks.random_inputs(model, samples=6, size=5)
    made = convert_in_detail(model, calibration=samples if len(samples) > 1 else samples[0])
    assert made.error < 0.3


@pytest.mark.skipif(sys.platform != "linux", reason="it looks into /proc")
def test_a_killed_build_leaves_the_earlier_files_or_the_new_ones() -> None:
    killed_builds.check(1)


def test_the_seeds_decide_what_is_tried() -> None:
    assert hostile_boards.hostile_board(3) == hostile_boards.hostile_board(3)
    boards = [json.dumps(hostile_boards.hostile_board(seed)) for seed in range(30)]
    assert len(set(boards)) > 20


def test_a_campaign_goes_on_where_it_was_and_counts_what_failed(
    tmp_path: Path, monkeypatch, capsys
) -> None:
    tried: list[int] = []

    def try_batch(kind: str, seeds: list[int]):
        for seed in seeds:
            tried.append(seed)
            if len(tried) == 3:
                raise KeyboardInterrupt
            yield seed, {4: "wrong", 6: "unrunnable"}.get(seed, "")
            if seed == 4:
                return  # its process ended

    monkeypatch.setattr(campaign, "try_batch", try_batch)
    log = tmp_path / "log"
    with pytest.raises(KeyboardInterrupt):
        campaign.run("graphs", 5, 3, log)
    with log.open("a") as file:
        file.write('["graphs", 5, "')  # the line that was being written
        file.write("\n")
    assert campaign.run("graphs", 5, 3, log) == [4]
    assert tried == [3, 4, 5, 5, 6, 7]
    assert campaign.run("graphs", 5, 3, log) == [4]
    assert len(tried) == 6
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == "graphs: 5 seeds, 1 that plain Keras cannot run, 1 failed: [4]"


def test_a_seed_that_ends_its_process_or_hangs_is_a_failure(monkeypatch, tmp_path: Path) -> None:
    program = tmp_path / "campaign.py"
    program.write_text(
        "import json, os, sys, time\n"
        "for seed in map(int, sys.argv[3:]):\n"
        "    os.abort() if seed == 2 else None\n"
        "    time.sleep(600 if seed == 5 else 0)\n"
        "    print(json.dumps(''), flush=True)\n"
    )
    monkeypatch.setattr(campaign, "__file__", str(program))
    (first, (seed, said)) = campaign.try_batch("boards", [1, 2, 3])
    assert first == (1, "")
    assert seed == 2 and "ended the process (exit -6)" in said
    monkeypatch.setattr(campaign, "SEED_SECONDS", 1.0)
    assert "it took 1 s" in dict(campaign.try_batch("boards", [5, 6]))[5]
