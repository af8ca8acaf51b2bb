"""Boards behind SSH: a real server on 127.0.0.1, with everything that can go wrong on a line."""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import small_models
import ssh_server

from edgeprune.benchmarking import SshTransport, bench
from edgeprune.benchmarking.boards import find_board
from edgeprune.benchmarking.measurement_settings import Settings
from edgeprune.benchmarking.ssh import Patience, measure_clock_offset
from edgeprune.benchmarking.ssh_connection import Connection
from edgeprune.errors import BenchmarkError
from edgeprune.support.progress import showing
from edgeprune.tflite import convert

REASON = ssh_server.why_there_is_none()
pytestmark = pytest.mark.skipif(REASON is not None, reason=REASON or "")

ROOT = Path(__file__).resolve().parent.parent
QUICK = {"runs": 20, "seconds": 0.1, "threads": 1}
HASTY = Patience(poll_seconds=0.1, lease_seconds=5, lost_seconds=3.0)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    made = ssh_server.make_server(tmp_path_factory.mktemp("ssh"))
    made.start()
    yield made
    made.stop()


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("models") / "a model.tflite"
    convert(small_models.classifier(), scheme="float32", path=path)
    return path


@pytest.fixture
def board(server, tmp_path) -> SshTransport:
    """This machine, seen as a board; what a run leaves behind would be in its folder."""
    folder = tmp_path / "on board"
    folder.mkdir()
    return SshTransport(
        "board", config=server.config, python=sys.executable, folder=str(folder), patience=HASTY
    )


def left_behind(board: SshTransport) -> list[Path]:
    return list(Path(board.folder).iterdir())


def harness_processes(board: SshTransport) -> list[str]:
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if os.readlink(process / "cwd").startswith(board.folder):
                found.append((process / "cmdline").read_text())
        except OSError:
            continue
    return found


class DuringTheRun:
    """Does something once, as soon as the harness reports."""

    def __init__(self, action) -> None:
        self.action, self.stages = action, []

    def stage(self, name, total=None):
        self.stages.append(name)
        return self._Stage(self, name)

    class _Stage:
        def __init__(self, outer, name) -> None:
            self.outer, self.name = outer, name

        def __enter__(self):
            return self.advance

        def __exit__(self, *_) -> None:
            pass

        def advance(self) -> None:
            if self.name == "benchmark" and self.outer.action:
                action, self.outer.action = self.outer.action, None
                action()


def test_a_model_is_measured_on_the_board_and_nothing_stays_there(board, model) -> None:
    progress = DuringTheRun(None)
    with showing(progress):
        result = bench({"one": model, "again": model}, target="x86-64", transport=board, **QUICK)
    assert [entry.model for entry in result.measurements] == ["one", "again"]
    for entry in result.measurements:
        assert entry.count == 20
        assert entry.size_bytes == model.stat().st_size
        assert entry.kind == "measured"
    assert progress.stages == ["connecting to board", "copying", "benchmark"]
    assert left_behind(board) == []


def test_the_clocks_of_one_machine_agree(board, server) -> None:
    connection = Connection("board", server.config)
    try:
        found = find_board(connection, sys.executable, platform.machine())
        folder = Path(board.folder)
        (folder / "harness").symlink_to(ROOT / "devices" / "harness")
        offset, error = measure_clock_offset(connection, found, str(folder))
    finally:
        connection.close()
    assert error < 1
    assert abs(offset) <= error, "the true offset is 0"


def test_a_dropped_line_is_picked_up_again(board, model, server) -> None:
    dropped = []
    with showing(DuringTheRun(lambda: dropped.append(server.drop_connections()))):
        result = bench(model, transport=board, runs=10**6, seconds=1.0, threads=1)
    assert dropped[0] >= 1, "else this test says nothing"
    assert result.measurements[0].count > 20
    assert left_behind(board) == []


def test_a_line_that_stays_away_is_one_error_and_the_board_cleans_up(
    board, model, tmp_path_factory
) -> None:
    own = ssh_server.make_server(tmp_path_factory.mktemp("ssh"))
    own.start()
    lost = replace(
        board, config=own.config, patience=replace(HASTY, lost_seconds=0.5, lease_seconds=2)
    )
    with pytest.raises(BenchmarkError) as caught, showing(DuringTheRun(own.stop)):
        bench(model, transport=lost, runs=10**7, seconds=100, threads=1)
    assert str(caught.value) == (
        "The line to board was lost and did not come back: Cannot reach board: Connection "
        "refused. The board removes its folder by itself."
    )
    end = time.monotonic() + 600
    while left_behind(lost) and time.monotonic() < end:
        time.sleep(0.1)
    assert left_behind(lost) == []
    assert harness_processes(lost) == []


