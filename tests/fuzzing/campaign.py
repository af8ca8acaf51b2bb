"""`make fuzz`: random networks, damaged files, hostile boards and killed builds, by the number.

Every seed that is finished stands in a log; the next run goes on from there. Seeds run in batches,
each in a process of its own: what ends or hangs a process is the failure of one seed.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

TESTS = Path(__file__).resolve().parent.parent
KINDS = {"graphs": "random_graphs", "boards": "hostile_boards", "kills": "killed_builds"}
BATCH = 40
PLAIN_EVERY = 10
"""One in so many batches of networks runs with the kernels of a CPU without AVX-512."""
SEED_SECONDS = 600.0


def run(kind: str, count: int, start: int, log: Path) -> list[int]:
    """Try the seeds of one kind that are not in the log; return those that failed."""
    results = {seed: said for name, seed, said in read_log(log) if name == kind}
    wanted = range(start, start + count)
    print(f"{kind}: seeds {start} to {start + count - 1}, log {log}", flush=True)
    with log.open("a") as file:
        while missing := [seed for seed in wanted if seed not in results]:
            first = missing[0]
            stop = min(wanted.stop, first - first % BATCH + BATCH)
            todo = [seed for seed in missing if seed < stop]
            for seed, said in try_batch(kind, todo):
                results[seed] = said
                print(json.dumps([kind, seed, said]), file=file, flush=True)
                print(f"{kind} {seed}: {said or 'ok'}", flush=True)
    failed = [seed for seed in wanted if results[seed] not in ("", "unrunnable")]
    unrunnable = sum(results[seed] == "unrunnable" for seed in wanted)
    passed = f", {unrunnable} that plain Keras cannot run" if unrunnable else ""
    print(f"{kind}: {count} seeds{passed}, {len(failed)} failed: {failed or 'none'}", flush=True)
    return failed


def read_log(log: Path) -> Iterator[tuple[str, int, str]]:
    """Yield kind, seed and result of every finished seed; a line that is cut is passed over."""
    for line in log.read_text().splitlines() if log.exists() else ():
        try:
            kind, seed, said = json.loads(line)
        except ValueError:
            continue
        yield kind, seed, said


def try_batch(kind: str, seeds: list[int]) -> Iterator[tuple[int, str]]:
    """Yield the result of each seed, from one process as long as that lives."""
    environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"}
    if kind == "graphs" and seeds[0] // BATCH % PLAIN_EVERY == 0:
        environment["TF_ENABLE_ONEDNN_OPTS"] = "0"
    command = [sys.executable, "-P", __file__, "--work", kind, *map(str, seeds)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment
    ) as process:
        assert process.stdout is not None
        for seed in seeds:
            line = read_line(process.stdout.fileno(), time.monotonic() + SEED_SECONDS)
            if not line.endswith(b"\n"):
                process.kill()
                code = process.wait()
                yield seed, f"it took {SEED_SECONDS:g} s or ended the process (exit {code})"
                return
            yield seed, json.loads(line)


def read_line(descriptor: int, end: float) -> bytes:
    """Return a line, or what there is of it when the time is up or the other side is gone."""
    line = b""
    while not line.endswith(b"\n"):
        if not select.select([descriptor], [], [], max(0.0, end - time.monotonic()))[0]:
            break
        if not (part := os.read(descriptor, 1)):
            break
        line += part
    return line


def work(kind: str, seeds: list[int]) -> None:
    """Try seeds in this process; print one line for each: empty, or what went wrong."""
    sys.path[:0] = [str(TESTS)]
    output = os.fdopen(os.dup(1), "w", 1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    check = importlib.import_module(f"fuzzing.{KINDS[kind]}").check
    for seed in seeds:
        said = ""
        try:
            check(seed)
        except Exception as error:
            text = " ".join(str(error).split())[:300]
            said = f"{type(error).__name__}: {text}"
            said = "unrunnable" if said.startswith("UnrunnableError") else said
        print(json.dumps(said), file=output, flush=True)


def main() -> int:
    """Run what the command line asks for; return how many seeds failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--graphs", type=int, default=2000)
    parser.add_argument("--files", type=int, default=500)
    parser.add_argument("--boards", type=int, default=60)
    parser.add_argument("--kills", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0, help="the first of each kind")
    parser.add_argument("--log", type=Path, default=Path("fuzz.jsonl"))
    parser.add_argument("--work", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        work(options.work[0], list(map(int, options.work[1:])))
        return 0
    failed = 0
    for kind in ("boards", "kills", "graphs"):
        failed += len(run(kind, getattr(options, kind), options.seed, options.log))
    if options.files:
        sys.path[:0] = [str(TESTS)]
        try:
            files = importlib.import_module("fuzzing.corrupted_files")
        except ModuleNotFoundError:
            print("files: there is no tests/fuzzing/corrupted_files.py, nothing was tried")
        else:
            failed += files.main(options.files, options.seed, f"{options.log}.files")
    print(f"{failed} seeds failed")
    return failed


if __name__ == "__main__":
    sys.exit(min(main(), 1))
