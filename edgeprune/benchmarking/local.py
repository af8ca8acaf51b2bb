"""The harness as a clean process on this machine."""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from edgeprune.benchmarking.documents import (
    MOST_BYTES,
    Answer,
    Remarks,
    check_complete,
    following,
    limit_answer,
    read_answer,
)
from edgeprune.benchmarking.measurement_settings import Settings
from edgeprune.errors import BenchmarkError
from edgeprune.support.resources import find_folder

PATIENCE_SECONDS = 5.0


def harness_command() -> list[str]:
    """Return the command that starts the harness with this interpreter, without TensorFlow."""
    # Not -I: a runtime that was installed with `pip install --user` must be found.
    return [sys.executable, "-E", "-P", str(find_folder("devices") / "harness"), "--watch-stdin"]


class LocalTransport:
    """Runs the harness here; its process ends with this one, however this one ends."""

    def measure(self, models: Sequence[Path], settings: Settings) -> Answer:
        """Run the harness over the models.

        Raises:
            BenchmarkError: the harness failed, was killed, or was not clean; says why.
            KeyboardInterrupt: the user stopped it before anything was measured.
        """
        batch = str(settings.batch.resolve()) if settings.batch else None
        command = [*harness_command(), *settings.arguments(batch)]
        command += [str(model.resolve()) for model in models]
        with tempfile.TemporaryFile() as output:
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.PIPE,
                encoding="utf-8",
                errors="replace",
                start_new_session=True,  # Ctrl-C is for this process, which then asks for answers
            )
            interruption = None
            with following() as remarks:
                try:
                    while line := process.stderr.readline(MOST_BYTES) if process.stderr else "":
                        remarks.read(line)
                    process.wait()
                except KeyboardInterrupt as error:
                    interruption = error
                finally:
                    _end(process)
                output.seek(0)
                answer = output.read(limit_answer(len(models), settings.runs))
                if interruption is not None:
                    return _salvage(answer, process.returncode, interruption, len(models))
            document = read_answer(answer, process.returncode, remarks, len(models))
            check_complete(document)
            return Answer(document)


def _salvage(answer: bytes, status: int, interruption: KeyboardInterrupt, models: int) -> Answer:
    try:
        document = read_answer(answer, status, Remarks(lambda: None), models)
    except BenchmarkError:
        raise interruption from None
    return Answer(document, interrupted=True)


def _end(process: subprocess.Popen[str]) -> None:
    """Ask the harness for what it has; end it if it takes too long."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            _drain(process.stderr)
            process.wait(PATIENCE_SECONDS)
        except (subprocess.TimeoutExpired, KeyboardInterrupt):
            process.kill()
            process.wait()
    for stream in (process.stdin, process.stderr):
        if stream is not None:
            stream.close()


def _drain(stream: IO[str] | None) -> None:
    """Read what is left: a full pipe would keep the other side from ending."""
    if stream is not None:
        stream.read()
