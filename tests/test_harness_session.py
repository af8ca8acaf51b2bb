"""What the harness can do beside timing: a batch, windows for energy, an environment of its own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import small_models
from jsonschema import Draft202012Validator

from edgeprune.energy.windowed_energy import EnergyRules, PowerSeries, estimate_energy
from edgeprune.tflite import convert
from edgeprune.tflite.runtime import TFLiteModel

ROOT = Path(__file__).resolve().parent.parent
HARNESS = ROOT / "devices" / "harness"
QUICK = ["--runs", "20", "--seconds", "0.1", "--warmup", "0.1"]


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    model = small_models.classifier()
    paths = {"float": folder / "float.tflite", "int8": folder / "int8.tflite"}
    convert(model, scheme="float32", path=paths["float"])
    convert(model, calibration=small_models.samples(20), io="int8", path=paths["int8"])
    return paths


def run(*words: object, program: Path = HARNESS, python: str = sys.executable, **options) -> dict:
    command = [python, "-I", str(program), *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, **options)
    document = json.loads(done.stdout)
    schema = json.loads((HARNESS / "measurement.schema.json").read_text())
    Draft202012Validator(schema).validate(document)
    return document


def test_accuracy_on_a_batch_is_that_of_the_same_file_elsewhere(models, tmp_path) -> None:
    samples = small_models.samples(50)
    labels = small_models.classifier().predict(samples, verbose=0).argmax(-1)
    labels[:5] = (labels[:5] + 1) % (labels.max() + 1)
    np.savez(tmp_path / "batch.npz", inputs=samples, labels=labels)
    document = run(*models.values(), "--batch", tmp_path / "batch.npz", *QUICK)
    for entry, path in zip(document["models"], models.values(), strict=True):
        answers = TFLiteModel(path).predict(samples).argmax(-1)
        assert entry["accuracy"]["count"] == 50
        assert entry["accuracy"]["correct"] == int((answers == labels).sum())
    np.savez(tmp_path / "bare.npz", inputs=samples)
    document = run(models["int8"], "--batch", tmp_path / "bare.npz", *QUICK)
    assert document["models"][0]["accuracy"]["correct"] is None


@pytest.mark.parametrize(
    ("arrays", "complaint"),
    [
        ({"x": np.zeros(3)}, "has no array 'inputs' with samples"),
        (
            {"inputs": np.zeros((4, 2)), "labels": np.zeros(3)},
            "has 4 inputs, but labels of shape (3,)",
        ),
        ({"inputs": np.zeros((4, 2))}, "the batch has (2,)"),
        ({"inputs": np.array([{}], dtype=object)}, "Object arrays cannot be loaded"),
    ],
)
def test_a_batch_that_does_not_fit_is_one_line(models, tmp_path, arrays, complaint) -> None:
    np.savez(tmp_path / "batch.npz", **arrays)
    assert complaint in run(models["float"], "--batch", tmp_path / "batch.npz", *QUICK)["error"]


FAKE_METER = """

class Level:
    kind, period = "metered", 0.01
    def __init__(self, root="/", detail=""): pass
    def read(self): return 4.0
    def close(self): pass

