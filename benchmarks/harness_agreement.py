"""Compare our harness with the runtime's own benchmark; write `benchmarks/harness_agreement.md`.

Both are given the same models and threads, in turn, several times; the table has the medians of
their medians. `litert-benchmark` comes with ai-edge-litert and rounds to 0.01 ms, so that models
of less than a millisecond are compared to half of that at best.

Usage: python benchmarks/harness_agreement.py MODEL.tflite ... [--threads 1] [--turns 5]
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from edgeprune.benchmarking import BenchResult, bench
from edgeprune.support.files import replace_on_success

TABLE = Path(__file__).with_suffix(".md")
GOAL = 0.05
ROUNDING_MS = 0.005
SECONDS = 3.0


def measure_with_the_runtimes_own(model: Path, threads: int, runs: int) -> float:
    """Return the median of `litert-benchmark` in ms."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "result.json"
        command = [sys.executable, "-m", "ai_edge_litert.tools.benchmark_litert_model"]
        command += ["--model", str(model), "--num_threads", str(threads)]
        command += ["--num_runs", str(runs), "--warmup_runs", str(runs // 5 + 5)]
        command += ["--result_json", str(path)]
        subprocess.run(command, check=True, capture_output=True)
        return find_number(json.loads(path.read_text()), "median_ms")


def find_number(values: object, name: str) -> float:
    """Return the first number of this name in nested JSON."""
    if isinstance(values, dict):
        if isinstance(values.get(name), int | float):
            return float(values[name])
        for value in values.values():
            found = find_number(value, name)
            if found == found:
                return found
    return float("nan")


def compare(model: Path, threads: int, turns: int) -> tuple[float, float, BenchResult]:
    """Measure in turns, so that a clock that drifts hits both alike."""
    ours, theirs = [], []
    for _ in range(turns):
        result = bench(model, threads=threads, seconds=SECONDS)
        ours.append(result.measurements[0].p50_ms)
        runs = max(20, min(2000, int(1e3 * SECONDS / ours[-1])))
        theirs.append(measure_with_the_runtimes_own(model, threads, runs))
    return statistics.median(ours), statistics.median(theirs), result


def main() -> int:
    """Write the table; return 1 if a model misses the goal."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--turns", type=int, default=5)
    options = parser.parse_args()
    rows, missed = [], 0
    for model in options.models:
        ours, theirs, result = compare(model, options.threads, options.turns)
        difference = ours / theirs - 1
        missed += abs(ours - theirs) > GOAL * theirs + ROUNDING_MS
        rows.append(f"| {model.stem} | {ours:.3f} | {theirs:.2f} | {100 * difference:+.1f} % |")
        print(rows[-1], flush=True)
    first = result.measurements[0]
    text = [
        "# The harness against the runtime's own benchmark",
        "",
        f"Written by `benchmarks/harness_agreement.py`: {first.where}, {first.runtime}, "
        f"threads {options.threads}; median of {options.turns} medians, "
        "taken in turn.",
        "",
        "| model | harness p50, ms | litert-benchmark p50, ms | difference |",
        "|---|---:|---:|---:|",
        *rows,
        "",
        f"{len(rows) - missed} of {len(rows)} models agree within {100 * GOAL:.0f} % (and the "
        f"{ROUNDING_MS} ms to which `litert-benchmark` rounds).",
        "",
    ]
    with replace_on_success(TABLE) as path:
        path.write_text("\n".join(text), encoding="utf-8")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
