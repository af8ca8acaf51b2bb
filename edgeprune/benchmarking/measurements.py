"""What a run of the harness gave: frozen, printable, and honest about where it was measured."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from edgeprune.benchmarking.profiles import Profile
from edgeprune.boards.targets import Target, is_genuine
from edgeprune.energy.windowed_energy import Energy

MEBIBYTE = 2**20
BUSY_SHARE = 0.5
SUMMARY = ("count", "min_ms", "p50_ms", "p90_ms", "p99_ms", "mean_ms")


@dataclass(frozen=True)
class MeasuredModel:
    """One timed series of one model on one machine.

    Attributes:
        model: name given by the caller.
        kind: how the figures came about; milliseconds of the harness are always measured.
        machine: where, for example "AMD EPYC (x86_64, 2 cores)".
        target: name of the target the model was built for, or None.
        on_target: whether `machine` is that target; if not, its figures are not the board's.
        runtime: with its version.
        threads: of the runtime.
        count: number of timed inferences.
        min_ms: fastest inference; likewise p50, p90, p99 and mean.
        load_ms: opening the model in a fresh process.
        first_ms: first inference in a fresh process.
        memory_peak_bytes: highest resident memory of a process that holds this model alone.
        memory_model_bytes: what of it the model added to Python, NumPy and the runtime.
        size_bytes: of the file.
        sha256: of the file.
        steady: whether the warm-up reached a steady state.
        samples_ms: the series.
        accuracy: share of the batch that came along that was answered right, on that machine.
        outputs_sha256: of all answers to that batch.
        energy: of one inference; None without a meter.
        throttled: why the machine was slower than it can be; empty if it was not seen to be.
        delegate: library that ran the model in place of the CPU, and what it says it is.
        profile: of its operators; None unless asked for.
    """

    model: str
    kind: Literal["measured"]
    machine: str
    target: str | None
    on_target: bool
    runtime: str
    threads: int
    count: int
    min_ms: float
    p50_ms: float
    p90_ms: float
    p99_ms: float
    mean_ms: float
    load_ms: float
    first_ms: float
    memory_peak_bytes: int
    memory_model_bytes: int
    size_bytes: int
    sha256: str
    steady: bool
    samples_ms: tuple[float, ...] = field(repr=False)
    accuracy: float | None = None
    outputs_sha256: str | None = None
    energy: Energy | None = None
    throttled: tuple[str, ...] = ()
    delegate: str | None = None
    profile: Profile | None = field(default=None, repr=False)

    @property
    def where(self) -> str:
        """Say on which machine and with which library, and that it is not the target if not."""
        place = f"measured on {self.machine}" + self._library
        return place if self.target is None or self.on_target else f"{place}, not on {self.target}"

    @property
    def _library(self) -> str:
        return f" with {self.delegate}" if self.delegate else ""

    def __str__(self) -> str:
        return (
            f"{self.model}{self._library}: p50 {self.p50_ms:.3f} ms"
            f" (min {self.min_ms:.3f}, p90 {self.p90_ms:.3f},"
            f" p99 {self.p99_ms:.3f}; {self.count} runs, threads {self.threads}),"
            f" load {self.load_ms:.1f} ms, first {self.first_ms:.2f} ms,"
            f" memory {self.memory_peak_bytes / MEBIBYTE:.1f} MiB"
            f" (model {self.memory_model_bytes / MEBIBYTE:.1f}), {self.size_bytes} bytes"
            + (f", accuracy {self.accuracy:.1%}" if self.accuracy is not None else "")
            + (f", {self.energy}" if self.energy else "")
            + (f", THROTTLED: {self.throttled[0]}" if self.throttled else "")
        )


@dataclass(frozen=True)
class BenchResult:
    """Models measured side by side in one run.

    Attributes:
        measurements: in the order the models were given.
        environment: machine, software and the machine's state before and after, as in
            `devices/harness/measurement.schema.json`.
        warnings: what makes the figures less certain, one line each.
        interrupted: the user stopped the run; what is there is whole.
    """

    measurements: tuple[MeasuredModel, ...]
    environment: Mapping[str, Any]
    warnings: tuple[str, ...] = ()
    interrupted: bool = False

    def __getitem__(self, model: str) -> MeasuredModel:
        """Return the measurement of a model by its name."""
        for measurement in self.measurements:
            if measurement.model == model:
                return measurement
        raise KeyError(model)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON types."""
        measurements = [
            asdict(entry) | {"samples_ms": list(entry.samples_ms), "where": entry.where}
            for entry in self.measurements
        ]
        return {
            "measurements": measurements,
            "environment": dict(self.environment),
            "warnings": list(self.warnings),
            "interrupted": self.interrupted,
        }

    def __str__(self) -> str:
        first = self.measurements[0]
        title = f"{first.where}, {first.runtime}"
        return "\n".join([title, *map(str, self.measurements)])


