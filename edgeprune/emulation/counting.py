"""Numbers of a board without the board: arm64 in QEMU's user mode.

What can be had there: the answers of the kernels that the board would run, and how many
instructions they take. What cannot: time. Nothing here has a place for milliseconds.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from edgeprune.benchmarking.documents import following, read_answer
from edgeprune.boards.target_files import find_target
from edgeprune.boards.targets import Target
from edgeprune.errors import BenchmarkError
from edgeprune.support.resources import find_folder
from edgeprune.tflite.runtime import check_file

QEMU = "qemu-aarch64"
LIMIT_SECONDS = 1800.0
# Kernels are chosen by both the CPU that QEMU plays and the part that /proc/cpuinfo names.
PARTS = {"cortex-a53": 0xD03, "cortex-a57": 0xD07, "cortex-a72": 0xD08, "cortex-a76": 0xD0B}
FEATURES = "fp asimd evtstrm crc32 cpuid"
FEATURES_OF = {
    "cortex-a76": FEATURES + " atomics fphp asimdhp asimdrdm lrcpc dcpop asimddp",
}


@dataclass(frozen=True)
class Count:
    """What one model computes on a board's CPU, counted and not timed.

    Attributes:
        model: name given by the caller.
        kind: always `counted`.
        cpu: that was emulated.
        target: whose CPU it is.
        runtime: with its version.
        outputs_sha256: of the outputs for the harness's own inputs, byte by byte.
        instructions: per inference, with one thread; None without the counting plugin.
        instructions_by_kind: likewise, of loads and stores, vector, branches and integer.
        accuracy: on the batch that came along.
        batch_sha256: of all answers to that batch.
        sha256: of the file.
    """

    model: str
    kind: Literal["counted"]
    cpu: str
    target: str
    runtime: str
    outputs_sha256: str
    instructions: float | None
    instructions_by_kind: Mapping[str, float]
    accuracy: float | None
    batch_sha256: str | None
    sha256: str


@dataclass(frozen=True)
class CountResult:
    """Models counted in one run.

    Attributes:
        counts: in the order the models were given.
    """

    counts: tuple[Count, ...]

    def __getitem__(self, model: str) -> Count:
        """Return the count of a model by its name."""
        for count in self.counts:
            if count.model == model:
                return count
        raise KeyError(model)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON types."""
        return {"counts": [asdict(count) for count in self.counts]}


def count_instructions(
    models: Mapping[str, str | os.PathLike[str]],
    *,
    target: str | Target,
    root: Path | None = None,
    repeats: int = 3,
    batch: Path | None = None,
) -> CountResult:
    """Run models on an emulated board.

    Args:
        models: paths by name.
        target: whose CPU is emulated.
        root: an arm64 user space, as `devices/emulator/make_root.sh` makes it; by default
            `~/.cache/edgeprune/arm64`.
        repeats: inferences that are counted.
        batch: `.npz` with `inputs` and `labels`.

    Raises:
        BenchmarkError: no QEMU, no user space, a target that cannot be emulated, or the run failed.
        ModelError: not a `.tflite` file, or compiled for the Edge TPU.
    """
    target = find_target(target) if isinstance(target, str) else target
    cpu = find_cpu(target)
    root = find_root(root)
    for path in models.values():
        check_file(path)
    with tempfile.TemporaryDirectory(prefix="edgeprune-emulated-") as workspace:
        counts = Path(workspace) / "counts.jsonl"
        prefix = _make_prefix(Path(workspace) / "root", root, cpu)
        command = [QEMU, "-cpu", cpu, "-L", str(prefix)]
        plugin = root / ".instructions.so"
        if plugin.exists():
            command[1:1] = ["-plugin", f"{plugin},out={counts}"]
        python = (root / ".python").read_text(encoding="utf-8").strip()
        command += [str(root / python.lstrip("/")), str(find_folder("devices") / "harness")]
        command += ["--count", "--repeats", str(repeats)]
        if batch is not None:
            command += ["--batch", str(batch.resolve())]
        command += [str(Path(path).resolve()) for path in models.values()]
        document = _run(command, root, len(models))
        lines = counts.read_text().splitlines() if counts.exists() else []
    tallies = [json.loads(line) for line in lines] or [{}] * len(models)
    software = document["software"]
    return CountResult(
        tuple(
            _read_model(
                entry,
                name,
                {key: value / repeats for key, value in tally.items()},
                cpu=cpu,
                target=target.name,
                runtime=f"{software['runtime']} {software['runtime_version']}",
            )
            for entry, name, tally in zip(document["models"], models, tallies, strict=True)
        )
    )


