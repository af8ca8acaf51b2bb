"""A line to a board: OpenSSH as a process, with the user's settings, keys and known hosts."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import IO

from edgeprune.benchmarking.documents import MOST_BYTES, invalid
from edgeprune.errors import BenchmarkError
from edgeprune.support.resources import find_folder

CONNECT_SECONDS = 10
COMMAND_SECONDS = 60.0
ATTEMPTS = 3
LOOK_SECONDS = 0.1
PAUSE_SECONDS = 1.0
LOST = 255  # exit status of ssh itself

# What ssh says -> what it means; the first that is found counts. Neither is worth another attempt.
_FINAL = (
    (
        r"REMOTE HOST IDENTIFICATION HAS CHANGED",
        "The host key of {host} has changed: another machine answers under its name, or the board "
        "was set up anew. In the second case remove the old key ({place}) and connect once by hand",
    ),
    (
        r"No \S+ host key is known|Host key verification failed",
        "The host key of {host} is not known: connect once by hand (ssh {host}) and compare it",
    ),
    (
        r"Permission denied",
        "{host} refuses the login: 'ssh {host}' must work without a password (a key or an agent)",
    ),
    (r"Could not resolve hostname", "There is no machine of the name {host}"),
    (r"Bad configuration option|Can't open user config file", "ssh cannot be used: {said}"),
)


class LineLostError(BenchmarkError):
    """The line dropped or could not be made; another attempt may help."""


class Connection:
    """Runs scripts on a board; all of them share one connection.

    Keys of hosts are checked as the user's settings say; nothing here turns that off.
    """

    def __init__(self, host: str, config: Path | None = None) -> None:
        """Remember where to; the first command connects.

        Args:
            host: as ssh takes it: `pi@raspberrypi.local`, an alias, or `ssh://pi@host:2222`.
            config: a settings file instead of the user's own.

        Raises:
            BenchmarkError: no ssh is installed, or `host` is none.
        """
        if not host or host.startswith("-") or re.search(r"\s", host):
            raise BenchmarkError(f"'{host}' is no host. Expected pi@raspberrypi.local or the like.")
        if shutil.which("ssh") is None:
            raise BenchmarkError("No ssh is installed here: apt install openssh-client.")
        self.host = host
        self._folder = tempfile.mkdtemp(prefix="edgeprune-ssh-")
        self._options = ["-F", str(config)] if config else []
        for option in (
            "BatchMode=yes",
            f"ConnectTimeout={CONNECT_SECONDS}",
            "ControlMaster=auto",
            f"ControlPath={self._folder}/line",
            "ControlPersist=60",
            "ServerAliveInterval=5",
            "ServerAliveCountMax=3",
        ):
            self._options += ["-o", option]

    def run(
        self,
        script: str,
        *arguments: object,
        given: IO[bytes] | bytes = b"",
        seconds: float = COMMAND_SECONDS,
        attempts: int = ATTEMPTS,
        most: int = MOST_BYTES,
    ) -> subprocess.CompletedProcess[bytes]:
        """Run one of `devices/remote` on the board.

        Args:
            script: its name without the ending.
            arguments: of the script.
            given: for its standard input.
            seconds: until it is given up.
            attempts: how often a line that cannot be made is tried.
            most: bytes that it may print.

        Returns:
            What it printed, and its exit status, whatever that is.

        Raises:
            LineLostError: no line, even after the last attempt.
            BenchmarkError: there will be none: the host key, the login or the name is wrong; or the
                board prints too much.
        """
        text = (find_folder("devices") / "remote" / f"{script}.sh").read_text(encoding="utf-8")
        words = ["sh", "-c", text, script, *map(str, arguments)]
        for attempt in range(1, attempts + 1):
            try:
                return self._run(["exec " + shlex.join(words)], given, seconds, most)
            except LineLostError:
                if attempt == attempts:
                    raise
                time.sleep(PAUSE_SECONDS * attempt)
                if not isinstance(given, bytes):
                    given.seek(0)
        raise AssertionError("attempts is positive")

    def open(self, *command: str) -> subprocess.Popen[bytes]:
        """Start a command on the board and talk to it through pipes."""
        return subprocess.Popen(
            self._ssh([shlex.join(command)]),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            start_new_session=True,
        )

    def close(self) -> None:
        """End the shared connection."""
        command = ["ssh", *self._options, "-O", "exit", "--", self.host]
        with contextlib.suppress(subprocess.TimeoutExpired):
            subprocess.run(command, capture_output=True, timeout=CONNECT_SECONDS, check=False)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _ssh(self, words: list[str]) -> list[str]:
        return ["ssh", *self._options, "-T", "--", self.host, *words]

    def _run(
        self, words: list[str], given: IO[bytes] | bytes, seconds: float, most: int
    ) -> subprocess.CompletedProcess[bytes]:
        # Files: the connection that stays open in the background would hold pipes open.
        with (
            tempfile.TemporaryFile() as output,
            tempfile.TemporaryFile() as errors,
            tempfile.TemporaryFile() as typed,
        ):
            if isinstance(given, bytes):
                typed.write(given)
                typed.seek(0)
            done = subprocess.Popen(
                self._ssh(words),
                stdin=typed if isinstance(given, bytes) else given,
                stdout=output,
                stderr=errors,
                env={**os.environ, "LC_ALL": "C"},
                start_new_session=True,  # Ctrl-C is for this process, which then cleans up
            )
            try:
                self._wait(done, (output, errors), seconds, most)
            finally:
                done.kill()
                done.wait()
            output.seek(0)
            errors.seek(0)
            printed, said = output.read(), errors.read()
        if done.returncode == LOST:
            raise self._explain(said.decode(errors="replace"))
        return subprocess.CompletedProcess(words, done.returncode, printed, said)

    def _wait(
        self,
        process: subprocess.Popen[bytes],
        files: Iterable[IO[bytes]],
        seconds: float,
        most: int,
    ) -> None:
        end = time.monotonic() + seconds
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(LOOK_SECONDS)
            if any(os.fstat(file.fileno()).st_size > most for file in files):
                raise invalid(f"{self.host} sent more than {most / 2**20:.0f} MB")
            if process.returncode is not None:
                return
            if time.monotonic() > end:
                raise LineLostError(f"{self.host} did not answer within {seconds:g} seconds.")

    def _explain(self, said: str) -> BenchmarkError:
        lines = [line.strip() for line in said.splitlines() if line.strip()]
        last = lines[-1] if lines else "ssh gave no reason"
        offending = re.search(r"Offending \S+ key in (.+):(\d+)", said)
        place = f"line {offending[2]} of {offending[1]}" if offending else "ssh-keygen -R"
        for pattern, meaning in _FINAL:
            if re.search(pattern, said):
                return BenchmarkError(meaning.format(host=self.host, place=place, said=last) + ".")
        reason = re.sub(r"^ssh: connect to host \S+ port \d+: ", "", last).rstrip(".")
        return LineLostError(f"Cannot reach {self.host}: {reason}.")
