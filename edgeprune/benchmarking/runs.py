"""Measure models side by side."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from edgeprune.benchmarking.documents import Answer, Transport
from edgeprune.benchmarking.local import LocalTransport
from edgeprune.benchmarking.measurement_settings import NO_METER, Meter, Settings
from edgeprune.benchmarking.measurements import BenchInterrupted, BenchResult, read_document
from edgeprune.benchmarking.profiles import read_profile
from edgeprune.benchmarking.recorders import Readings, recording
from edgeprune.boards.target_files import find_target
from edgeprune.boards.targets import Target
from edgeprune.energy.windowed_energy import Energy, PowerSeries, estimate_energy
from edgeprune.errors import BenchmarkError, ModelError
from edgeprune.tflite.runtime import check_file

StrPath = str | os.PathLike[str]

DEFAULT_RUNS = 1000
DEFAULT_SECONDS = 5.0
DEFAULT_WARMUP = 2.0
DEFAULT_THREADS = 4
EDGETPU = "libedgetpu.so.1"
"""Library of the Edge TPU where no target names another."""


def bench(
    models: StrPath | Sequence[StrPath] | Mapping[str, StrPath],
    *,
    target: str | Target | None = None,
    threads: int | None = None,
    runs: int = DEFAULT_RUNS,
    seconds: float = DEFAULT_SECONDS,
    warmup: float = DEFAULT_WARMUP,
    transport: Transport | None = None,
    energy: str | Meter = NO_METER,
    batch: StrPath | None = None,
    refuse_throttled: bool = False,
) -> BenchResult:
    """Measure `.tflite` models, interleaved in one run of a clean process.

    Each measurement says on which machine it was taken; milliseconds of another machine than the
    target are never the target's.

    Args:
        models: paths, or paths by the names they get in the result (else their file names).
        target: that the models were built for, or its name: gives the default of `threads`, and
            the library and device that run models compiled for the Edge TPU.
        threads: of the runtime; by default the target's, here at most what this machine has.
        runs: most timed inferences per model.
        seconds: most seconds of timed inferences per model; at least ten inferences.
        warmup: most seconds of warm-up per model; it ends when the times are steady.
        transport: runs the harness somewhere, such as `SshTransport`; by default here.
        energy: a meter, such as `hwmon` or `log:power.csv`, or `auto` for the target's own.
        batch: `.npz` with `inputs` and `labels`: accuracy on the machine that is measured.
        refuse_throttled: fail if that machine slowed itself down, instead of a warning.

    Returns:
        One measurement per model, and the environment.

    Raises:
        BenchmarkError: bad arguments, or the measurement failed.
        ModelError: not a `.tflite` file, or compiled for the Edge TPU, which the target is not.
        EdgepruneError: unknown target.
        BenchInterrupted: the user stopped it; carries what there was.

    Example:
        >>> result = bench({"before": "model.tflite", "after": "slim.tflite"})   # doctest: +SKIP
        >>> result["before"].p50_ms / result["after"].p50_ms                     # doctest: +SKIP
        2.1
    """
    named = _name(models)
    if isinstance(target, str):
        target = find_target(target)
    settings = Settings(
        threads=_choose_threads(target, transport) if threads is None else threads,
        runs=runs,
        seconds=seconds,
        warmup_seconds=warmup,
        meter=_choose_meter(energy, target),
        batch=None if batch is None else Path(batch),
        refuse_throttled=refuse_throttled,
    )
    return _run(named, settings, target, transport)


def profile(
    models: StrPath | Sequence[StrPath] | Mapping[str, StrPath],
    *,
    target: str | Target | None = None,
    threads: int | None = None,
    seconds: float = DEFAULT_SECONDS,
    transport: Transport | None = None,
) -> BenchResult:
    """Measure `.tflite` models as `bench` does, and the time of each of their operators.

    Args:
        models: as for `bench`.
        target: likewise.
        threads: likewise.
        seconds: most seconds of timed inferences per model, and about as many of its parts, which
            have to be opened one by one besides.
        transport: as for `bench`.

    Returns:
        Measurements with a `profile`.

    Raises:
        BenchmarkError: as `bench`; likewise the others.

    Example:
        >>> result = profile("model.tflite", target="rpi4")                      # doctest: +SKIP
        >>> next(iter(result.measurements[0].profile.by_layer()))                # doctest: +SKIP
        'block_1_expand'
    """
    named = _name(models)
    if isinstance(target, str):
        target = find_target(target)
    threads = _choose_threads(target, transport) if threads is None else threads
    settings = Settings(threads, seconds=seconds, profile=True)
    return _run(named, settings, target, transport)


def _run(
    named: Mapping[str, StrPath],
    settings: Settings,
    target: Target | None,
    transport: Transport | None,
) -> BenchResult:
    settings.check()
    delegate = _choose_delegate(named, target)
    if delegate is not None:
        settings = replace(settings, delegate=delegate, device=target.device if target else None)
    paths = [Path(path) for path in named.values()]
    with _recording_beside(settings) as readings:
        answer = (transport or LocalTransport()).measure(paths, settings)
        energies, problems = _estimate(answer, list(named), settings, readings)
    result = read_document(answer.document, list(named), target, energies)
    if settings.profile:
        result, disagreements = _attach_profiles(result, answer, named)
        problems += disagreements
    result = replace(result, warnings=(*result.warnings, *problems))
    if answer.interrupted:
        raise BenchInterrupted(result) if result.measurements else KeyboardInterrupt
    return result


def _attach_profiles(
    result: BenchResult, answer: Answer, named: Mapping[str, StrPath]
) -> tuple[BenchResult, list[str]]:
    """Return the measurements with the times of their operators, and what does not add up."""
    rounds = dict(
        zip(named, (entry["profile"] for entry in answer.document["models"]), strict=True)
    )
    entries, problems = [], []
    for entry in result.measurements:
        found = rounds[entry.model]
        if found is not None:
            made = read_profile(found, named[entry.model])
            entry = replace(entry, profile=made)
            if not made.agrees:
                problems.append(
                    f"profile of {entry.model}: the operators add up to {made.sum_ms:.3f} ms, the "
                    f"whole takes {made.whole_ms:.3f} ms"
                )
        entries.append(entry)
    return replace(result, measurements=tuple(entries)), problems


@contextlib.contextmanager
def _recording_beside(settings: Settings) -> Iterator[Readings | None]:
    if not settings.meter.on_host:
        yield None
        return
    with recording(settings.meter, settings.period_seconds) as readings:
        yield readings


def _estimate(
    answer: Answer, names: Sequence[str], settings: Settings, readings: Readings | None
) -> tuple[list[Energy | None], list[str]]:
    """Return the energy of every model, and why there is none of some."""
    measured = answer.document["energy"]
    if not settings.meter or measured is None:
        return [None] * len(names), []
    if readings is not None:
        series, kind = readings()
        series = series.shift(answer.clock_offset)
    else:
        own = measured["meter"]
        series = PowerSeries.from_readings(measured["readings"] or [], own["period"])
        kind = own["kind"]
    problems = [f"energy: {measured['problem']}"] if measured["problem"] else []
    if len(series.times) < 2:
        return [None] * len(names), [*problems, "energy: the meter gave no readings"]
    if readings is not None and answer.clock_error > series.period:
        return [None] * len(names), [
            f"energy: the clocks of the board and of this machine agree within "
            f"{answer.clock_error:.2g} s only, the meter reads every {series.period:.2g} s"
        ]
    meter = settings.meter.name if settings.meter.name == "log" else settings.meter.argument
    energies: list[Energy | None] = []
    for index, name in enumerate(names):
        found = estimate_energy(measured["windows"], series, index, kind=kind, meter=meter)
        energies.append(found if isinstance(found, Energy) else None)
        if isinstance(found, str):
            problems.append(f"energy of {name}: {found}")
    return energies, problems


def _choose_threads(target: Target | None, transport: Transport | None) -> int:
    wanted = target.threads if target else DEFAULT_THREADS
    if transport is not None:
        return wanted
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None
    return min(wanted, usable or os.cpu_count() or 1)


def _choose_delegate(named: Mapping[str, StrPath], target: Target | None) -> str | None:
    """Return the library that compiled models need; `None` where there are none."""
    compiled = [name for name, path in named.items() if check_file(path, compiled=True)]
    if not compiled:
        return None
    if target is not None and target.delegate is None:
        raise ModelError(
            f"'{compiled[0]}' is compiled for the Edge TPU, and target '{target.name}' has none. "
            "Give --target coral-usb or the like, or the .tflite it was compiled from (the name "
            "without '_edgetpu')."
        )
    return EDGETPU if target is None else target.delegate


def _choose_meter(energy: str | Meter, target: Target | None) -> Meter:
    if isinstance(energy, Meter):
        return energy
    if energy != "auto":
        return Meter.parse(energy)
    if target is None or target.energy_meter == "none":
        name = target.name if target else "no target"
        raise BenchmarkError(
            f"energy 'auto' takes the target's own meter, and {name} has none: name a meter."
        )
    return Meter.parse(target.energy_meter)


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