def find_cpu(target: Target) -> str:
    """Return QEMU's name of a target's CPU.

    Raises:
        BenchmarkError: it is no arm64 CPU that QEMU plays.

    Example:
        >>> find_cpu(find_target("rpi4"))
        'cortex-a72'
    """
    match = re.search(r"cortex-a\d+", target.cpu.lower())
    if target.architecture != "aarch64" or match is None or match[0] not in PARTS:
        raise BenchmarkError(
            f"The CPU of '{target.name}' ({target.cpu}) cannot be emulated. "
            f"There are {', '.join(PARTS)}."
        )
    return match[0]


def find_root(root: Path | None = None) -> Path:
    """Return the arm64 user space, if there is a QEMU to run it.

    Raises:
        BenchmarkError: one of them is missing; says how to get it.
    """
    if shutil.which(QEMU) is None:
        raise BenchmarkError(f"There is no {QEMU} here: apt install qemu-user.")
    if root is None:
        cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        root = Path(cache) / "edgeprune" / "arm64"
    if not (root / ".complete").exists():
        script = find_folder("devices") / "emulator" / "make_root.sh"
        raise BenchmarkError(f"There is no arm64 user space at '{root}'. Make it: {script} {root}")
    return root


def _make_prefix(prefix: Path, root: Path, cpu: str) -> Path:
    """Make a root of links, with a /proc/cpuinfo of its own: runs of other CPUs go on beside it."""
    prefix.mkdir()
    for entry in root.iterdir():
        if entry.name not in ("proc", "sys"):
            (prefix / entry.name).symlink_to(entry)
    (prefix / "proc").mkdir()
    core = (
        "processor\t: {number}\nBogoMIPS\t: 108.00\n"
        f"Features\t: {FEATURES_OF.get(cpu, FEATURES)}\nCPU implementer\t: 0x41\n"
        f"CPU architecture: 8\nCPU variant\t: 0x0\nCPU part\t: {PARTS[cpu]:#x}\n"
        "CPU revision\t: 3\n\n"
    )
    text = "".join(core.format(number=number) for number in range(2))
    (prefix / "proc" / "cpuinfo").write_text(text)
    cores = prefix / "sys" / "devices" / "system" / "cpu"
    cores.mkdir(parents=True)
    for name in ("possible", "present"):  # without them XNNPACK turns itself off
        (cores / name).write_text("0-1\n")
    return prefix


def _run(command: Sequence[str], root: Path, models: int) -> dict[str, Any]:
    environment = {
        "PATH": "/usr/bin:/bin",
        "PYTHONHASHSEED": "0",  # else every run takes other ways through Python's dictionaries
        "PYTHONHOME": str(root / "usr"),
        "PYTHONPATH": str(root / "opt" / "runtime"),
    }
    with tempfile.TemporaryFile() as output, following() as remarks:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
            start_new_session=True,
        )
        try:
            for line in process.stderr or ():
                remarks.read(line)
            process.wait(LIMIT_SECONDS)
        finally:
            process.kill()
            process.wait()
            if process.stderr:
                process.stderr.close()
        output.seek(0)
        return read_answer(output.read(), process.returncode, remarks, models, "count")


def _read_model(
    entry: Mapping[str, Any],
    name: str,
    tally: Mapping[str, float],
    *,
    cpu: str,
    target: str,
    runtime: str,
) -> Count:
    check = entry["accuracy"] or {"count": 0, "correct": None, "outputs_sha256": None}
    return Count(
        model=name,
        kind="counted",
        cpu=cpu,
        target=target,
        runtime=runtime,
        outputs_sha256=entry["outputs_sha256"],
        instructions=tally.get("total"),
        instructions_by_kind={key: value for key, value in tally.items() if key != "total"},
        accuracy=None if check["correct"] is None else check["correct"] / check["count"],
        batch_sha256=check["outputs_sha256"],
        sha256=entry["sha256"],
    )
