"""What the pass of statistics costs beside a forward pass: writes `statistics.md`.

    python benchmarks/statistics_pass.py              # three models
    python benchmarks/statistics_pass.py resnet20     # one of them, printed only

Both run compiled, on the same batches, in turns within one process. The first batches, in which
either is compiled, are reported apart.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

FOLDER = Path(__file__).resolve().parent
SHARED = FOLDER.parent.parent / "shared" / "data"
TABLE = FOLDER / "statistics.md"
ROUNDS = 3
WARM = 3
"""Batches at the start that are not compared: one run layer by layer, and the compilation."""


def build_resnet20() -> Any:
    """Return the ResNet-20 of the shared data."""
    import keras

    return keras.models.load_model(SHARED / "cifar10" / "resnet20.keras")


def build_mobilenet() -> Any:
    """Return MobileNetV1 at 224 with random weights."""
    import keras

    return keras.applications.MobileNet(weights=None)


def build_resnet50() -> Any:
    """Return ResNet50 at 224 with random weights."""
    import keras

    return keras.applications.ResNet50(weights=None)


MODELS: dict[str, tuple[str, Callable[[], Any], int, int]] = {
    "resnet20": ("ResNet-20, 32", build_resnet20, 64, 43),
    "mobilenet": ("MobileNetV1, 224", build_mobilenet, 32, 15),
    "resnet50": ("ResNet50, 224", build_resnet50, 16, 35),
}
"""Title, constructor, samples in a batch, batches."""


class BatchClock:
    """Takes the time after every batch of a pass, of the wall and of the processor."""

    def __init__(self) -> None:
        """Start with no times."""
        self.times: list[tuple[float, float]] = []

    @contextmanager
    def stage(self, name: str, total: int | None = None) -> Iterator[Callable[[], None]]:
        """Return what is called after every batch."""
        self.tick()
        yield self.tick

    def tick(self) -> None:
        """Take the time."""
        self.times.append((time.perf_counter(), time.process_time()))

    def seconds(self, kind: int, first: int = WARM) -> float:
        """Return seconds from a batch to the last, of the wall (0) or the processor (1)."""
        return self.times[-1][kind] - self.times[first][kind]


def measure(name: str) -> dict[str, Any]:
    """Run both passes in turns over the same samples."""
    import numpy as np

    from edgeprune.scoring.collection import collect_statistics
    from edgeprune.tracing.groups import find_groups

    title, build, batch_size, batches = MODELS[name]
    model = build()
    model.compile(jit_compile=False)
    groups = find_groups(model)
    shape = (batch_size * batches, *model.input_shape[1:])
    samples = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    passes: dict[str, list[BatchClock]] = {"forward": [], "statistics": []}
    for _ in range(ROUNDS):
        clock = BatchClock()
        clock.tick()
        for start in range(0, len(samples), batch_size):
            model.predict_on_batch(samples[start : start + batch_size])
            clock.tick()
        passes["forward"].append(clock)
        clock = BatchClock()
        collect_statistics(groups, samples, batch_size=batch_size, progress=clock)
        passes["statistics"].append(clock)
    row: dict[str, Any] = {
        "title": title,
        "batch": batch_size,
        "batches": batches,
        "cores": os.cpu_count(),
    }
    for kind, unit in enumerate(("wall", "cpu")):
        forward, statistics = (
            [clock.seconds(kind) for clock in passes[one]] for one in ("forward", "statistics")
        )
        ratios = sorted(b / a for a, b in zip(forward, statistics, strict=True))
        row[unit] = {"forward": min(forward), "statistics": min(statistics), "ratios": ratios}
    row["start"] = min(clock.times[WARM][0] - clock.times[0][0] for clock in passes["statistics"])
    return row


def write_table(rows: list[dict[str, Any]]) -> None:
    """Write the table."""
    import importlib.metadata

    versions = [f"{name} {importlib.metadata.version(name)}" for name in ("keras", "tensorflow")]
    lines = [
        "# What statistics cost beside a forward pass",
        "",
        f"Written by `make statistics-table` ({', '.join(versions)}, {rows[0]['cores']} cores). "
        f"Both compiled, on the same batches, in turns, {ROUNDS} times in one process. "
        "Measured: the shortest of the times; the ratio is the median with its range.",
        "",
        "| model | batches x samples | forward s | statistics s | **ratio** "
        f"| ratio of processor time | first {WARM} batches s |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    for row in rows:
        wall, cpu = row["wall"], row["cpu"]
        low, middle, high = wall["ratios"][0], wall["ratios"][ROUNDS // 2], wall["ratios"][-1]
        size = f"{row['batches'] - WARM} x {row['batch']}"
        lines.append(
            f"| {row['title']} | {size} | {wall['forward']:.2f} | {wall['statistics']:.2f} "
            f"| **{middle:.2f}** ({low:.2f} to {high:.2f}) | {cpu['ratios'][ROUNDS // 2]:.2f} "
            f"| {row['start']:.1f} |"
        )
    TABLE.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    sys.path.insert(0, str(FOLDER.parent))
    chosen = sys.argv[1:] or list(MODELS)
    measured = [measure(one) for one in chosen]
    for found in measured:
        print(found)
    if chosen == list(MODELS):
        write_table(measured)
