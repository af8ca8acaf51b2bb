"""Boards as files: those that edgeprune brings along, and a user's own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from edgeprune.boards import find_own_targets, find_target, list_targets, read_target
from edgeprune.boards.target_checks import SCHEMES
from edgeprune.errors import EdgepruneError
from edgeprune.tflite import SCHEMES as CONVERTIBLE

ROOT = Path(__file__).resolve().parent.parent
PI_4 = {"board": "Raspberry Pi 4 Model B Rev 1.4", "architecture": "aarch64"}
OWN = """
description = "A board of mine"
architecture = "aarch64"
cpu = "2x Cortex-A55, 1.2 GHz"
threads = 2
channel_step = 16
scheme = "int8"
runtime = "ai-edge-litert"

[figures]
clock = { value = 1.2, unit = "GHz", source = "its data sheet" }

[prediction]
pointwise = 0.5
"""


@pytest.fixture(autouse=True)
def settings(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    folder = tmp_path / "edgeprune" / "targets"
    folder.mkdir(parents=True)
    return folder


def test_the_promised_targets_exist() -> None:
    assert [target.name for target in list_targets()] == [
        "coral-dev-board",
        "coral-m2",
        "coral-usb",
        "jetson-nano",
        "rpi-zero2w",
        "rpi3b-plus",
        "rpi4",
        "rpi5",
        "x86-64",
    ]


@pytest.mark.parametrize("target", list_targets(), ids=lambda target: target.name)
def test_every_target_is_complete_and_every_figure_has_a_source(target) -> None:
    assert target.scheme in CONVERTIBLE
    assert target.channel_step == 8
    assert 1 <= target.threads <= (target.cores or 4)
    assert all(len(figure.source) >= 5 for figure in target.figures)
    if target.name != "x86-64":  # PCs differ
        stated = {figure.name for figure in target.figures}
        assert {"clock", "simd", "cache_l1d", "cache_l2"} <= stated
        assert any(name.startswith("power_load") for name in stated)
    if target.host_board:
        assert find_target(target.host_board).architecture == target.architecture


def test_every_format_that_can_be_made_can_be_preferred() -> None:
    assert set(CONVERTIBLE) <= set(SCHEMES)


def test_an_unknown_target_gets_a_suggestion() -> None:
    with pytest.raises(EdgepruneError) as caught:
        find_target("RPI-4")
    assert str(caught.value) == (
        "Unknown target 'RPI-4'. Did you mean 'rpi4'? There are coral-dev-board, coral-m2, "
        "coral-usb, jetson-nano, rpi-zero2w, rpi3b-plus, rpi4, rpi5, x86-64."
    )
    with pytest.raises(EdgepruneError, match=r"^Unknown target 'toaster'\. There are coral-dev"):
        find_target("toaster")


def test_a_users_file_in_the_settings_folder_is_a_target(settings) -> None:
    assert find_own_targets() == settings
    (settings / "my-board.toml").write_text(OWN)
    target = find_target("my-board")
    assert target.channel_step == 16
    assert target.prediction == {"pointwise": 0.5}
    assert target.figure("clock").value == 1.2
    assert target.figure("simd") is None
    assert target.energy_meter == "none"
    assert "my-board" in [entry.name for entry in list_targets()]


def test_a_file_named_by_its_path_is_a_target(tmp_path) -> None:
    path = tmp_path / "bench" / "my-board.toml"
    path.parent.mkdir()
    path.write_text(OWN)
    target = find_target(str(path))
    assert (target.name, target.file) == ("my-board", str(path))
    with pytest.raises(EdgepruneError) as caught:
        find_target(str(tmp_path / "gone.toml"))
    assert str(caught.value) == (
        f"Cannot read the target '{tmp_path}/gone.toml': No such file or directory."
    )


def test_a_file_may_state_only_what_differs_from_a_shipped_target(settings) -> None:
    (settings / "rpi4.toml").write_text(
        'based_on = "rpi4"\nthreads = 2\n[figures]\n'
        'power_idle = { value = 3.1, unit = "W", source = "my meter" }\n'
    )
    own = find_target("rpi4")
    shipped = read_target(ROOT / "devices" / "boards" / "rpi4.toml")
    assert own.threads == 2
    assert own.figure("power_idle").value == 3.1
    assert own.figure("cache_l2") == shipped.figure("cache_l2")
    assert own.cpu == shipped.cpu
    assert [target.name for target in list_targets()].count("rpi4") == 1


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (("threads = 2", "thread = 2"), "unknown key 'thread' (did you mean 'threads'?); missing: "
                                        "threads"),
        (("threads = 2", "threads = 0"), "'threads' is 0, expected a whole number from 1"),
        (("threads = 2", "threads = true"), "'threads' is True, expected a whole number from 1"),
        (('"int8"', '"int4"'), "'scheme' is 'int4', expected one of float32, float16, dynamic, "
                               "int8, int16x8, int8-qat"),
        (('"aarch64"', '"arm"'), "'architecture' is 'arm', expected one of aarch64, armv7l, "
                                 "x86_64"),
        ((', source = "its data sheet"', ""), "figure 'clock' has no source"),
        ((', unit = "GHz"', ""), "figure 'clock' has no unit"),
        (("value = 1.2", "value = [2, 1]"), "figure 'clock' has no value: a number, [lowest, "
                                            "highest] or a text"),
        (("value = 1.2", "valu = 1.2"), "figure 'clock' must be a table of value, unit and source"),
        (("threads = 2", 'based_on = "toaster"\nthreads = 2'),
         "'based_on' is 'toaster', expected one of coral-dev-board, coral-m2, coral-usb, "
         "jetson-nano, rpi-zero2w, rpi3b-plus, rpi4, rpi5, x86-64"),
        (("threads = 2", 'device = "tpu:1"\nthreads = 2'),
         "'device' is 'tpu:1', expected usb, pci, usb:0 or the like"),
        (("[prediction]\npointwise = 0.5", ""), None),
    ],
)  # fmt: skip
def test_every_mistake_of_a_file_is_told_at_once(settings, change, complaint) -> None:
    path = settings / "mine.toml"
    assert change[0] in OWN
    path.write_text(OWN.replace(*change))
    if complaint is None:
        assert find_target("mine").prediction == {}
        return
    with pytest.raises(EdgepruneError) as caught:
        find_target("mine")
    assert str(caught.value) == f"'{path}' does not describe a target: {complaint}."


def test_several_mistakes_are_one_line(settings) -> None:
    (settings / "mine.toml").write_text('threads = "two"\ncolour = 1\n[figures]\nclock = 5\n')
    with pytest.raises(EdgepruneError) as caught:
        find_target("mine")
    for part in ("'threads' is 'two'", "unknown key 'colour'", "figure 'clock'", "missing: desc"):
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)


def test_text_that_is_no_toml_is_named(settings) -> None:
    (settings / "mine.toml").write_text("description = ")
    with pytest.raises(EdgepruneError, match=r"mine\.toml' does not describe a target: "):
        list_targets()
    assert find_target("rpi4").name == "rpi4", "one broken file does not stop the others"


def test_a_machine_is_recognised_as_its_target() -> None:
    assert find_target("rpi4").is_machine(PI_4)
    assert not find_target("rpi5").is_machine(PI_4)
    assert not find_target("coral-usb").is_machine(PI_4), "its CPU is not the Edge TPU"
    assert not find_target("x86-64").is_machine(PI_4)
    assert find_target("x86-64").is_machine({"board": None, "architecture": "x86_64"})


def test_the_command_lists_a_users_target_with_all_its_facts(settings) -> None:
    (settings / "my-board.toml").write_text(OWN)
    command = [sys.executable, "-m", "edgeprune", "targets"]
    listed = json.loads(subprocess.check_output([*command, "--json"], cwd=ROOT))
    entry = next(entry for entry in listed if entry["name"] == "my-board")
    assert entry["figures"][0]["source"] == "its data sheet"
    assert entry["file"] == str(settings / "my-board.toml")
    assert "my-board" in subprocess.check_output(command, cwd=ROOT, text=True)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ("[prediction]\nint8 = 3", "'prediction.int8' is 3, expected a table"),
        ('[prediction.int8]\nerror = "x"',
         "'prediction.int8.error' is 'x', expected a finite number from 0"),
        ("[prediction.int8.coefficients]\noperators = nan",
         "'prediction.int8.coefficients' is {'operators': nan}, expected a table of finite "
         "numbers"),
        ("[prediction.int8.kernels]\nrows = 0.5",
         "'prediction.int8.kernels.rows' is 0.5, expected a whole number from 1"),
        ("[prediction.float32]\nkernels = 2",
         "'prediction.float32.kernels' is 2, expected a table"),
    ],
)  # fmt: skip
def test_values_of_a_wrong_type_in_the_tables_of_a_file_are_told(
    settings, change, complaint
) -> None:
    path = settings / "mine.toml"
    path.write_text(OWN.replace("[prediction]\npointwise = 0.5", change))
    with pytest.raises(EdgepruneError) as caught:
        find_target("mine")
    assert str(caught.value) == f"'{path}' does not describe a target: {complaint}."


@pytest.mark.parametrize(
    "text",
    ["figures = 3", "figures = [1]", "prediction = 1",
     "[figures]\na = {value='x', unit=3, source='y'}"],
)  # fmt: skip
def test_wrong_types_beside_a_base_are_told(settings, text) -> None:
    (settings / "mine.toml").write_text(f'based_on = "rpi4"\n{text}\n')
    with pytest.raises(EdgepruneError, match="does not describe a target"):
        find_target("mine")


def test_a_pipe_in_place_of_a_file_is_never_waited_for(tmp_path) -> None:
    os.mkfifo(tmp_path / "pipe.toml")
    with pytest.raises(EdgepruneError, match="it is no file but"):
        find_target(str(tmp_path / "pipe.toml"))