class BenchInterrupted(KeyboardInterrupt):
    """The user stopped a run that had already measured something.

    Attributes:
        result: what there was.
    """

    def __init__(self, result: BenchResult) -> None:
        super().__init__("The measurement was interrupted.")
        self.result = result


def read_document(
    document: Mapping[str, Any],
    names: Sequence[str],
    target: Target | None,
    energies: Sequence[Energy | None] = (),
) -> BenchResult:
    """Turn the harness's document into measurements; models it did not get to are left out.

    Args:
        document: as the schema describes it.
        names: of the models, in the order they were given to the harness.
        target: that the models were built for.
        energies: of the models, in this order; empty if none was measured.
    """
    environment = document["environment"]
    machine, software = environment["machine"], environment["software"]
    shared: dict[str, Any] = {
        "kind": "measured",
        "machine": describe_machine(machine),
        "target": target.name if target else None,
        "runtime": f"{software['runtime']} {software['runtime_version']}",
        "threads": document["settings"]["threads"],
        "throttled": tuple(environment["throttling"]["reasons"]),
    }
    found = [
        _read_model(
            entry,
            name,
            shared
            | {
                "on_target": target is not None and target.is_machine(machine, entry["delegate"]),
                "energy": energy,
            },
        )
        for entry, name, energy in zip(
            document["models"], names, energies or [None] * len(names), strict=True
        )
        if entry["latency"] and entry["cold"]
    ]
    delegates = {entry["delegate"] for entry in document["models"] if entry["delegate"]}
    warnings = [
        *_find_warnings(environment),
        *(
            f"{delegate} does not say that it is libedgetpu: its figures are no Edge TPU's"
            for delegate in sorted(delegates)
            if not is_genuine(delegate)
        ),
        *(
            f"{entry.model} did not reach a steady state while warming up"
            for entry in found
            if not entry.steady
        ),
    ]
    return BenchResult(tuple(found), environment, tuple(warnings), document["interrupted"])


def _find_warnings(environment: Mapping[str, Any]) -> Iterator[str]:
    for reason in environment["throttling"]["reasons"]:
        yield f"the machine was slowed down: {reason}"
    before = environment["before"]
    slow = [name for name in before["governors"] if name not in ("performance", "schedutil")]
    if slow:
        yield f"the governor is {slow[0]}, not performance: the clock may change while measuring"
    cores = environment["machine"]["usable_cores"] or 1
    load = before["load_average"][:1] or [0.0]
    if load[0] > cores * BUSY_SHARE:
        yield f"the machine was busy: load average {load[0]:.1f}, {cores} cores"


def describe_machine(machine: Mapping[str, Any]) -> str:
    """Return a machine's name in a few words.

    Example:
        >>> describe_machine({"board": None, "cpu": "AMD EPYC", "architecture": "x86_64",
        ...                   "usable_cores": 2})
        'AMD EPYC (x86_64, 2 cores)'
    """
    name = machine["board"] or machine["cpu"] or "unknown CPU"
    cores = machine["usable_cores"]
    return f"{name} ({machine['architecture']}, {cores} core{'s' if cores != 1 else ''})"


def _read_model(entry: Mapping[str, Any], name: str, shared: Mapping[str, Any]) -> MeasuredModel:
    latency, cold, check = entry["latency"], entry["cold"], entry["accuracy"]
    correct = check["correct"] if check and check["count"] else None
    return MeasuredModel(
        model=name,
        **shared,
        **{
            key: latency[key]
            for key in ("count", "min_ms", "p50_ms", "p90_ms", "p99_ms", "mean_ms")
        },
        **{key: cold[key] for key in ("load_ms", "first_ms", "memory_peak_bytes")},
        memory_model_bytes=cold["memory_peak_bytes"] - cold["memory_before_bytes"],
        size_bytes=entry["size_bytes"],
        sha256=entry["sha256"],
        steady=entry["warmup"]["steady"],
        samples_ms=tuple(latency["samples_ms"]),
        accuracy=None if correct is None else correct / check["count"],
        outputs_sha256=check["outputs_sha256"] if check else None,
        delegate=entry["delegate"],
    )