METERS["hwmon"] = Level
"""


@pytest.fixture
def with_a_meter(tmp_path) -> Path:
    """The harness with a meter that always shows 4 W."""
    program = tmp_path / "harness"
    shutil.copytree(HARNESS, program, ignore=shutil.ignore_patterns("__pycache__"))
    with (program / "meters.py").open("a") as source:
        source.write(FAKE_METER)
    return program


def test_windows_and_readings_of_a_meter_become_energy(models, with_a_meter) -> None:
    document = run(
        *models.values(), "--meter", "hwmon", "--window", 0.6, "--repeats", 2, *QUICK,
        program=with_a_meter,
    )  # fmt: skip
    measured = document["energy"]
    assert measured["meter"] == {"name": "hwmon", "kind": "metered", "period": 0.01}
    assert measured["problem"] is None
    order = [window["model"] for window in measured["windows"]]
    assert order == [None, 0, None, 1, None, 0, None, 1, None]
    moments = [(window["start"], window["end"]) for window in measured["windows"]]
    assert moments == sorted(moments)
    series = PowerSeries.from_readings(measured["readings"], 0.01)
    rules = EnergyRules(seconds=0.6, samples=5, repeats=2, gap_periods=100)
    for index in range(2):
        energy = estimate_energy(
            measured["windows"], series, index, kind="metered", meter="hwmon", rules=rules
        )
        busy = [window for window in measured["windows"] if window["model"] == index]
        joules = [4.0 * (window["end"] - window["start"]) for window in busy]
        each = [1e3 * j / w["inferences"] for j, w in zip(joules, busy, strict=True)]
        assert energy.total_mj == pytest.approx(np.mean(each))
        assert energy.above_idle_mj == pytest.approx(0, abs=1e-9)
        assert all(window["inferences"] >= 100 for window in busy)


def test_windows_for_a_meter_elsewhere_have_no_readings(models) -> None:
    document = run(models["int8"], "--energy", "--window", 0.05, "--repeats", 1, *QUICK)
    assert document["energy"]["meter"] is None
    assert document["energy"]["readings"] is None
    assert len(document["energy"]["windows"]) == 3
    clock = document["energy"]["clock"]
    assert clock["start"]["monotonic"] < clock["end"]["monotonic"]


def test_a_machine_that_slows_itself_down_is_flagged_or_refused(models, tmp_path) -> None:
    """With a cooling device of a copied /sys in place of this machine's."""
    program = tmp_path / "harness"
    shutil.copytree(HARNESS, program, ignore=shutil.ignore_patterns("__pycache__"))
    device = tmp_path / "sys/class/thermal/cooling_device0"
    device.mkdir(parents=True)
    (device / "type").write_text("cpufreq-cpu0\n")
    (device / "cur_state").write_text("2\n")
    session = (program / "session.py").read_text()
    changed = session.replace("throttling.Watch()", f"throttling.Watch({str(tmp_path)!r})")
    assert changed != session
    (program / "session.py").write_text(changed)
    reason = "the kernel lowered the clock for heat (cpufreq-cpu0)"
    document = run(models["int8"], *QUICK, program=program)
    assert document["environment"]["throttling"] == {
        "watched": ["cooling devices"], "reasons": [reason],
    }  # fmt: skip
    document = run(models["int8"], "--refuse-throttled", *QUICK, program=program)
    assert document["error"] == f"the machine is slowing itself down: {reason}"


def find_python(version: str) -> str | None:
    """An interpreter of another version: of the system, or of pyenv."""
    places = [shutil.which(f"python{version}")]
    places += sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin/python"))
    for place in filter(None, places):
        if subprocess.run([place, "-c", ""], capture_output=True).returncode == 0:
            return str(place)
    return None


@pytest.mark.slow
@pytest.mark.parametrize(
    ("version", "packages"),
    [
        ("3.9", ["tflite-runtime==2.14.*", "numpy<2"]),
        *((version, ["ai-edge-litert", "numpy"]) for version in ("3.9", "3.11", "3.13", "3.14")),
    ],
)
def test_the_folder_alone_runs_where_there_is_only_numpy_and_a_runtime(
    models, tmp_path, version, packages
) -> None:
    python = find_python(version)
    if python is None:
        pytest.skip(f"there is no Python {version} here")
    subprocess.run([python, "-m", "venv", str(tmp_path / "venv")], check=True)
    own = str(tmp_path / "venv" / "bin" / "python")
    install = [own, "-m", "pip", "install", "--quiet", "--only-binary=:all:", *packages]
    if subprocess.run(install, capture_output=True).returncode:
        pytest.skip("the packages cannot be had here")
    shutil.copytree(HARNESS, tmp_path / "alone", ignore=shutil.ignore_patterns("__pycache__"))
    clean = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    document = run(
        models["int8"], *QUICK, "--profile",
        program=tmp_path / "alone", python=own, env=clean, cwd=tmp_path,
    )  # fmt: skip
    assert document["models"][0]["latency"]["count"] == 20
    assert document["models"][0]["profile"], "the parts were timed too"
    assert document["environment"]["software"]["python"].startswith(version)
    assert document["models"][0]["cold"]["memory_peak_bytes"] < 120e6
    assert document["process"]["memory_peak_bytes"] < 120e6


