"""A meter read by this machine while a board beside it works."""

from __future__ import annotations

import contextlib
import json
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from edgeprune.benchmarking.local import harness_command
from edgeprune.benchmarking.measurement_settings import Meter
from edgeprune.energy.power_logs import check_power_log, read_power_log
from edgeprune.energy.windowed_energy import Kind, PowerSeries
from edgeprune.errors import BenchmarkError

WAIT_SECONDS = 10.0

Readings = Callable[[], tuple[PowerSeries, Kind]]


@contextlib.contextmanager
def recording(meter: Meter, period: float | None) -> Iterator[Readings]:
    """Record a meter of this machine while the block runs.

    Args:
        meter: one that this machine reads.
        period: seconds between readings; None for the meter's own.

    Yields:
        A function that stops the recording and returns the readings on this machine's monotonic
        clock, and what they are readings of.

    Raises:
        BenchmarkError: the meter cannot be read.
    """
    if meter.name == "log":
        check_power_log(Path(meter.detail))
        yield lambda: (_read_log(Path(meter.detail)), "metered")
        return
    with tempfile.TemporaryFile("w+") as output:
        command = [*harness_command(), "--record", meter.argument]
        if period:
            command += ["--period", str(period)]
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=output, start_new_session=True
        )

        def read() -> list[str]:
            output.seek(0)
            return [line for line in output.read().splitlines(keepends=True) if line[-1] == "\n"]

        def stop() -> tuple[PowerSeries, Kind]:
            _end(process)
            first, *lines = map(json.loads, read())
            problems = [line["error"] for line in lines if "error" in line]
            if problems:
                raise BenchmarkError(f"The meter '{meter.name}' failed: {problems[0]}.")
            pairs = [line for line in lines if isinstance(line, list)]
            return PowerSeries.from_readings(pairs, first["period"]), first["kind"]

        try:
            deadline = time.monotonic() + WAIT_SECONDS
            while not read() and process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.02)
            first = json.loads((read() or ['{"error": "it says nothing"}'])[0])
            if "error" in first:
                raise BenchmarkError(f"The meter '{meter.name}' failed: {first['error']}.")
            yield stop
        finally:
            _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Close its standard input, which ends it; a library that hangs is killed."""
    try:
        process.communicate(timeout=WAIT_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _read_log(path: Path) -> PowerSeries:
    return read_power_log(path).shift(time.monotonic() - time.time())
