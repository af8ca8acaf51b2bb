"""Models compiled for the Edge TPU, run through the runtime's own interface by a stand-in."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import edgetpu_stand_in as stand_in
import numpy as np
import pytest
import ssh_server
from PIL import Image
from specialists import make_classifier, run_command, save_digits
from test_harness import load

from edgeprune.benchmarking import SshTransport, bench
from edgeprune.boards import find_target
from edgeprune.errors import BenchmarkError
from edgeprune.support.resources import find_folder
from edgeprune.tflite.metadata import attach_files

REASON = stand_in.why_there_is_none()
pytestmark = pytest.mark.skipif(REASON is not None, reason=REASON or "")
QUICK = {"runs": 12, "seconds": 0.1, "warmup": 0.1, "threads": 1}
SAMPLES = 5
HERE = replace(find_target("coral-usb"), name="coral-here", architecture="x86_64", board=None)


class Pair:
    """A compiled model with its twin, the library, and where its answers lie."""

    def __init__(self, folder: Path, data: Path) -> None:
        stem = data / "coral" / "mobilenet_v1_0.25_128_quant"
        self.compiled, self.twin = Path(f"{stem}_edgetpu.tflite"), Path(f"{stem}.tflite")
        self.library = stand_in.build(folder)
        self.answers = folder / "answers"
        self.batch = folder / "batch.npz"
        photo = Image.open(data / "coral" / "cat.bmp").convert("RGB")
        self.photo = np.asarray(photo.resize((128, 128), Image.Resampling.BILINEAR))[None]
        twin = self.twin.read_bytes()
        draw = np.random.default_rng(7)
        samples = draw.integers(0, 256, (SAMPLES, 128, 128, 3), np.uint8)
        self.labels = [stand_in.answer(twin, sample[None]).argmax() for sample in samples]
        np.savez(self.batch, inputs=samples, labels=self.labels)
        inputs = [stand_in.made_up_inputs(twin), self.photo, *(one[None] for one in samples)]
        stand_in.write_answers(self.answers, self.compiled.read_bytes(), twin, inputs)
        digests = b"".join(stand_in.answer(twin, one[None]).tobytes() for one in samples)
        self.digest = hashlib.sha256(digests).hexdigest()

    @property
    def environment(self) -> dict[str, str]:
        folder = self.library.parent
        return {"LD_LIBRARY_PATH": str(folder), "STAND_IN_ANSWERS": str(self.answers)}


@pytest.fixture(scope="module")
def pair(tmp_path_factory, shared_data) -> Pair:
    return Pair(tmp_path_factory.mktemp("stand_in"), shared_data)


@pytest.fixture
def installed(pair, monkeypatch) -> Pair:
    """The stand-in where the dynamic linker of a process of this one finds it."""
    for name, value in pair.environment.items():
        monkeypatch.setenv(name, value)
    return pair


def test_a_compiled_model_is_measured_beside_its_twin_on_the_cpu(installed) -> None:
    models = {"chip": installed.compiled, "cpu": installed.twin}
    result = bench(models, target=HERE, batch=installed.batch, **QUICK)
    chip, cpu = result.measurements
    assert (chip.delegate, cpu.delegate) == (stand_in.WORDS, None)
    assert chip.outputs_sha256 == cpu.outputs_sha256 == installed.digest
    assert (chip.accuracy, cpu.accuracy) == (1.0, 1.0)
    assert not chip.on_target and not cpu.on_target, "neither is an Edge TPU"
    assert "stand-in" in str(chip) and "stand-in" not in str(cpu)
    assert (
        f"{stand_in.WORDS} does not say that it is libedgetpu: its figures are no Edge TPU's"
        in result.warnings
    )


def test_every_output_of_a_stand_in_says_so(installed, tmp_path) -> None:
    quick = ("--runs", 12, "--seconds", 0.1, "--warmup", 0.1, "--threads", 1)
    table = run_command("bench", installed.compiled, installed.twin, *quick)
    assert table.code == 0, table.err
    assert f"Measured on {bench_machine()} with {stand_in.WORDS}" in " ".join(table.out.split())
    lines = run_command("bench", installed.compiled, *quick, "--json", "--out", tmp_path / "out")
    (row,) = json.loads(lines.out)["measurements"]
    assert "stand-in" in row["where"]
    assert "stand-in" in (tmp_path / "out" / "measurement.csv").read_text()


def bench_machine() -> str:
    from edgeprune.benchmarking.measurements import describe_machine

    sys.path.insert(0, str(find_folder("devices") / "harness"))
    try:
        import environment
    finally:
        sys.path.pop(0)
    return describe_machine(environment.read_machine())


@pytest.mark.skipif(
    ssh_server.why_there_is_none() is not None, reason=ssh_server.why_there_is_none() or ""
)
def test_a_compiled_model_is_measured_on_a_board(pair, tmp_path) -> None:
    server = ssh_server.make_server(tmp_path)
    words = " ".join(f"{name}={value}" for name, value in pair.environment.items())
    with (server.folder / "sshd_config").open("a") as file:
        file.write(f"SetEnv {words}\n")
    server.start()
    try:
        board = SshTransport("board", config=server.config, python=sys.executable)
        models = {"chip": pair.compiled, "cpu": pair.twin}
        result = bench(models, target=HERE, transport=board, batch=pair.batch, **QUICK)
    finally:
        server.stop()
    assert result["chip"].delegate == stand_in.WORDS
    assert result["chip"].outputs_sha256 == result["cpu"].outputs_sha256 == pair.digest


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("no-device", "no Edge TPU usb is connected: there is no USB device 1a6e:089a or 18d1:"),
        ("crash", "crashed (SIGSEGV): libedgetpu.so.1 does not fit ai-edge-litert "),
        ("refuses", "its library takes none of its operators; libedgetpu 16.0TF2.17.0 fits"),
        ("version", "Package requires runtime version (14), which is newer than this runtime ver"),
        ("lost:0", "the Edge TPU stopped answering (Failed to execute request: USB transfer err"),
        ("lost:7", "the Edge TPU stopped answering (Failed to execute request: USB transfer err"),
    ],
)
def test_what_goes_wrong_on_the_chip_is_one_line(installed, monkeypatch, how, message) -> None:
    monkeypatch.setenv("STAND_IN_FAILS", how)
    with pytest.raises(BenchmarkError) as caught:
        bench(installed.compiled, target=HERE, **QUICK)
    text = str(caught.value)
    assert text.startswith("Cannot measure: ")
    assert message in text
    assert "\n" not in text and len(text) < 330


@pytest.mark.parametrize(
    ("library", "message"),
    [
        ("libnowhere.so.1", "libnowhere.so.1 is not installed: sudo devices/provision/coral.sh"),
        ("libc.so.6", "libc.so.6 is not the Edge TPU's library: it has no delegate"),
        (__file__, f"{__file__} does not load: {__file__}: invalid ELF header"),
    ],
)
def test_a_library_that_is_none_is_one_line(pair, library, message) -> None:
    with pytest.raises(BenchmarkError, match="Cannot measure") as caught:
        bench(pair.compiled, target=replace(HERE, delegate=library), **QUICK)
    assert message in str(caught.value)


def test_another_device_is_asked_for_by_name(installed) -> None:
    with pytest.raises(BenchmarkError, match="no Edge TPU usb:4 is connected"):
        bench(installed.compiled, target=replace(HERE, device="usb:4"), **QUICK)


@pytest.fixture
def board(tmp_path) -> Path:
    """The files of a machine with two USB accelerators, and one on PCIe."""
    for number, ids in enumerate(["1d6b:0002", "1a6e:089a", "18d1:9302"]):
        folder = tmp_path / f"sys/bus/usb/devices/1-{number}"
        folder.mkdir(parents=True)
        facts = dict(zip(("idVendor", "idProduct"), ids.split(":"), strict=True))
        for name, text in (facts | {"busnum": "1", "devnum": str(number + 4)}).items():
            (folder / name).write_text(text + "\n")
    (tmp_path / "dev/bus/usb/001").mkdir(parents=True)
    for node in ("bus/usb/001/005", "bus/usb/001/006", "apex_0"):
        (tmp_path / "dev" / node).touch()
    return tmp_path


def test_a_device_that_does_not_open_is_explained_from_the_systems_files(
    board, monkeypatch
) -> None:
    module = load("edgetpu", monkeypatch)
    assert module.find_devices(str(board)) == [
        ("usb", f"{board}/dev/bus/usb/001/005"),
        ("usb", f"{board}/dev/bus/usb/001/006"),
        ("pci", f"{board}/dev/apex_0"),
    ]
    explain = module.explain_absence
    assert explain("usb:2", str(board)).startswith("there is no Edge TPU usb:2: only ")
    assert "001/006 does not answer: plug it in again" in explain("usb:1", str(board))
    holder = board / "proc/4242/fd"
    holder.mkdir(parents=True)
    (holder / "7").symlink_to(board / "dev/apex_0")
    assert explain("pci", str(board)).endswith("apex_0 is busy: process 4242 has it open")
    monkeypatch.setattr(os, "access", lambda node, mode: not node.endswith("005"))
    assert explain("usb", str(board)) == (
        f"this user may not use the Edge TPU {board}/dev/bus/usb/001/005: sudo devices/provision/"
        "coral.sh, then plug it in again and log in again"
    )


def test_a_target_without_an_edge_tpu_says_which_has_one(pair) -> None:
    answer = run_command("bench", pair.compiled, "--target", "rpi4")
    assert answer.code == 2
    assert answer.error == (
        f"Error: '{pair.compiled.name}' is compiled for the Edge TPU, and target 'rpi4' has none. "
        "Give --target coral-usb or the like, or the .tflite it was compiled from (the name "
        "without '_edgetpu')."
    )


def test_only_a_library_that_says_it_is_libedgetpu_makes_a_machine_the_target() -> None:
    coral, machine = find_target("coral-usb"), {"architecture": "aarch64"}
    machine["board"] = "Raspberry Pi 4 Model B Rev 1.4"
    assert coral.is_machine(machine, "libedgetpu.so.1 (runtime version 14)")
    assert not coral.is_machine(machine, stand_in.WORDS)
    assert not coral.is_machine(machine)
    assert not find_target("rpi4").is_machine(machine, "libedgetpu.so.1 (runtime version 14)")


def test_the_delivered_program_runs_a_compiled_model(pair, shared_data, tmp_path) -> None:
    labels = (shared_data / "coral" / "imagenet_labels.txt").read_text()
    files = {"labels.txt": labels, "preprocessing.json": json.dumps({"inside": True})}
    program, photo = find_folder("devices") / "classify.py", shared_data / "coral" / "cat.bmp"
    printed = []
    for source in (pair.compiled, pair.twin):
        model = tmp_path / source.name
        model.write_bytes(attach_files(source.read_bytes(), files))
        done = subprocess.run(
            [sys.executable, str(program), str(photo), "--model", str(model)],
            env={**os.environ, **pair.environment}, capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        printed.append(done.stdout)
    assert printed[0] == printed[1]
    assert "cat" in printed[0]


@pytest.fixture(scope="module")
def classifier(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("classifier")
    save_digits(folder / "digits.npz")
    make_classifier().save(folder / "model.keras")
    (folder / "here.toml").write_text(
        'based_on = "coral-usb"\ndescription = "here"\narchitecture = "x86_64"\n'
    )
    return folder


BUILD = ("--classes", "8,3,5", "--recovery", "mean", "--recalibrate", "off", "--effort", "fast",
         "--threads", 1, "--quiet")  # fmt: skip


@pytest.mark.slow
def test_a_build_measures_what_it_compiled(classifier, installed, tmp_path, monkeypatch) -> None:
    place, out = classifier, tmp_path / "out"
    words = ("build", place / "model.keras", "--data", place / "digits.npz", "--out", out, *BUILD)
    budget = ("--target", place / "here.toml", "--measure", "--budget", "latency=500ms")
    refused = run_command(*words, *budget)
    assert refused.code == 2
    assert "needs edgetpu_compiler on the PATH" in refused.error
    stand_in.install_compiler(tmp_path)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("STAND_IN_ANSWERS", str(tmp_path / "answers"))
    made = run_command(*words, *budget)
    assert made.code == 0, made.err
    assert "stand-in" in json.loads((out / "report.json").read_text())["latency_measured"]
    rows = {row["model"]: row for row in _measured(out)}
    assert {name: row["delegate"] for name, row in rows.items()} == {
        "after": stand_in.WORDS,
        "before": stand_in.WORDS,
        "before_float32": None,
        "after_on_cpu": None,
    }


def _measured(out: Path) -> list[dict]:
    return json.loads((out / "measurement.json").read_text())["measurements"]


def test_models_are_compiled_together_here_and_on_another_machine(
    pair, tmp_path, monkeypatch
) -> None:
    """Two files whose names tell them apart; the compiler of the other machine is on its PATH."""
    twins = [tmp_path / name for name in ("faces.tflite", "hands.tflite")]
    for number, path in enumerate(twins):
        path.write_bytes(attach_files(pair.twin.read_bytes(), {"labels.txt": f"{number}\n"}))
    missing = run_command("compile", *twins, "--out", tmp_path / "none")
    assert missing.code == 2
    assert "edgetpu_compiler is not on the PATH" in missing.error
    (tmp_path / "bin").mkdir()
    stand_in.install_compiler(tmp_path / "bin")
    answers = tmp_path / "answers"
    folders = [tmp_path / "here", tmp_path / "there"]
    with monkeypatch.context() as patch:
        patch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
        patch.setenv("STAND_IN_ANSWERS", str(answers))
        here = run_command("compile", *twins, "--out", folders[0], "--json")
    assert here.code == 0, here.err
    assert [entry["file"] for entry in json.loads(here.out).values()] == [
        "faces_edgetpu.tflite", "hands_edgetpu.tflite"
    ]  # fmt: skip
    if ssh_server.why_there_is_none() is not None:
        return
    server = ssh_server.make_server(tmp_path)
    with (server.folder / "sshd_config").open("a") as file:
        file.write(f"SetEnv PATH={tmp_path / 'bin'}:/usr/bin:/bin STAND_IN_ANSWERS={answers}\n")
    server.start()
    try:
        words = ("--compiler", "board", "--ssh-config", server.config, "--out", folders[1])
        there = run_command("compile", *twins, *words)
        (tmp_path / "bin" / "edgetpu_compiler").unlink()
        gone = run_command("compile", *twins, *words)
    finally:
        server.stop()
    assert there.code == 0, there.err
    assert "compiled by edgetpu_compiler" in there.out
    for name in ("faces_edgetpu.tflite", "hands_edgetpu.tflite"):
        made = [(folder / name).read_bytes() for folder in folders]
        assert made[0] == made[1]
    assert gone.code == 2
    assert gone.error == (
        "Error: edgetpu_compiler failed: there is no edgetpu_compiler on the PATH of board."
    )