def test_setting_a_raspberry_pi_up_twice_changes_nothing_the_second_time(tmp_path) -> None:
    root, runtime = tmp_path / "root", tmp_path / "runtime"
    core = root / "sys/devices/system/cpu/cpu0/cpufreq"
    core.mkdir(parents=True)
    (core / "scaling_governor").write_text("ondemand\n")
    settings = root / "boot/firmware/config.txt"
    settings.parent.mkdir(parents=True)
    settings.write_text("arm_64bit=1\n#dtparam=i2c_arm=on\n")
    (runtime / "bin").mkdir(parents=True)
    (runtime / "bin" / "python").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    (runtime / "bin" / "python").chmod(0o755)
    script = ["sh", str(ROOT / "devices" / "provision" / "raspberry_pi.sh")]
    environment = {**os.environ, "EDGEPRUNE_ROOT": str(root), "EDGEPRUNE_RUNTIME": str(runtime)}

    def set_up() -> tuple[str, dict[str, str]]:
        printed = subprocess.check_output(script, env=environment, text=True)
        files = [path for path in sorted(root.rglob("*")) if path.is_file()]
        return printed, {str(path.relative_to(root)): path.read_text() for path in files}

    first, after_once = set_up()
    assert "governor: performance" in first
    assert "I2C: on after the next restart" in first
    assert (core / "scaling_governor").read_text() == "performance\n"
    assert settings.read_text().count("dtparam=i2c_arm=on") == 2
    assert "etc/systemd/system/edgeprune-governor.service" in after_once
    second, after_twice = set_up()
    assert after_twice == after_once
    assert second.splitlines() == [f"ready: Python {sys.version.split()[0]}"]


def test_setting_a_coral_up_twice_changes_nothing_the_second_time(tmp_path) -> None:
    root, python = tmp_path / "root", tmp_path / "runtime/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/sh\ncase "$2" in "import ai_edge_litert") exit 1 ;; esac\n')
    python.chmod(0o755)
    script = ["sh", str(ROOT / "devices" / "provision" / "coral.sh")]
    environment = {
        **os.environ, "EDGEPRUNE_ROOT": str(root), "EDGEPRUNE_RUNTIME": str(python.parents[1])
    }  # fmt: skip

    def set_up() -> subprocess.CompletedProcess[str]:
        return subprocess.run(script, env=environment, capture_output=True, text=True)

    without = set_up()
    assert without.returncode == 1
    assert "download the package libedgetpu1-std" in without.stderr
    library = root / "usr/lib/aarch64-linux-gnu/libedgetpu.so.1"
    library.parent.mkdir(parents=True)
    library.touch()
    first, second = set_up(), set_up()
    assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
    assert first.stdout.startswith("rule: the group plugdev may open the Edge TPU")
    assert second.stdout == ""
    rule = (root / "etc/udev/rules.d/71-edgetpu.rules").read_text()
    assert {line.split('"')[1] for line in rule.splitlines()} == {"usb", "apex"}
    assert 'ATTRS{idVendor}=="18d1"' in rule and 'ATTRS{idVendor}=="1a6e"' in rule


@pytest.mark.parametrize(
    ("version", "wanted", "answer"),
    [
        ("3.14", "ai-edge-litert", None),
        ("3.13", "ai-edge-litert", None),
        ("3.9", "tflite-runtime", None),
        ("3.8", "ai-edge-litert", "no Python 3.9 to 3.14 for ai-edge-litert: sudo apt install"),
        ("3.13", "tflite-runtime", "there is Python 3.13, for which it has no wheels: take Rasp"),
    ],
)
def test_a_python_without_wheels_is_told_what_to_do(tmp_path, version, wanted, answer) -> None:
    """With a Python that only says its version."""
    (bin := tmp_path / "bin").mkdir()
    (bin / "python3").write_text(
        f'#!/bin/sh\n[ "$1" = --version ] && echo Python {version} && exit\n'
        f'[ "$1" = -m ] && mkdir -p "$3/bin" && ln -s "$0" "$3/bin/python" && exit\n'
        f'case "$2" in *sys.version_info*) exec "{sys.executable}" -c "import sys\n'
        f'sys.version_info = ({version.replace(".", ", ")})\n$2" ;; "import ai_edge_litert") '
        "exit 1 ;; esac\n"
    )
    (bin / "python3").chmod(0o755)
    for name in ("sh", "mkdir", "ln", "rm", "getconf"):
        (bin / name).symlink_to(shutil.which(name))
    done = subprocess.run(
        ["sh", str(ROOT / "devices" / "provision" / "runtime.sh"), wanted],
        env={"PATH": str(bin), "EDGEPRUNE_RUNTIME": str(tmp_path / "runtime")},
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == (0 if answer is None else 1), done.stderr
    assert answer is None or answer in done.stderr
