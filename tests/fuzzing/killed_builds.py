"""Builds that are killed at some moment: the folder holds the earlier files or the new ones."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from functools import cache
from pathlib import Path
from random import Random

from specialists import UNRECOVERED, make_classifier, save_digits

from edgeprune.support.files import MARK_SECONDS, move_together

MOST_SECONDS = 600.0
OPTIONS = (*UNRECOVERED, "--no-bench", "--quiet")


@cache
def prepare() -> tuple[Path, dict[str, bytes], float]:
    """Make the files that a build reads, and return what it makes, and in how many seconds."""
    folder = Path(tempfile.mkdtemp(prefix="edgeprune-kills-"))
    make_classifier().save(folder / "model.keras")
    save_digits(folder / "digits.npz")
    begun = time.monotonic()
    process = start(folder, folder / "out")
    process.communicate(timeout=MOST_SECONDS)
    assert process.returncode == 0
    return folder, read(folder / "out"), time.monotonic() - begun


def start(folder: Path, out: Path) -> subprocess.Popen[bytes]:
    """Start a build."""
    command = [sys.executable, "-P", "-m", "edgeprune", "build", str(folder / "model.keras")]
    command += ["--data", str(folder / "digits.npz"), "--classes", "1,2", *OPTIONS]
    return subprocess.Popen(
        [*command, "--out", str(out)], stderr=subprocess.DEVNULL, start_new_session=True
    )


def read(folder: Path) -> dict[str, bytes]:
    """Return the files of a build; of its report, which has times in it, only that it is there."""
    found = {path.name: path.read_bytes() for path in folder.iterdir()}
    return {name: b"" if name == "report.json" else text for name, text in found.items()}


def check(seed: int) -> None:
    """Kill a build, let the next one clear up, and look at what is there."""
    random = Random(seed)
    folder, made, seconds = prepare()
    with tempfile.TemporaryDirectory(dir=folder) as place:
        out = Path(place) / "out"
        earlier = {name: b"earlier" for name in ("model.tflite", "labels.txt", "report.json")}
        if random.random() < 0.7:
            out.mkdir()
            for name, text in earlier.items():
                (out / name).write_bytes(text)
        else:
            earlier = {}
        process = start(folder, out)
        _wait(process, Path(place), random, seconds)
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, random.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM]))
        process.communicate(timeout=MOST_SECONDS)
        _wait_for_end(place)
        time.sleep(1.2 * MARK_SECONDS)  # nobody types the next command sooner
        with contextlib.suppress(ZeroDivisionError), move_together(out):
            raise ZeroDivisionError  # the next run: it clears up, and fails
        found = read(out) if out.exists() else {}
        old = {name: b"" if name == "report.json" else text for name, text in earlier.items()}
        assert found in (old, made), sorted(found)
        left = {path.name for path in Path(place).iterdir()} - {"out"}
        assert not left, f"left behind: {sorted(left)}"


def _wait(process: subprocess.Popen[bytes], place: Path, random: Random, seconds: float) -> None:
    """Wait for any moment of the run, or for one while files are written."""
    end = time.monotonic() + MOST_SECONDS
    if random.random() < 0.3:
        end = time.monotonic() + random.uniform(0, seconds)
    while process.poll() is None and time.monotonic() < end:
        if end - time.monotonic() > 2 * seconds and any(place.glob(".out-*")):
            time.sleep(random.uniform(0, random.choice([0.05, 0.5, 2.0])))
            return
        time.sleep(0.002)


def _wait_for_end(place: str) -> None:
    """Wait for the processes that work for a folder; one that goes on is a failure."""
    end = time.monotonic() + 30
    while any(_works_for(process, place) for process in Path("/proc").glob("[0-9]*")):
        assert time.monotonic() < end, "a process is left behind"
        time.sleep(0.02)


def _works_for(process: Path, place: str) -> bool:
    try:
        words = (process / "cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return process.name != str(os.getpid()) and any(
        word.startswith(place.encode()) for word in words
    )
