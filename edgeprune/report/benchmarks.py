"""What `edgeprune bench` prints."""

from __future__ import annotations

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from edgeprune.benchmarking import BenchResult, Energy, MeasuredModel
from edgeprune.benchmarking.earlier import Change
from edgeprune.benchmarking.fleets import FleetResult
from edgeprune.benchmarking.profiles import METHOD, compare_profiles
from edgeprune.emulation.counting import CountResult
from edgeprune.report.tables import count_threads
from edgeprune.support.printable import printable

SHOWN_LAYERS = 20


def describe_measurements(
    result: BenchResult, compare: bool = False, files: Sequence[str] = ()
) -> Group:
    """Return the tables that `edgeprune bench` prints.

    Args:
        result: of one run.
        compare: show also what the figures are relative to the first model's.
        files: that were written.
    """
    measured = result.measurements
    tables: list[RenderableType] = [_describe_latency(measured), _describe_start(measured)]
    if any(entry.energy for entry in measured):
        tables.append(_describe_energy(measured))
    if compare and len(measured) > 1:
        tables.append(_compare(measured))
    tables += _describe_profiles(measured)
    places: dict[str, list[str]] = {}
    for entry in measured:
        how = f"{entry.where}, {entry.runtime}, {count_threads(entry.threads)}, interleaved."
        places.setdefault(how[0].upper() + how[1:], []).append(entry.model)
    for how, names in places.items():
        which = f"{', '.join(names)}: " if len(places) > 1 else ""
        tables.append(Text(printable(which + how), overflow="fold"))
    if files:
        tables.append(Text(printable(f"Written: {', '.join(files)}"), overflow="fold"))
    return Group(*tables)


def describe_fleet(found: FleetResult) -> Group:
    """Return the tables of several boards, one after the other."""
    parts: list[RenderableType] = []
    for host, result in found.results.items():
        parts += [Text(printable(host), style="bold"), describe_measurements(result)]
    return Group(*parts)


def describe_changes(changes: Sequence[Change], name: str) -> Group:
    """Return the table of `bench --against`, and what else is not as it was."""
    table = _table(f"Relative to {name}", ("p50", "p90", "peak memory", "bytes"))
    for change in changes:
        table.add_row(change.model, *(_ratio(ratio, 1.0) for ratio in change.ratios.values()))
    differs = dict.fromkeys(text for change in changes for text in change.differs)
    return Group(table, *(Text(printable(f"Not as then: {text}.")) for text in differs))


def describe_counts(result: CountResult) -> Group:
    """Return the table that `edgeprune bench --emulated` prints."""
    table = _table("Counted on an emulated CPU", ("instructions", "vector", "accuracy", "outputs"))
    for entry in result.counts:
        vector = entry.instructions_by_kind.get("vector")
        table.add_row(
            entry.model,
            "not counted" if entry.instructions is None else f"{entry.instructions:,.0f}",
            ""
            if vector is None or not entry.instructions
            else f"{vector / entry.instructions:.0%}",
            "" if entry.accuracy is None else f"{entry.accuracy:.1%}",
            entry.outputs_sha256[:12],
        )
    first = result.counts[0]
    how = (
        f"Instructions per inference, counted on {first.cpu} in QEMU for {first.target}, "
        f"{first.runtime}, 1 thread. Emulated time is no latency and is not shown."
    )
    return Group(table, Text(printable(how)))


def _describe_latency(measured: Sequence[MeasuredModel]) -> Table:
    table = _table("Latency, ms per inference", ("p50", "min", "p90", "p99", "inferences"))
    for entry in measured:
        milliseconds = (entry.p50_ms, entry.min_ms, entry.p90_ms, entry.p99_ms)
        table.add_row(entry.model, *(f"{ms:.3f}" for ms in milliseconds), f"{entry.count:,}")
    return table


