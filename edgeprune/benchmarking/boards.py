"""What a board offers: its architecture, a Python that is new enough, and a runtime."""

from __future__ import annotations

import re
from dataclasses import dataclass

from edgeprune.benchmarking.ssh_connection import Connection
from edgeprune.errors import BenchmarkError
from edgeprune.support.resources import find_folder

OLDEST_PYTHON = (3, 9)
NEWEST_PYTHON_32_BIT = (3, 11)
INSTALL_SECONDS = 900.0
INSTALL = "python3 -m venv ~/.edgeprune && ~/.edgeprune/bin/pip install {runtime}"


@dataclass(frozen=True)
class Board:
    """A board that can run the harness.

    Attributes:
        architecture: as `uname -m` says it.
        python: path of an interpreter with NumPy and a runtime.
    """

    architecture: str
    python: str


def find_board(
    connection: Connection,
    python: str | None,
    architecture: str | None,
    *,
    provision: bool = False,
) -> Board:
    """Find out whether the board can run the harness.

    Args:
        connection: to the board.
        python: the one to use; None for the usual ones.
        architecture: that it must have; None for any.
        provision: install a runtime if there is none.

    Raises:
        BenchmarkError: wrong architecture, no Python or one that is too old, or no runtime; says
            what to do.
    """
    host = connection.host
    found, pythons = _probe(connection, python)
    if architecture not in (None, found):
        raise BenchmarkError(
            f"{host} is {found}, the target is {architecture}: name the right --target or --host."
        )
    recent = [entry for entry in pythons if entry.version >= OLDEST_PYTHON]
    if not recent:
        versions = ", ".join(f"{entry.path} is {entry.text}" for entry in pythons)
        versions = versions or f"no {python or 'python3'}"
        raise BenchmarkError(
            f"{host} has no Python 3.9 or newer ({versions}): install one, or name it with "
            "--remote-python."
        )
    ready = [entry for entry in recent if entry.is_ready]
    if not ready and found == "armv7l" and min(e.version for e in recent) > NEWEST_PYTHON_32_BIT:
        raise BenchmarkError(
            f"{host} is 32 bit with Python {recent[0].text}, for which there is no TensorFlow Lite "
            "runtime: take the 64-bit Raspberry Pi OS, or Bookworm, whose Python is 3.11."
        )
    if not ready and provision:
        _provision(connection)
        return find_board(connection, python, architecture)
    if not ready:
        command = INSTALL.format(runtime=_runtime_for(found))
        raise BenchmarkError(
            f"{host} has no TensorFlow Lite runtime. Run this once, or use --provision: "
            f"ssh {host} '{command}'"
        )
    return Board(found, ready[0].path)


@dataclass(frozen=True)
class _Python:
    path: str
    text: str
    is_ready: bool

    @property
    def version(self) -> tuple[int, ...]:
        return tuple(int(part) for part in re.findall(r"\d{1,6}", self.text)[:2])


def _probe(connection: Connection, python: str | None) -> tuple[str, list[_Python]]:
    printed = connection.run("probe", *([python] if python else [])).stdout.decode(errors="replace")
    first, *lines = printed.splitlines() or [""]
    pythons = []
    for line in lines:
        words = line.split("\t")
        if len(words) == 4:
            path, version, numpy, runtime = words
            pythons.append(_Python(path, version, "-" not in (numpy, runtime)))
    return first.strip(), pythons


def _provision(connection: Connection) -> None:
    script = find_folder("devices") / "provision" / "runtime.sh"
    done = connection.run("install", given=script.read_bytes(), seconds=INSTALL_SECONDS)
    if done.returncode:
        lines = (done.stderr or done.stdout).decode(errors="replace").strip().splitlines()
        reason = lines[-1] if lines else "it gave no reason"
        raise BenchmarkError(f"Cannot install the runtime on {connection.host}: {reason}")


def _runtime_for(architecture: str) -> str:
    return '"tflite-runtime" "numpy<2"' if architecture == "armv7l" else "ai-edge-litert"