def test_ctrl_c_gets_what_there_is_and_leaves_nothing(board, model) -> None:
    def interrupt() -> None:
        threading.Timer(1.0, lambda: os.kill(os.getpid(), 2)).start()

    from edgeprune.benchmarking import BenchInterrupted

    with pytest.raises(BenchInterrupted) as caught, showing(DuringTheRun(interrupt)):
        bench(model, transport=board, runs=10**7, seconds=100, threads=1)
    result = caught.value.result
    assert result.interrupted
    assert result.measurements[0].count > 0
    assert left_behind(board) == []
    assert harness_processes(board) == []


@pytest.mark.parametrize(
    ("target", "complaint"),
    [("rpi4", "board is {here}, the target is aarch64: name the right --target or --host.")],
)
def test_the_wrong_architecture_is_found_before_anything_is_copied(
    board, model, target, complaint
) -> None:
    if platform.machine() == "aarch64":
        pytest.skip("this machine could be a Raspberry Pi 4")
    progress = DuringTheRun(None)
    with pytest.raises(BenchmarkError) as caught, showing(progress):
        bench(
            model,
            target=target,
            transport=replace(board, architecture="aarch64"),
            **QUICK,
        )
    assert str(caught.value) == complaint.format(here=platform.machine())
    assert progress.stages == ["connecting to board"]


def fake_python(path: Path, version: str, numpy: str, runtime: str) -> str:
    """A program that answers the probe as another Python would."""
    path.write_text(f"#!/bin/sh\nprintf '%s\\t{version}\\t{numpy}\\t{runtime}\\n' {path}\n")
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize(
    ("answers", "complaint"),
    [
        (
            ("3.7.3", "numpy", "tflite_runtime"),
            "board has no Python 3.9 or newer ({python} is 3.7.3): install one, or name it with "
            "--remote-python.",
        ),
        (
            ("3.11.2", "-", "-"),
            "board has no TensorFlow Lite runtime. Run this once, or use --provision: ssh board "
            "'python3 -m venv ~/.edgeprune && ~/.edgeprune/bin/pip install ai-edge-litert'",
        ),
    ],
)
def test_a_board_that_is_not_ready_is_told_what_to_do(
    board, model, tmp_path, answers, complaint
) -> None:
    python = fake_python(tmp_path / "python", *answers)
    with pytest.raises(BenchmarkError) as caught:
        bench(model, transport=replace(board, python=python), **QUICK)
    assert str(caught.value) == complaint.format(python=python)
    assert left_behind(board) == []


@pytest.mark.parametrize(("version", "complaint"), [
    ("3.13.5", "is 32 bit with Python 3.13.5, for which there is no TensorFlow Lite runtime: take"),
    ("3.11.2", "has no TensorFlow Lite runtime. Run this once, or use --provision: ssh board 'pyt"),
])  # fmt: skip
def test_a_32_bit_board_is_told_whether_there_is_a_runtime_for_its_python(
    version, complaint
) -> None:
    class Line:
        host = "board"

        def run(self, script: str, *arguments: object) -> subprocess.CompletedProcess:
            printed = f"armv7l\n/usr/bin/python3\t{version}\t2.2.4\t-\n".encode()
            return subprocess.CompletedProcess([script], 0, printed, b"")

    with pytest.raises(BenchmarkError) as caught:
        find_board(Line(), None, "armv7l")
    assert f"board {complaint}" in str(caught.value)


def test_a_board_without_any_python_says_so(board, model, tmp_path) -> None:
    with pytest.raises(BenchmarkError) as caught:
        bench(model, transport=replace(board, python=str(tmp_path / "gone")), **QUICK)
    assert f"board has no Python 3.9 or newer (no {tmp_path}/gone)" in str(caught.value)


def test_a_changed_host_key_stops_everything(board, model, tmp_path_factory) -> None:
    own = ssh_server.make_server(tmp_path_factory.mktemp("ssh"))
    own.change_host_key()
    own.start()
    try:
        with pytest.raises(BenchmarkError) as caught:
            bench(model, transport=replace(board, config=own.config), **QUICK)
    finally:
        own.stop()
    assert str(caught.value) == (
        "The host key of board has changed: another machine answers under its name, or the board "
        f"was set up anew. In the second case remove the old key (line 1 of {own.known_hosts}) "
        "and connect once by hand."
    )
    assert left_behind(board) == []