def _describe_start(measured: Sequence[MeasuredModel]) -> Table:
    names = ["load, ms", "first run, ms", "peak memory, MiB", "bytes"]
    tested = any(entry.accuracy is not None for entry in measured)
    table = _table("Start, memory and size", [*names, *(["accuracy"] if tested else [])])
    for entry in measured:
        table.add_row(
            entry.model,
            f"{entry.load_ms:.1f}",
            f"{entry.first_ms:.2f}",
            f"{entry.memory_peak_bytes / 2**20:.1f}",
            f"{entry.size_bytes:,}",
            *(["" if entry.accuracy is None else f"{entry.accuracy:.1%}"] if tested else []),
        )
    return table


def _describe_energy(measured: Sequence[MeasuredModel]) -> Table:
    names = ("total", "95 % interval", "above idle", "W", "idle W", "windows", "what")
    table = _table("Energy, mJ per inference", names)
    for entry in measured:
        table.add_row(entry.model, *_describe_one_energy(entry.energy))
    return table


def _describe_profiles(measured: Sequence[MeasuredModel]) -> list[RenderableType]:
    """Return the times of layers: of one model, or of several side by side."""
    profiles = {entry.model: entry.profile for entry in measured if entry.profile is not None}
    if not profiles:
        return []
    table = Table(
        title="Where the time goes, ms per inference", title_justify="left", box=SIMPLE_HEAD
    )
    table.add_column("layer", overflow="fold")
    table.add_column("operators", overflow="fold")
    for name in profiles:
        table.add_column(printable(name) if len(profiles) > 1 else "ms", justify="right")
    layers = [profile.by_layer() for profile in profiles.values()]
    rows = compare_profiles(profiles)
    for layer, _ in rows[:SHOWN_LAYERS]:
        found = [sums.get(layer) for sums in layers]
        operators = dict.fromkeys(entry.operator for entry in found if entry)
        cells = (f"{e.ms:.3f} +-{e.error_ms:.3f}" if e else "" for e in found)
        table.add_row(printable(layer), ", ".join(operators), *cells)
    rest = [layer for layer, _ in rows[SHOWN_LAYERS:]]
    if rest:
        sums_of_rest = (sum(s[layer].ms for layer in rest if layer in s) for s in layers)
        table.add_row(f"{len(rest)} others", "", *(f"{ms:.3f}" for ms in sums_of_rest))
    table.add_row("all together", "", *(f"{p.sum_ms:.3f}" for p in profiles.values()))
    table.add_row("the model as it is", "", *(f"{p.whole_ms:.3f}" for p in profiles.values()))
    return [table, Text(METHOD, overflow="fold")]


def _describe_one_energy(energy: Energy | None) -> list[str]:
    if energy is None:
        return ["not measured"]
    low, high = energy.total_interval_mj
    return [
        f"{energy.total_mj:.3f}",
        f"{low:.3f} to {high:.3f}",
        f"{energy.above_idle_mj:.3f}",
        f"{energy.mean_watts:.2f}",
        f"{energy.idle_watts:.2f}",
        str(energy.windows),
        f"{energy.kind}, {energy.meter}",
    ]


def _compare(measured: Sequence[MeasuredModel]) -> Table:
    first = measured[0]
    names = ("p50", "p90", "energy", "peak memory", "bytes", "accuracy")
    table = _table(f"Relative to {first.model}", names)
    for entry in measured:
        energies = [each.energy.total_mj if each.energy else None for each in (entry, first)]
        table.add_row(
            entry.model,
            _ratio(entry.p50_ms, first.p50_ms),
            _ratio(entry.p90_ms, first.p90_ms),
            _ratio(*energies),
            _ratio(entry.memory_peak_bytes, first.memory_peak_bytes),
            _ratio(entry.size_bytes, first.size_bytes),
            ""
            if entry.accuracy is None or first.accuracy is None
            else f"{100 * (entry.accuracy - first.accuracy):+.1f} points",
        )
    return table


def _ratio(value: float | None, reference: float | None) -> str:
    return "" if value is None or not reference else f"x {value / reference:.3f}"


def _table(title: str, names: Sequence[str]) -> Table:
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
    table.add_column("model", overflow="fold")
    for name in names:
        table.add_column(name, justify="right")
    return table
