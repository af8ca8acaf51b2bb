"""The Edge TPU's compiler on another machine, by SSH."""

from __future__ import annotations

import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path

from edgeprune.benchmarking.documents import invalid
from edgeprune.benchmarking.ssh_connection import Connection
from edgeprune.tflite.edgetpu.compiler import SECONDS, Compile

NO_COMPILER = 3  # exit status of compile.sh
GROWTH = 4
SPARE_BYTES = 16 * 2**20


def compile_on(host: str, config: Path | None = None) -> Compile:
    """Return what compiles on a host, for `compile_together`.

    Args:
        host: as ssh takes it.
        config: an ssh settings file instead of the user's own.

    Raises:
        BenchmarkError: what is returned raises it, where the host cannot be reached or lies.
    """

    def run(models: Sequence[Path], workspace: Path) -> tuple[str, str | None]:
        connection = Connection(host, config)
        try:
            with tempfile.TemporaryFile() as archive:
                with tarfile.open(fileobj=archive, mode="w") as tar:
                    for model in models:
                        tar.add(model.resolve(), model.name)
                size = archive.tell()
                archive.seek(0)
                done = connection.run(
                    "compile",
                    given=archive,
                    seconds=SECONDS + size / 100e3,
                    attempts=1,
                    most=GROWTH * size + SPARE_BYTES,
                )
        finally:
            connection.close()
        if done.returncode == NO_COMPILER:
            return "", f"there is no edgetpu_compiler on the PATH of {host}"
        made = _unpack(done.stdout, models)
        for name in made.keys() - {"output", "status"}:
            (workspace / name).write_bytes(made[name])
        output = made.get("output", b"").decode(errors="replace")
        status = made.get("status", b"").decode(errors="replace").strip()
        return output, None if status == "0" else f"exit code {status or 'unknown'}"

    return run


def _unpack(content: bytes, models: Sequence[Path]) -> dict[str, bytes]:
    """Return the files of an archive that are expected; nothing of it names a place to write to."""
    expected = {"output", "status"}
    for model in models:
        expected |= {f"{model.stem}_edgetpu.tflite", f"{model.stem}_edgetpu.log"}
    found = {}
    try:
        with tempfile.TemporaryFile() as archive:
            archive.write(content)
            archive.seek(0)
            with tarfile.open(fileobj=archive) as tar:
                for entry in tar:
                    name, file = entry.name.removeprefix("./"), tar.extractfile(entry)
                    if entry.isreg() and file is not None and name in expected:
                        found[name] = file.read()
    except (tarfile.TarError, EOFError, KeyError) as error:
        raise invalid("it sent no archive") from error
    return found
