"""Measure a machine with micro-models and write its target file."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from edgeprune.benchmarking import BenchResult, bench
from edgeprune.benchmarking.documents import Transport
from edgeprune.boards import Target, find_target
from edgeprune.boards.target_files import find_own_targets, find_shipped_targets, read_target
from edgeprune.calibration.fits import fit_predictor
from edgeprune.calibration.micro_models import MicroModel, list_micro_models
from edgeprune.calibration.networks import SCHEMES, Scheme
from edgeprune.calibration.records import Records, read_records
from edgeprune.errors import BenchmarkError, EdgepruneError
from edgeprune.latency import Predictor
from edgeprune.latency.predictor import replace_tables, write_tables
from edgeprune.support.files import replace_on_success
from edgeprune.support.fingerprints import fingerprint
from edgeprune.support.progress import stage

BATCH = 16
TURNS = 2
SECONDS = 0.25
PROGRAM = "edgeprune calibrate"

Measure = Callable[[Mapping[str, Path]], BenchResult]


@dataclass(frozen=True)
class Calibration:
    """What a machine was found to be.

    Attributes:
        target: as its file now describes it.
        path: of the file.
        predictors: one per number format.
        machine: that was measured.
    """

    target: Target
    path: Path
    predictors: tuple[Predictor, ...]
    machine: str


def calibrate(
    target: str,
    *,
    schemes: Sequence[Scheme] = SCHEMES,
    threads: int | None = None,
    out: str | os.PathLike[str] | None = None,
    measure: Measure | None = None,
    models: Sequence[MicroModel] | None = None,
) -> Calibration:
    """Measure micro-models, fit the cost model to them and write a target file.

    Takes four minutes on a PC. Everything is measured twice, minutes apart, and the faster median
    counts, because others on the machine only slow it down. What has been measured is kept beside
    the file until all is done, so a calibration that was stopped goes on where it was.

    Args:
        target: name of a target; the new file is based on it.
        schemes: number formats to measure.
        threads: of the runtime; by default the target's, at most what the machine has.
        out: the file to write, `NAME.toml`; by default the target's own file in the user's folder,
            which from then on stands in for the shipped one.
        measure: measures named files; by default `bench` on this machine.
        models: in place of the usual micro-models.

    Returns:
        The target with its predictors.

    Raises:
        BenchmarkError: a measurement failed.
        EdgepruneError: unknown target, or a file that cannot be written.

    Example:
        >>> found = calibrate("x86-64", out="this-pc.toml")           # doctest: +SKIP
        >>> print(found.predictors[0].error)                          # doctest: +SKIP
        0.08
    """
    board = find_target(target)
    path = find_own_targets() / f"{board.name}.toml" if out is None else Path(out)
    if path.suffix != ".toml":
        raise EdgepruneError(f"A target is described by a file that ends in .toml. Got '{path}'.")
    measure = measure or measure_through_bench(board, threads)
    chosen = tuple(models or list_micro_models())
    measured = fingerprint(board.name, [[m.name, m.shape, m.write("float32")] for m in chosen])
    records = read_records(path.with_suffix(".partial.json"), measured)
    batches = _list_batches(chosen, schemes, records)
    with stage("calibrating", len(batches)) as advance:
        while batches:
            if _measure_batch(measure, *batches.pop(0), records):
                batches = _list_batches(chosen, schemes, records)
            advance()
    source = f"micro-models on {records.machine}, {date.today().isoformat()}"
    predictors = tuple(
        fit_predictor(
            path.stem,
            scheme,
            chosen,
            records.lowest(scheme),
            threads=records.threads,
            source=source,
        )
        for scheme in schemes
    )
    write_target(path, board, predictors)
    records.path.unlink(missing_ok=True)
    return Calibration(read_target(path), path, predictors, records.machine)


def measure_through_bench(
    board: Target, threads: int | None = None, transport: Transport | None = None
) -> Measure:
    """Return a way to measure files with the harness.

    Args:
        board: gives the number of threads.
        threads: in place of the board's.
        transport: where the harness runs; by default here.
    """

    def measure(models: Mapping[str, Path]) -> BenchResult:
        return bench(models, target=board, threads=threads, seconds=SECONDS, transport=transport)

    return measure


def _list_batches(
    models: Sequence[MicroModel], schemes: Sequence[Scheme], records: Records
) -> list[tuple[Scheme, Sequence[MicroModel]]]:
    """Return what is still to be measured."""
    return [
        (scheme, batch)
        for turn in range(TURNS)
        for scheme in schemes
        for batch in _divide([m for m in models if records.turns(scheme, m.name) <= turn])
    ]


def _divide(models: Sequence[MicroModel]) -> Iterator[Sequence[MicroModel]]:
    for start in range(0, len(models), BATCH):
        yield models[start : start + BATCH]


def _measure_batch(
    measure: Measure, scheme: Scheme, batch: Sequence[MicroModel], records: Records
) -> bool:
    """Add the medians; tell whether those of another machine were left for them."""
    with tempfile.TemporaryDirectory() as folder:
        paths = {}
        for number, model in enumerate(batch):
            paths[model.name] = Path(folder) / f"{number}.tflite"
            paths[model.name].write_bytes(model.write(scheme))
        found = measure(paths).measurements
    if not found[0].on_target:
        raise BenchmarkError(
            f"{found[0].machine} is not {found[0].target}, so nothing was written. Name the board "
            "that it is with --target, or reach the board with --host."
        )
    machine = f"{found[0].machine}, {found[0].runtime}"
    medians = {measurement.model: measurement.p50_ms for measurement in found}
    return records.add(machine, found[0].threads, scheme, medians)


def write_target(path: Path, board: Target, predictors: Sequence[Predictor]) -> None:
    """Write a target file that is based on a shipped target, or replace its predictors."""
    tables = write_tables({p.scheme: p.to_dict() for p in predictors}, PROGRAM)
    own = Path(board.file) if board.file else None
    if own is not None and own.parent != find_shipped_targets():
        text = replace_tables(own.read_text(encoding="utf-8"), tables)
    else:
        step = next(p.channel_step for p in predictors)
        head = (
            f'based_on = "{board.name}"\nchannel_step = {step}\nthreads = {predictors[0].threads}'
        )
        text = f"{head}\n\n{tables}"
    with replace_on_success(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
