"""Power over time, and the clock, for whoever asks on the other end of the line."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

import meters
import program


def record(name: str, period: float | None, stopped: Callable[[], int]) -> dict:
    """Print one JSON line per reading, `[monotonic seconds, watts]`, until stopped.

    The reading is charged to the middle of the time it took. The first line names the meter.
    """
    meter = meters.open_meter(name)
    period = period or meter.period
    print(json.dumps({"meter": name, "kind": meter.kind, "period": period}), flush=True)
    due = time.monotonic()
    try:
        while not stopped():
            start = time.monotonic()
            watts = meter.read()
            end = time.monotonic()
            print(json.dumps([(start + end) / 2, watts]), flush=True)
            due = max(due + period, end)
            time.sleep(max(0.0, due - time.monotonic()))
    finally:
        meter.close()
    return {"ended": time.monotonic()}


def answer_with_the_time() -> int:
    """Answer every line of standard input with this machine's two clocks."""
    for _ in sys.stdin:
        print(json.dumps(read_clocks()), flush=True)
    return 0


def read_clocks() -> dict:
    """Return both clocks: one never jumps, the other has the date."""
    return {"monotonic": time.monotonic(), "unix": time.time()}


class Recorder:
    """A meter in a process of its own, so that reading it does not hold up the model."""

    def __init__(self, name: str, period: float | None) -> None:
        """Start recording; fails at once if the meter cannot be read."""
        command = [*program.repeat_command(), "--record", name, "--watch-stdin"]
        if period:
            command += ["--period", str(period)]
        # A file: a pipe that nobody reads while a model runs would fill up.
        self._output = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=self._output, start_new_session=True
        )
        self._name = name
        while not self._read() and self._process.poll() is None:
            time.sleep(0.02)
        lines = self._read()
        if not lines or "error" in lines[0]:
            raise RuntimeError(self.stop()[1] or f"the meter {name} said nothing")
        self.meter = {"name": lines[0]["meter"], "kind": lines[0]["kind"],
                      "period": lines[0]["period"]}  # fmt: skip

    def stop(self) -> tuple[list[list[float]], str | None]:
        """End the process; return its readings, and what went wrong."""
        self._process.communicate()
        lines = self._read()
        self._output.close()
        problems = [line["error"] for line in lines if "error" in line]
        problem = f"the meter {self._name}: {problems[0]}" if problems else None
        return [line for line in lines if isinstance(line, list)], problem

    def _read(self) -> list:
        self._output.seek(0)
        text = self._output.read()
        return [json.loads(line) for line in text.splitlines(keepends=True) if line[-1] == "\n"]
