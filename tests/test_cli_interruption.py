"""Ctrl-C and `kill`, at every stage and for real: nothing is left that was not there before."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from specialists import UNRECOVERED, make_classifier, run_command, save_digits

import edgeprune
from edgeprune.cli.failures import clean_up_when_terminated
from edgeprune.support.progress import showing

STARTED = 600


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("place")
    make_classifier().save(folder / "model.keras")
    save_digits(folder / "digits.npz")
    return folder


def press_control_c() -> None:
    raise KeyboardInterrupt


class Interrupting:
    """A progress at which something happens: when a stage starts, or at its first step."""

    def __init__(
        self,
        name: str = "",
        happens: Callable[[], None] = press_control_c,
        *,
        at_step: bool = False,
    ) -> None:
        self.name = name
        self.happens = happens
        self.at_step = at_step
        self.stages: list[str] = []

    @contextlib.contextmanager
    def stage(self, name: str, total: int | None = None) -> Iterator:
        self.stages.append(name)
        if name == self.name and not self.at_step:
            self.happens()

        def advance() -> None:
            if name == self.name:
                self.happens()

        yield advance


def build(place: Path, out: Path, progress: Interrupting) -> None:
    data = edgeprune.Data(place / "digits.npz", calibration=20, validation=20, test=50)
    pruning = edgeprune.Pruning(recovery="refit", recalibration="off")
    with showing(progress):
        edgeprune.build(
            place / "model.keras", data, classes="1,2", pruning=pruning, training=None, out=out
        )


STAGES = [
    ("starting TensorFlow, loading model", False),
    ("reading the data", False),
    ("checking the operators", False),
    ("tracing", False),
    ("surgery and proof", False),
    ("verifying the .tflite", False),
    ("statistics", True),
    ("ranking channels", True),
    ("recovery", True),
    ("testing the original", False),
    ("testing the pruned model", False),
    ("converting to int8", False),
    ("converting original to int8", False),
    ("converting original to float32", False),
    ("running the .tflite", True),
    ("benchmark", True),
]
BETWEEN = {
    "surgery and proof",
    "testing the pruned model",
    "converting original to int8",
    "converting original to float32",
    "verifying the .tflite",
    "running the .tflite",
}
"""Stages late in a build, with others like them before and after: slow tests."""


@pytest.mark.parametrize(
    ("name", "at_step"),
    [
        pytest.param(*case, marks=pytest.mark.slow) if case[0] in BETWEEN else case
        for case in STAGES
    ],
)
def test_an_interruption_at_any_stage_leaves_nothing(
    place: Path, tmp_path: Path, name: str, at_step: bool
) -> None:
    progress = Interrupting(name, at_step=at_step)
    with pytest.raises(KeyboardInterrupt):
        build(place, tmp_path / "out", progress)
    assert name in progress.stages
    assert list(tmp_path.iterdir()) == []


def test_the_stages_above_are_all_there_are(place: Path, tmp_path: Path) -> None:
    progress = Interrupting()
    build(place, tmp_path / "out", progress)
    inner = {
        "refit",
        "choosing channels",
        "measuring",
        "calibration",
    }  # in or around those
    assert set(progress.stages) - inner == {name for name, _ in STAGES}
    assert len(list((tmp_path / "out").iterdir())) == 7


def test_the_converters_callback_does_not_swallow_an_interruption(tmp_path: Path) -> None:
    """TensorFlow calls back from C++ for every calibration sample."""
    model, out = tmp_path / "model.keras", tmp_path / "model.tflite"
    make_classifier().save(model)
    progress = Interrupting("calibration", at_step=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("edgeprune.cli.terminal.TerminalProgress", lambda: progress)
        answer = run_command("convert", model, "--data", "digits", "--out", out)
    assert "calibration" in progress.stages
    assert (answer.code, answer.error) == (130, "Interrupted. Nothing was left half-written.")
    assert [path.name for path in tmp_path.iterdir()] == ["model.keras"]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_that_a_library_takes_for_an_error_of_its_own_still_ends(
    monkeypatch, number: signal.Signals, code: int
) -> None:
    """As HDF5 does, which calls back while it writes."""

    def work() -> None:
        try:
            os.kill(os.getpid(), number)
            time.sleep(1)
        except BaseException:
            raise TypeError("Operation not defined") from None

    monkeypatch.setattr("edgeprune.cli.commands.edgeprune", lambda *_, **__: work())
    before = [signal.signal(each, signal.SIG_DFL) for each in (signal.SIGTERM, signal.SIGHUP)]
    signal.signal(signal.SIGINT, signal.default_int_handler)
    answer = run_command("targets")
    for each, handler in zip((signal.SIGTERM, signal.SIGHUP), before, strict=True):
        signal.signal(each, handler)
    assert answer.code == code and "Traceback" not in answer.err
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@contextlib.contextmanager
def started(*arguments: str) -> Iterator[subprocess.Popen]:
    """Run the command in a process of its own."""
    process = subprocess.Popen(
        [sys.executable, "-m", "edgeprune", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # as the only process of its terminal
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def wait_for_workspace(folder: Path, process: subprocess.Popen) -> None:
    end = time.monotonic() + STARTED
    while not any(path.name.startswith(".out-") for path in folder.iterdir()):
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < end
        time.sleep(0.005)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_that_ends_the_process_lets_it_clean_up(
    place: Path, tmp_path: Path, monkeypatch, number: signal.Signals
) -> None:
    """As `docker stop` sends it, or a connection that is lost."""
    before = signal.signal(number, signal.SIG_DFL)  # a shell's `nohup` has SIGHUP ignored
    progress = Interrupting("converting to int8", lambda: os.kill(os.getpid(), number))
    monkeypatch.setattr("edgeprune.cli.terminal.TerminalProgress", lambda: progress)
    command = f"build {place}/model.keras --data {place}/digits.npz --recovery none --no-bench"
    command += " --effort fast"
    answer = run_command(*command.split(), "--out", tmp_path / "out")
    left = signal.signal(number, before)
    assert (answer.code, answer.out, answer.err) == (128 + number, "", "")
    assert list(tmp_path.iterdir()) == []
    assert left is signal.SIG_DFL


def test_control_c_while_files_are_written_leaves_the_folder_as_it_was(
    place: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "model.tflite").write_text("earlier")
    arguments = ["build", f"{place}/model.keras", "--data", f"{place}/digits.npz", "--quiet"]
    arguments += [*UNRECOVERED, "--out", str(out)]
    with started(*arguments) as process:
        wait_for_workspace(tmp_path, process)
        os.killpg(process.pid, signal.SIGINT)
        output, error = process.communicate(timeout=STARTED)
    # CPython ends by the signal itself where it came inside an `exec`; a shell says 130 to both.
    assert process.returncode in (130, -signal.SIGINT), error
    assert output == ""
    assert error == "\nInterrupted. Nothing was left half-written.\n"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert [(path.name, path.read_text()) for path in out.iterdir()] == [
        ("model.tflite", "earlier")
    ]


def test_an_interrupted_measurement_ends_with_its_harness(place: Path, tmp_path: Path) -> None:
    content = edgeprune.convert(make_classifier(), scheme="float32")
    model = tmp_path / "model.tflite"
    model.write_bytes(content)
    with started("bench", str(model), "--seconds", "60", "--runs", "100000000") as process:
        harness = wait_for_child(process)
        os.killpg(process.pid, signal.SIGINT)
        _, error = process.communicate(timeout=STARTED)
    assert process.returncode == 130
    assert error.splitlines()[-1].startswith("Interrupted. ")
    assert "Traceback" not in error
    assert not Path(f"/proc/{harness}").exists()


def children(process: int) -> list[int]:
    return list(map(int, Path(f"/proc/{process}/task/{process}/children").read_text().split()))


def wait_for_child(process: subprocess.Popen) -> int:
    """Return the child of the command, which is one of the process that waits for it."""
    if not Path(f"/proc/{process.pid}/task/{process.pid}/children").exists():
        pytest.skip("the children of a process cannot be listed here")
    end = time.monotonic() + STARTED
    while not (found := [one for child in children(process.pid) for one in children(child)]):
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < end
        time.sleep(0.005)
    time.sleep(0.5)  # let it start to measure
    return found[0]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_during_garbage_collection_is_not_lost(number: signal.Signals) -> None:
    """Python drops what is raised in a finalizer; TensorFlow has thousands of those."""

    class Finalized:
        def __del__(self) -> None:
            signal.raise_signal(number)

    before = signal.signal(number, signal.SIG_DFL if number != signal.SIGINT else press)
    try:
        expected = KeyboardInterrupt if number == signal.SIGINT else SystemExit
        with pytest.raises(expected), clean_up_when_terminated():
            Finalized()
            time.sleep(60)
    finally:
        signal.signal(number, before)


def press(number: int, frame: object) -> None:
    raise KeyboardInterrupt
