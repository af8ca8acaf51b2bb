"""The harness as a clean process on this machine."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgeprune.errors import BenchmarkError
from edgeprune.progress import SILENT, Progress
from edgeprune.resources import find_folder

SCHEMA_VERSION = 1
PATIENCE_SECONDS = 5.0


def run_harness(
    models: Sequence[Path],
    *,
    threads: int,
    runs: int,
    seconds: float,
    progress: Progress = SILENT,
) -> dict[str, Any]:
    """Run the harness with this interpreter, without TensorFlow, and return its document.

    The process ends with this one, however this one ends.

    Raises:
        BenchmarkError: the harness failed, was killed, or was not clean; says why.
    """
    # Not -I: a runtime that was installed with `pip install --user` must be found.
    command = [sys.executable, "-E", "-P", str(find_folder("devices") / "harness"), "--watch-stdin"]
    command += ["--threads", str(threads), "--runs", str(runs), "--seconds", str(seconds)]
    command += [str(model.resolve()) for model in models]
    with tempfile.TemporaryFile("w+", encoding="utf-8") as answer:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=answer,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors="replace",
        )
        try:
            remarks = _follow(process, progress)
            status = process.wait()
        finally:
            _end(process)
        answer.seek(0)
        return _read(answer.read(), status, remarks)


def _follow(process: subprocess.Popen[str], progress: Progress) -> list[str]:
    """Report progress until the process closes its standard error; return its other lines."""
    remarks = []
    percent = 0
    with progress.stage("benchmark", 100) as advance:
        for line in process.stderr or ():
            try:
                done = round(100 * json.loads(line)["done"])
            except (ValueError, TypeError, KeyError):
                remarks.append(line.strip())
                continue
            for _ in range(percent, done):
                advance()
            percent = max(percent, done)
    return remarks


def _end(process: subprocess.Popen[str]) -> None:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    for stream in (process.stdin, process.stderr):
        if stream is not None:
            stream.close()


def _read(answer: str, status: int, remarks: Sequence[str]) -> dict[str, Any]:
    try:
        document = json.loads(answer)
    except ValueError:
        last = next((line for line in reversed(remarks) if line), "it said nothing")
        how = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
        raise BenchmarkError(f"The harness {how}: {last}") from None
    if "error" in document:
        raise BenchmarkError(f"Cannot measure: {document['error']}.")
    if document["schema_version"] != SCHEMA_VERSION:
        raise BenchmarkError(
            f"The harness speaks version {document['schema_version']} of its format, edgeprune "
            f"version {SCHEMA_VERSION}: install edgeprune again."
        )
    if document["interrupted"]:
        raise BenchmarkError("The harness was stopped before it had measured everything.")
    if document["process"]["tensorflow_loaded"]:
        raise BenchmarkError(
            "The harness found TensorFlow loaded in its process, so its memory figures mean "
            "nothing: something imports TensorFlow whenever Python starts."
        )
    return document
