"""Energy: windows of nothing and of one model, in turn, while a meter here or elsewhere records.

What a window used is worked out by whoever has both the windows and the readings.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import recording
import throttling

FEWEST_INFERENCES = 100
FEWEST_SAMPLES = 50
SPARE = 1.2  # a meter that is a little late still gives enough samples
SLICE_SECONDS = 0.05


def measure(
    runs: list[Callable[[], object]],
    options: argparse.Namespace,
    stopped: Callable[[], bool],
    report: Callable[[float], None],
    watch: throttling.Watch,
) -> dict:
    """Alternate idle and busy windows, all models in turn, `options.repeats` times."""
    recorder = recording.Recorder(options.meter, options.period) if options.meter else None
    started = recording.read_clocks()
    seconds = options.window
    period = recorder.meter["period"] if recorder else options.period
    if period:
        seconds = max(seconds, SPARE * FEWEST_SAMPLES * period)
    found: list[dict] = []
    try:
        for repeat in range(options.repeats):
            for model, run in enumerate(runs):
                found.append(be_idle(seconds, stopped))
                found.append(be_busy(run, model, seconds, stopped, watch))
                report((repeat + (model + 1) / len(runs)) / options.repeats)
        found.append(be_idle(seconds, stopped))
    finally:
        readings, problem = recorder.stop() if recorder else (None, None)
    return {
        "meter": recorder.meter if recorder else None,
        "clock": {"start": started, "end": recording.read_clocks()},
        "windows": [window for window in found if window],
        "readings": readings,
        "problem": problem,
    }


def be_idle(seconds: float, stopped: Callable[[], bool]) -> dict | None:
    """Sleep for a window; None if it was cut short."""
    start = time.monotonic()
    while time.monotonic() - start < seconds:
        if stopped():
            return None
        time.sleep(min(SLICE_SECONDS, seconds))
    return {"model": None, "start": start, "end": time.monotonic(), "inferences": 0,
            "throttled": False}  # fmt: skip


def be_busy(
    run: Callable[[], object],
    model: int,
    seconds: float,
    stopped: Callable[[], bool],
    watch: throttling.Watch,
) -> dict | None:
    """Run one model for a window of enough seconds and inferences; None if it was cut short."""
    warm_until = time.monotonic() + SLICE_SECONDS
    while time.monotonic() < warm_until:
        run()
    watch.look()
    inferences, start = 0, time.monotonic()
    while time.monotonic() - start < seconds or inferences < FEWEST_INFERENCES:
        run()
        inferences += 1
        if stopped():
            return None
    end = time.monotonic()
    return {"model": model, "start": start, "end": end, "inferences": inferences,
            "throttled": bool(watch.look())}  # fmt: skip
