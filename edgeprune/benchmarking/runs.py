"""Measure models side by side."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from edgeprune.benchmarking.local import run_harness
from edgeprune.benchmarking.measurements import BenchResult, read_document
from edgeprune.benchmarking.target_files import find_target
from edgeprune.benchmarking.targets import Target
from edgeprune.errors import BenchmarkError
from edgeprune.progress import SILENT, Progress
from edgeprune.runtime import check_file

StrPath = str | os.PathLike[str]

DEFAULT_RUNS = 1000
DEFAULT_SECONDS = 5.0


def bench(
    models: StrPath | Sequence[StrPath] | Mapping[str, StrPath],
    *,
    target: str | Target | None = None,
    threads: int | None = None,
    runs: int = DEFAULT_RUNS,
    seconds: float = DEFAULT_SECONDS,
    progress: Progress = SILENT,
) -> BenchResult:
    """Measure `.tflite` models on this machine, interleaved in one run of a clean process.

    Whatever the target, the milliseconds are those of this machine's CPU, and each measurement
    says so.

    Args:
        models: paths, or paths by the names they get in the result (else their file names).
        target: that the models were built for, or its name: gives the default of `threads`.
        threads: of the runtime; by default the target's, at most what this machine has.
        runs: most timed inferences per model.
        seconds: most seconds of timed inferences per model; at least ten inferences.
        progress: told about every percent.

    Returns:
        One measurement per model, and the environment.

    Raises:
        BenchmarkError: bad arguments, or the measurement failed.
        ModelError: not a `.tflite` file, or compiled for the Edge TPU.
        EdgepruneError: unknown target.

    Example:
        >>> result = bench({"before": "model.tflite", "after": "slim.tflite"})   # doctest: +SKIP
        >>> result["before"].p50_ms / result["after"].p50_ms                     # doctest: +SKIP
        2.1
    """
    named = _name(models)
    if (threads is not None and threads < 1) or runs < 1 or not seconds > 0:
        raise BenchmarkError(
            f"threads, runs and seconds must be positive; got {threads}, {runs} and {seconds}."
        )
    if isinstance(target, str):
        target = find_target(target)
    for path in named.values():
        check_file(path)
    if threads is None:
        usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None
        threads = min(target.threads if target else 4, usable or os.cpu_count() or 1)
    document = run_harness(
        [Path(path) for path in named.values()],
        threads=threads,
        runs=runs,
        seconds=seconds,
        progress=progress,
    )
    return read_document(document, list(named), target)


def _name(models: StrPath | Sequence[StrPath] | Mapping[str, StrPath]) -> dict[str, StrPath]:
    if isinstance(models, str | os.PathLike):
        models = [models]
    named = dict(models) if isinstance(models, Mapping) else {Path(p).name: p for p in models}
    if not named:
        raise BenchmarkError("There is nothing to measure: give at least one .tflite file.")
    if len(named) < len(models):
        raise BenchmarkError(
            "Several models have the same file name: give them names, bench({'before': path, ...})."
        )
    return named
