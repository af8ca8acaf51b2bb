"""Whatever ends the command from inside, there is a line and an exit code."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="supervised on Linux only")

START = (
    "import ctypes, os, signal, sys, time\n"
    "from edgeprune.support.progress import stage\n"
    "def work(*arguments, **options):\n"
    "    with stage('calibration'):\n"
    "        print(os.getpid(), flush=True)\n"
    "        {body}\n"
    "import edgeprune.cli.commands as commands\n"
    "commands.edgeprune = work\n"
    "from edgeprune.cli import main\n"
    "main()\n"
)


def start(body: str, **options) -> subprocess.Popen:
    command = [sys.executable, "-c", START.format(body=body)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, text=True, start_new_session=True, **pipes, **options)


def finish(process: subprocess.Popen) -> str:
    _, said = process.communicate(timeout=600)
    return said


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("ctypes.string_at(0)", "was ended by a fault in a native library"),
        ("os.abort()", "was ended by a fault in a native library"),
        ("os.kill(os.getpid(), signal.SIGKILL)", "was killed"),
    ],
)
def test_a_death_from_inside_is_one_line_and_exit_code_2(body: str, expected: str) -> None:
    process = start(body)
    (line,) = finish(process).strip().splitlines()
    assert process.returncode == 2
    assert line.startswith(f"Error: The command {expected} while at 'calibration' (SIG")


@pytest.mark.parametrize(
    ("body", "code"), [("pass", 0), ("sys.exit(7)", 7), ("raise KeyboardInterrupt", 130)]
)
def test_other_ends_are_those_of_the_command(body: str, code: int) -> None:
    process = start(body)
    said = finish(process)
    assert process.returncode == code
    assert said == ("" if code != 130 else "Interrupted. Nothing was left half-written.\n")


COUNTING = (
    "got = []\n"
    "        signal.signal(signal.SIGTERM, lambda number, frame: got.append(number))\n"
    "        print('ready', flush=True)\n"
    "        end = time.monotonic() + 600\n"
    "        while not got and time.monotonic() < end: time.sleep(0.01)\n"
    "        time.sleep(1)\n"
    "        sys.exit(10 + len(got))"
)


@pytest.mark.parametrize("whole_group", [False, True])
def test_a_signal_reaches_the_command_once(whole_group: bool) -> None:
    process = start(COUNTING)
    process.stdout.readline(), process.stdout.readline()
    (os.killpg if whole_group else os.kill)(process.pid, signal.SIGTERM)
    said = finish(process)
    assert process.returncode == 11, said


def test_the_command_ends_with_its_parent() -> None:
    process = start("time.sleep(600)")
    child = int(process.stdout.readline())
    process.kill()
    process.communicate(timeout=600)
    end = time.monotonic() + 60
    while Path(f"/proc/{child}").exists() and "Z (" not in status(child):
        assert time.monotonic() < end
        time.sleep(0.01)


def status(process: int) -> str:
    try:
        return Path(f"/proc/{process}/status").read_text()
    except OSError:
        return "Z ("
