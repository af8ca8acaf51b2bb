"""Run `edgetpu_compiler` where there is one: x86-64 Linux only, from Google, in no registry."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from edgeprune.tflite.edgetpu.compiler_log import CompilerLog, parse_log
from edgeprune.tflite.metadata import attach_files, read_files

PROGRAM = "edgetpu_compiler"
SECONDS = 300.0
_MOST_CHARACTERS = 20_000
Compile = Callable[[Sequence[Path], Path], tuple[str, str | None]]
"""Compiles models into a folder; returns what was printed, and why it failed."""


@dataclass(frozen=True)
class Compilation:
    """What came of compiling a model for the Edge TPU.

    Attributes:
        command: to run by hand, where there is no compiler or it failed.
        compiler: path of the compiler; `None` where there is none on the PATH.
        file: name of what it made; `None` where it made nothing.
        failure: why not, in one line.
        log: what it said.
        output: its own words, at most 20,000 characters.
    """

    command: str
    compiler: str | None = None
    file: str | None = None
    failure: str | None = None
    log: CompilerLog | None = None
    output: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON types."""
        return asdict(self)


def find_compiler() -> str | None:
    """Return the path of `edgetpu_compiler`, or `None` where there is none on the PATH."""
    return shutil.which(PROGRAM)


def compiler_command(model: str | os.PathLike[str], folder: str | os.PathLike[str]) -> str:
    """Return the command line that compiles a model into a folder.

    Example:
        >>> compiler_command("out/model.tflite", "out")
        'edgetpu_compiler -s -o out out/model.tflite'
    """
    return shlex.join([PROGRAM, "-s", "-o", os.fspath(folder), os.fspath(model)])


def compile_model(
    model: Path, folder: Path, *, delivered: Path | None = None, seconds: float = SECONDS
) -> Compilation:
    """Compile a `.tflite` for the Edge TPU, if the compiler is there.

    The compiler's exit codes are not documented: a code other than 0, or no output, is a failure.
    One that hangs is ended, together with what it started.

    Args:
        model: an int8 `.tflite`.
        folder: gets `<name>_edgetpu.tflite`; nothing where the compiler fails.
        delivered: folder in which the model will be, for the command to run by hand.
        seconds: the longest it may take.
    """
    home = folder if delivered is None else delivered
    command = compiler_command(home / model.name, home)
    program = find_compiler()
    if program is None:
        return Compilation(command)
    (made,) = compile_together([model], folder, compile_here(program, seconds), program)
    return replace(made, command=command)


def compile_here(program: str, seconds: float = SECONDS) -> Compile:
    """Return what compiles on this machine, for `compile_together`."""
    return lambda models, workspace: _run(
        [program, "-s", "-o", str(workspace), *map(str, models)], seconds
    )


def compile_together(
    models: Sequence[Path], folder: Path, run: Compile, compiler: str
) -> tuple[Compilation, ...]:
    """Compile models that share the chip: several have their parameters in its memory together.

    Args:
        models: int8 `.tflite` files; no two have the same name.
        folder: gets `<name>_edgetpu.tflite` of each; nothing where one of them fails.
        run: compiles, here or elsewhere.
        compiler: what does, for people.

    Returns:
        One entry per model.
    """
    command = shlex.join([PROGRAM, "-s", "-o", os.fspath(folder), *map(os.fspath, models)])
    with tempfile.TemporaryDirectory(dir=folder, prefix=".edgetpu-") as workspace:
        output, failure = run(models, Path(workspace))
        made = {model: Path(workspace) / f"{model.stem}_edgetpu.tflite" for model in models}
        failure = parse_log(output).failure or failure
        logs = {}
        for model, path in made.items():
            log = path.with_suffix(".log")
            written = log.read_text(errors="replace") if log.exists() else ""
            logs[model] = parse_log(written if len(models) > 1 else output + "\n" + written)
            failure = failure or logs[model].failure
            if failure is None and not _is_model(path):
                failure = f"it wrote no model '{path.name}'"
        if failure is None:
            for model, path in made.items():
                _keep_attachments(model, path)
                os.replace(path, folder / path.name)
    return tuple(
        Compilation(
            command,
            compiler,
            file=path.name if failure is None else None,
            failure=failure,
            log=logs[model],
            output=output[-_MOST_CHARACTERS:],
        )
        for model, path in made.items()
    )


def _run(command: list[str], seconds: float) -> tuple[str, str | None]:
    """Return what a program printed, and why it failed."""
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    except OSError as error:
        return "", f"it cannot be started: {error.strerror}"
    try:
        printed, _ = process.communicate(timeout=seconds)
        failure = f"exit code {process.returncode}" if process.returncode else None
    except subprocess.TimeoutExpired:
        failure = f"it was not done after {seconds:g} s and was ended"
        os.killpg(process.pid, signal.SIGKILL)
        printed, _ = process.communicate()
    except BaseException:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        raise
    return printed.decode(errors="replace"), failure


def _keep_attachments(model: Path, made: Path) -> None:
    """Put labels and the like behind the compiled model too, if the compiler dropped them."""
    files, content = read_files(model.read_bytes()), made.read_bytes()
    if files and not read_files(content):
        made.write_bytes(attach_files(content, files))


def _is_model(path: Path) -> bool:
    return path.is_file() and path.read_bytes()[4:8] == b"TFL3"