def test_an_unknown_host_key_is_not_accepted(board, model, server, tmp_path) -> None:
    config = tmp_path / "config"
    config.write_text(server.config.read_text().replace("known_hosts", "none_known"))
    with pytest.raises(BenchmarkError) as caught:
        bench(model, transport=replace(board, config=config), **QUICK)
    assert str(caught.value) == (
        "The host key of board is not known: connect once by hand (ssh board) and compare it."
    )
    assert not (server.folder / "none_known").exists()


def test_a_refused_login_says_what_must_work(board, model, server, tmp_path) -> None:
    ssh_server.make_key(tmp_path / "other")
    config = tmp_path / "config"
    text = server.config.read_text()
    config.write_text(text.replace(f"{server.folder}/user_key", f"{tmp_path}/other"))
    with pytest.raises(BenchmarkError, match=r"^board refuses the login: 'ssh board' must work"):
        bench(model, transport=replace(board, config=config), **QUICK)


def test_a_dead_host_is_one_line(board, model, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("edgeprune.benchmarking.ssh_connection.PAUSE_SECONDS", 0.05)
    config = tmp_path / "config"
    config.write_text(f"Host board\n HostName 127.0.0.1\n Port {ssh_server.free_port()}\n")
    with pytest.raises(BenchmarkError) as caught:
        bench(model, transport=replace(board, config=config), **QUICK)
    assert str(caught.value) == "Cannot reach board: Connection refused."


@pytest.mark.parametrize("host", ["-oProxyCommand=touch /tmp/x", "", "a b"])
def test_what_is_no_host_never_reaches_ssh(host, model) -> None:
    with pytest.raises(BenchmarkError, match=r"is no host\. Expected pi@raspberrypi\.local"):
        bench(model, transport=SshTransport(host), **QUICK)


@pytest.fixture
def small_disk(tmp_path):
    """A file system of a quarter of a megabyte."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a small file system can only be mounted by root")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_on_the_board_is_one_line(board, tmp_path, small_disk) -> None:
    large = tmp_path / "large.tflite"
    large.write_bytes(b"\0\0\0\0TFL3" + bytes(400_000))
    with pytest.raises(BenchmarkError) as caught:
        bench(large, transport=replace(board, folder=str(small_disk)), **QUICK)
    message = str(caught.value)
    assert message.startswith(f"The disk of board is full: the run's folder {small_disk}/edgeprune")
    assert message.endswith(" could not be written.")
    assert list(small_disk.iterdir()) == []


def test_a_disk_that_fills_up_while_measuring_is_one_line(board, model, small_disk) -> None:
    def fill() -> None:
        (folder,) = small_disk.iterdir()
        with (folder / "more").open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while file.write(bytes(1024)):
                pass

    room = replace(board, folder=str(small_disk))
    full = pytest.raises(BenchmarkError, match=r"^The disk of board is full: the run's folder")
    with full, showing(DuringTheRun(fill)):
        bench(model, transport=room, runs=10**5, seconds=1.0, threads=1)
    assert list(small_disk.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_one_line(board, model, tmp_path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BenchmarkError, match=r"^board gives no folder in .*/file/x: mkdir: "):
        bench(model, transport=replace(board, folder=f"{tmp_path}/file/x"), **QUICK)


def test_the_guard_removes_a_run_whose_host_is_gone(tmp_path) -> None:
    script = (ROOT / "devices" / "remote" / "prepare.sh").read_text()
    command = ["sh", "-c", script, "prepare", str(tmp_path), "2"]
    folder = Path(subprocess.check_output(command, text=True).strip())
    assert folder.is_dir()
    work = subprocess.Popen(["sleep", "60"])
    (folder / "process").write_text(f"{work.pid}\n")
    end = time.monotonic() + 600
    while folder.exists() and time.monotonic() < end:
        time.sleep(0.1)
    assert not folder.exists()
    assert work.wait(timeout=600) < 0


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
def test_the_scripts_for_boards_pass_shellcheck() -> None:
    scripts = sorted((ROOT / "devices").glob("*/*.sh"))
    assert len(scripts) >= 10
    subprocess.run(["shellcheck", *map(str, scripts)], check=True)


def test_settings_become_the_command_line_of_the_harness() -> None:
    assert Settings(threads=2, runs=5, seconds=1.0).arguments() == [
        "--threads", "2", "--runs", "5", "--seconds", "1.0", "--warmup", "2.0",
    ]  # fmt: skip
