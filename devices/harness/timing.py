"""Warm-up until steady, then a series per model with all models interleaved in time."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable

import numpy as np

STEADY = 0.05  # two windows in a row whose medians differ by at most this much
WINDOW_SECONDS = 0.05
WINDOW_RUNS = 5
ROUNDS = 20
FEWEST_RUNS = 10
# Idle workers of another model's thread pool spin for about a millisecond, and the caches hold its
# weights: the first runs after a change of model are not those of a model that runs alone.
SETTLE_SECONDS = 0.003

Run = Callable[[], object]
Stopped = Callable[[], bool]


def warm_up(run: Run, limit: float, stopped: Stopped) -> dict:
    """Run until the medians of two windows in a row agree, at most `limit` seconds."""
    start = time.perf_counter()
    medians, runs = [], 0
    steady = False
    while not stopped():
        window = []
        opened = time.perf_counter()
        while len(window) < WINDOW_RUNS or time.perf_counter() - opened < WINDOW_SECONDS:
            window.append(time_once(run))
            if stopped() or time.perf_counter() - start > limit:
                break
        runs += len(window)
        medians.append(float(np.median(window)))
        steady = len(medians) > 1 and abs(medians[-1] / medians[-2] - 1) <= STEADY
        if steady or time.perf_counter() - start > limit:
            break
    return {
        "runs": runs,
        "seconds": time.perf_counter() - start,
        "steady": steady,
        "median_ms": medians[-1] if medians else None,
    }


def plan_runs(median_ms: float | None, runs: int, seconds: float) -> int:
    """Return how many runs fit into the seconds: at most `runs`, at least ten or `runs`."""
    if not median_ms:
        return runs
    return max(min(FEWEST_RUNS, runs), min(runs, int(1e3 * seconds / median_ms)))


def interleave(
    functions: list[Run],
    counts: list[int],
    stopped: Stopped,
    report: Callable[[float], None],
) -> list[list[float]]:
    """Time each function `counts` times, in blocks ABBA..., so that slow drifts hit all alike.

    Blocks, not single runs: a model that is timed alone finds its weights in the caches.

    Returns:
        Milliseconds per run, one list per function.
    """
    series = [[] for _ in functions]
    rounds = min([ROUNDS, *counts])
    gc.collect()
    gc.disable()
    try:
        for number in range(rounds):
            order = range(len(functions)) if number % 2 == 0 else range(len(functions))[::-1]
            for index in order:
                if stopped():
                    return series
                block = counts[index] * (number + 1) // rounds - len(series[index])
                if len(functions) > 1:
                    settle(functions[index])
                for _ in range(block):
                    series[index].append(time_once(functions[index]))
                    if stopped():
                        return series
            report((number + 1) / rounds)
    finally:
        gc.enable()
    return series


def settle(run: Run) -> None:
    """Run untimed until the machine has got used to this model again."""
    end = time.perf_counter() + SETTLE_SECONDS
    while time.perf_counter() < end:
        run()


def time_once(run: Run) -> float:
    """Return the milliseconds of one call."""
    start = time.perf_counter_ns()
    run()
    return (time.perf_counter_ns() - start) / 1e6


def summarize(samples: list[float]) -> dict | None:
    """Return the statistics of a series in ms, and the series itself; None for an empty one."""
    if not samples:
        return None
    p50, p90, p99 = np.percentile(samples, [50, 90, 99])
    return {
        "count": len(samples),
        "min_ms": min(samples),
        "p50_ms": float(p50),
        "p90_ms": float(p90),
        "p99_ms": float(p99),
        "mean_ms": float(np.mean(samples)),
        "samples_ms": samples,
    }
