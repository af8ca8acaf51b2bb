"""The harness on a board that is reached by SSH."""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import select
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import IO

from edgeprune.benchmarking.boards import Board, find_board
from edgeprune.benchmarking.documents import (
    MOST_BYTES,
    Answer,
    Remarks,
    check_complete,
    following,
    invalid,
    limit_answer,
    read_answer,
)
from edgeprune.benchmarking.measurement_settings import Settings
from edgeprune.benchmarking.ssh_connection import Connection, LineLostError
from edgeprune.errors import BenchmarkError
from edgeprune.support.progress import stage
from edgeprune.support.resources import find_folder

SEPARATOR = b"\x1e"
GONE = 3  # poll.sh: the folder is no longer there
FULL_KILOBYTES = 256
EXCHANGES = 8
BATCH = "batch.npz"


@dataclass(frozen=True)
class Patience:
    """How long things may take.

    Attributes:
        poll_seconds: between two looks at the run: each disturbs the board a little.
        lease_seconds: after which the board cleans up if the host does not come back.
        lost_seconds: how long a dropped line is tried to be made again.
        silent_seconds: how long a run may make no progress.
        stop_seconds: how long an interrupted run may take to answer with what it has.
        clock_seconds: how long the board may take to say what its clock shows.
    """

    poll_seconds: float = 2.0
    lease_seconds: int = 180
    lost_seconds: float = 120.0
    silent_seconds: float = 900.0
    stop_seconds: float = 15.0
    clock_seconds: float = 10.0


@dataclass(frozen=True)
class SshTransport:
    """Copies the harness and the models to a board, runs it there, and leaves nothing behind.

    The run goes on when the line drops, and is picked up again where it is; if the host never comes
    back, the board ends the run and removes its folder by itself.

    Attributes:
        host: as ssh takes it.
        architecture: that the board must have; None for any.
        config: an ssh settings file instead of the user's own.
        python: on the board; None for `~/.edgeprune/bin/python`, else `python3`.
        folder: on the board, in which the run gets a folder of its own.
        provision: install a runtime if the board has none.
        patience: how long things may take.
        stop: is set when the run is to end with what it has, as on Ctrl-C; for runs in threads.

    Example:
        >>> from edgeprune import bench
        >>> board = SshTransport("pi@raspberrypi.local", "aarch64")
        >>> bench("model.tflite", target="rpi4", transport=board)   # doctest: +SKIP
    """

    host: str
    architecture: str | None = None
    config: Path | None = None
    python: str | None = None
    folder: str = "/tmp"
    provision: bool = False
    patience: Patience = Patience()
    stop: Event | None = None

    def measure(self, models: Sequence[Path], settings: Settings) -> Answer:
        """Run the harness over the models.

        Raises:
            BenchmarkError: one line that says what is wrong with the line, the board or the run.
            KeyboardInterrupt: the user stopped it before anything was measured.
        """
        connection = Connection(self.host, self.config)
        try:
            with stage(f"connecting to {self.host}"):
                board = find_board(
                    connection, self.python, self.architecture, provision=self.provision
                )
            with self._prepared(connection) as folder:
                with stage("copying"):
                    _copy(connection, folder, models, settings)
                wait = self.patience.clock_seconds
                before = measure_clock_offset(connection, board, folder, wait)
                answer = self._run(connection, board, folder, models, settings)
                after = measure_clock_offset(connection, board, folder, wait)
            return Answer(
                answer.document,
                (before[0] + after[0]) / 2,
                max(before[1], after[1], abs(after[0] - before[0]) / 2),
                answer.interrupted,
            )
        finally:
            connection.close()

    @contextlib.contextmanager
    def _prepared(self, connection: Connection) -> Iterator[str]:
        """Make a folder on the board, and remove it whatever happens."""
        made = connection.run("prepare", self.folder, self.patience.lease_seconds)
        folder = made.stdout.decode(errors="replace").strip()
        if made.returncode or not folder:
            raise BenchmarkError(
                f"{self.host} gives no folder in {self.folder}: {_last_line(made.stderr)}."
            )
        try:
            yield folder
        finally:
            with contextlib.suppress(BenchmarkError):  # then the board's own guard removes it
                connection.run("remove", folder, seconds=20, attempts=1)

    def _run(
        self,
        connection: Connection,
        board: Board,
        folder: str,
        models: Sequence[Path],
        settings: Settings,
    ) -> Answer:
        batch = BATCH if settings.batch else None
        command = [board.python, "-E", "harness", *settings.arguments(batch)]
        command += [_place(number, model) for number, model in enumerate(models)]
        with following() as remarks:
            try:
                connection.run("start", folder, *command)
                patience = self.patience.silent_seconds
                status = self._follow(connection, folder, remarks, patience, self.stop)
                interruption = None
            except KeyboardInterrupt as error:
                interruption = error
                connection.run("stop", folder, attempts=1)
                status = self._follow(connection, folder, remarks, self.patience.stop_seconds)
            most = limit_answer(len(models), settings.runs)
            text = connection.run("fetch", folder, most=most).stdout
            try:
                document = read_answer(text, status, remarks, len(models))
            except BenchmarkError:
                if interruption:
                    raise interruption from None
                _explain_full_disk(connection, folder)
                raise
        if interruption is None:
            check_complete(document)
        return Answer(document, interrupted=interruption is not None)

    def _follow(
        self,
        connection: Connection,
        folder: str,
        remarks: Remarks,
        seconds: float,
        stop: Event | None = None,
    ) -> int:
        """Pass on progress until the run ends; return its exit status."""
        read, rest = 0, b""
        heard = reached = time.monotonic()
        while True:
            if stop is not None and stop.is_set():
                raise KeyboardInterrupt
            try:
                polled = connection.run("poll", folder, read + 1, seconds=20, attempts=1)
            except LineLostError as error:
                if time.monotonic() - reached > self.patience.lost_seconds:
                    raise BenchmarkError(
                        f"The line to {self.host} was lost and did not come back: {error} "
                        "The board removes its folder by itself."
                    ) from error
                time.sleep(self.patience.poll_seconds)
                continue
            reached = time.monotonic()
            if polled.returncode == GONE:
                raise BenchmarkError(f"The folder of the run on {self.host} is gone: {folder}.")
            new, _, status = polled.stdout.rpartition(SEPARATOR)
            read += len(new)
            if read > MOST_BYTES:
                raise invalid("its progress does not end")
            percent = remarks.percent
            *lines, rest = (rest + new).split(b"\n")
            for line in lines:
                remarks.read(line.decode(errors="replace"))
            if remarks.percent > percent:
                heard = reached
            if re.fullmatch(rb"-?\d{1,6}", status.strip()):
                return int(status)
            if status.strip():
                raise invalid("it does not say how the run ended")
            if reached - heard > seconds:
                raise BenchmarkError(
                    f"The run on {self.host} made no progress for {seconds:g} seconds."
                )
            time.sleep(self.patience.poll_seconds)


