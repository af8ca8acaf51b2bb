"""Power that something else wrote down: SPEC PTDaemon logs, and CSV with a time and watts."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator
from datetime import datetime, tzinfo
from pathlib import Path

import numpy as np

from edgeprune.energy.windowed_energy import PowerSeries
from edgeprune.errors import BenchmarkError
from edgeprune.support.files import check_regular

TIME_COLUMNS = ("time", "timestamp", "unix", "seconds", "datetime")
WATT_COLUMNS = {
    "watts": 1.0, "w": 1.0, "power": 1.0, "power_w": 1.0, "watt": 1.0,
    "mw": 1e-3, "power_mw": 1e-3, "milliwatts": 1e-3, "power_uw": 1e-6,
}  # fmt: skip
PTDAEMON_TIME = "%m-%d-%Y %H:%M:%S.%f"
INVALID = -1.0
MOST_HEADER = 2**16


def check_power_log(path: Path) -> None:
    """Refuse, before anything is measured, a log that cannot be one; a header is enough.

    Args:
        path: as for `read_power_log`; an empty file may get its header later.

    Raises:
        BenchmarkError: it is not there, cannot be read, or is of another form.
    """
    check_regular(path, BenchmarkError)
    try:
        with open(path, encoding="utf-8-sig") as file:
            first = file.readline(MOST_HEADER).strip()
        if first and not (first.startswith("Time,") and "Watts" in first):
            list(_read_csv([first], None))
    except (OSError, UnicodeDecodeError) as error:
        raise BenchmarkError(f"Cannot read the power log '{path}': {error}.") from error
    except (ValueError, csv.Error) as error:
        raise _no_log(path, error) from error


def read_power_log(path: Path, zone: tzinfo | None = None) -> PowerSeries:
    """Read a log.

    Args:
        path: lines of SPEC PTDaemon (`Time,02-22-2022 01:36:49.445,Watts,2.831000,...`; -1 means
            invalid and is left out), or a CSV with a header that names a time (Unix seconds or ISO
            8601) and watts.
        zone: of times that name none; by default this machine's.

    Returns:
        Unix seconds and watts; the period is the median distance.

    Raises:
        BenchmarkError: the file cannot be read, or holds fewer than two readings.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BenchmarkError(f"Cannot read the power log '{path}': {error}.") from error
    is_ptdaemon = bool(lines) and lines[0].startswith("Time,")
    rows = _read_ptdaemon(lines, zone) if is_ptdaemon and "Watts" in lines[0] else None
    try:
        readings = sorted(_read_csv(lines, zone) if rows is None else rows)
    except (ValueError, IndexError, KeyError, csv.Error) as error:
        raise _no_log(path, error) from error
    if len(readings) < 2:
        raise BenchmarkError(f"The power log '{path}' holds {len(readings)} valid readings.")
    times = np.array([time for time, _ in readings])
    return PowerSeries(
        times, np.array([watts for _, watts in readings]), float(np.median(np.diff(times)))
    )


def _no_log(path: Path, error: Exception) -> BenchmarkError:
    return BenchmarkError(
        f"'{path}' is neither a PTDaemon log nor a CSV with a time and watts: {error}."
    )


def _read_ptdaemon(lines: Iterable[str], zone: tzinfo | None) -> Iterator[tuple[float, float]]:
    for line in lines:
        words = line.split(",")
        fields = dict(zip(words[0::2], words[1::2], strict=False))
        if "Time" not in fields or "Watts" not in fields:
            continue
        watts = float(fields["Watts"])
        if watts != INVALID:
            yield _seconds(datetime.strptime(fields["Time"], PTDAEMON_TIME), zone), watts


def _read_csv(lines: list[str], zone: tzinfo | None) -> Iterator[tuple[float, float]]:
    reader = csv.reader(lines)
    header = [name.strip().lower() for name in next(reader, [])]
    time = next((header.index(name) for name in TIME_COLUMNS if name in header), None)
    power = next((name for name in WATT_COLUMNS if name in header), None)
    if time is None or power is None:
        raise ValueError(f"its header is {', '.join(header) or 'empty'}")
    column, unit = header.index(power), WATT_COLUMNS[power]
    for row in reader:
        if len(row) <= max(time, column) or not row[column].strip():
            continue
        watts = float(row[column])
        if watts != INVALID:
            yield _read_time(row[time].strip(), zone), unit * watts


def _read_time(text: str, zone: tzinfo | None) -> float:
    try:
        return float(text)
    except ValueError:
        return _seconds(datetime.fromisoformat(text), zone)


def _seconds(moment: datetime, zone: tzinfo | None) -> float:
    if moment.tzinfo is None and zone is not None:
        moment = moment.replace(tzinfo=zone)
    return moment.timestamp()