def measure_clock_offset(
    connection: Connection, board: Board, folder: str, seconds: float = Patience.clock_seconds
) -> tuple[float, float]:
    """Ask the board for its monotonic clock a few times.

    Returns:
        Seconds that it is ahead of this machine's, and how far off that may be: half of the
        shortest way there and back, after Cristian (1989).
    """
    best = (0.0, float("inf"))
    with connection.open(board.python, "-E", f"{folder}/harness", "--clock") as process:
        assert process.stdin is not None and process.stdout is not None
        try:
            for _ in range(EXCHANGES):
                sent = time.monotonic()
                process.stdin.write(b"\n")
                line = _read_line(process.stdout.fileno(), sent + seconds)
                received = time.monotonic()
                theirs = float(json.loads(line)["monotonic"])
                error = (received - sent) / 2
                if error < best[1] and math.isfinite(theirs):
                    best = theirs - (sent + received) / 2, error
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            pass  # no clock: what needs it says so
        finally:
            with contextlib.suppress(OSError):
                process.stdin.close()
            try:
                process.wait(seconds)
            except subprocess.TimeoutExpired:
                process.kill()
    return best


def _read_line(descriptor: int, deadline: float) -> bytes:
    """Read from a pipe to the end of a line.

    Raises:
        TimeoutError: it does not come in time, or is endless.
    """
    line = b""
    while not line.endswith(b"\n") and len(line) < MOST_BYTES:
        left = max(0.0, deadline - time.monotonic())
        if not select.select([descriptor], [], [], left)[0]:
            break
        if not (part := os.read(descriptor, 4096)):
            return line
        line += part
    else:
        return line
    raise TimeoutError


def _copy(connection: Connection, folder: str, models: Sequence[Path], settings: Settings) -> None:
    with tempfile.TemporaryFile() as archive:
        _pack(archive, models, settings.batch)
        size = archive.tell()
        archive.seek(0)
        seconds = 60 + size / 100e3  # a slow wireless line
        done = connection.run("unpack", folder, given=archive, seconds=seconds)
    if done.returncode:
        said = done.stderr.decode(errors="replace")
        if re.search("No space left|Disk quota exceeded", said):
            raise BenchmarkError(_full(connection.host, folder))
        _explain_full_disk(connection, folder)
        raise BenchmarkError(f"Cannot copy to {connection.host}: {_last_line(done.stderr)}.")


def _pack(archive: IO[bytes], models: Sequence[Path], batch: Path | None) -> None:
    with tarfile.open(fileobj=archive, mode="w") as tar:
        harness = find_folder("devices") / "harness"
        for path in sorted(harness.glob("*.py")):
            tar.add(path, f"harness/{path.name}", filter=_anonymous)
        for number, model in enumerate(models):
            tar.add(model.resolve(), _place(number, model), filter=_anonymous)
        if batch is not None:
            tar.add(batch.resolve(), BATCH, filter=_anonymous)


def _anonymous(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    entry.mode = 0o644
    return entry


def _place(number: int, model: Path) -> str:
    """Return where a model lies in the run's folder; names may repeat, their folders do not."""
    return f"models/{number}/{model.name}"


def _explain_full_disk(connection: Connection, folder: str) -> None:
    """Raise if the reason that there is no answer is that it could not be written."""
    with contextlib.suppress(LineLostError, ValueError):
        available = connection.run("space", folder, attempts=1).stdout
        if int(available) < FULL_KILOBYTES:
            raise BenchmarkError(_full(connection.host, folder))


def _full(host: str, folder: str) -> str:
    return f"The disk of {host} is full: the run's folder {folder} could not be written."


def _last_line(text: bytes) -> str:
    lines = [line for line in text.decode(errors="replace").splitlines() if line.strip()]
    return lines[-1].strip().rstrip(".") if lines else "it gave no reason"
