"""Meet latency budgets by measuring, on three networks, and compare with a budget of MACs.

Writes `benchmarks/latency_budgets.md`. Run it on a quiet machine. Data and trained models are not
part of this repository: CIFAR-10 with a ResNet-20, and the visual wake words of MLPerf Tiny with
its MobileNetV1-0.25; a MobileNetV2-0.35 is trained here on half of the same images, for minutes.
"""

from __future__ import annotations

import argparse
import itertools
import os
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np

from edgeprune.budgets import Budget
from edgeprune.building import Amounts, build
from edgeprune.calibration import calibrate
from edgeprune.errors import BudgetError

ROOT = Path(__file__).resolve().parent.parent
SHARE = 0.5
STEP = 4  # in steps of 16 the narrow MobileNetV1 cannot become twice as fast
COLUMNS = 9
AMOUNTS = Amounts(calibration_per_class=50, validation_per_class=50)
CIFAR10 = "standardize:mean=125.307,122.950,113.865;std=62.993,62.089,66.705"


@dataclass(frozen=True)
class Case:
    """A trained network and its samples, as `build` takes them."""

    name: str
    model: keras.Model | str
    data: tuple[np.ndarray, np.ndarray]
    preprocess: str


def list_cases(folder: Path, epochs: int) -> Iterator[Case]:
    """Yield the three networks."""
    sys.path.insert(0, str(folder))
    from load import load_images

    images, targets, _ = load_images("cifar10/test.npz")
    yield Case(
        "ResNet-20, CIFAR-10", str(folder / "cifar10/resnet20.keras"), (images, targets), CIFAR10
    )
    images, targets, _ = load_images("mlperf_tiny/vww01.npz")
    yield Case(
        "MobileNetV1-0.25-96, wake words",
        str(folder / "mlperf_tiny/mobilenetv1_025_vww.h5"),
        (images, targets),
        "unit",
    )
    model = train_mobilenet_v2(images[::2], targets[::2], epochs)  # they are sorted by class
    yield Case("MobileNetV2-0.35-96, wake words", model, (images[1::2], targets[1::2]), "unit")


def train_mobilenet_v2(images: np.ndarray, targets: np.ndarray, epochs: int) -> keras.Model:
    """Train a small MobileNetV2 from scratch: enough to see accuracy move, no more."""
    keras.utils.set_random_seed(0)
    model = keras.applications.MobileNetV2((96, 96, 3), 0.35, weights=None, classes=2)
    model.compile(keras.optimizers.Adam(1e-3), "sparse_categorical_crossentropy")
    inputs = images.astype("float32") / 255
    model.fit(
        np.concatenate([inputs, inputs[:, :, ::-1]]),
        np.concatenate([targets, targets]),
        epochs=epochs,
        batch_size=32,
        verbose=2,
    )
    return model


def run(case: Case, scheme: str, target: str, threads: int, folder: Path) -> dict[str, Any]:
    """Build for half the latency, then for as many MACs as that left, and return both."""
    options: dict[str, Any] = {
        "target": target,
        "quantize": scheme,
        "step": STEP,
        "threads": threads,
        "preprocess": case.preprocess,
        "amounts": AMOUNTS,
        "out": folder / "out",
    }
    timed = build(
        case.model, case.data, budget=f"latency={SHARE:.0%}", meet_measured=True, **options
    )
    spent = Budget("macs", timed.outcome.macs.after, relative=False)
    counted = build(case.model, case.data, budget=spent, measure=False, **options)
    latency = timed.outcome.latency_ms
    assert latency is not None  # it was measured
    return {
        "before": latency.before,
        "after": latency.after,
        "rounds": [turn["measured_ms"] for turn in timed.outcome.rounds],
        "macs": timed.outcome.macs.ratio,
        "original": timed.outcome.accuracy["original"],
        "timed": timed.outcome.accuracy["tflite"],
        "counted": counted.outcome.accuracy["tflite"],
        "samples": timed.outcome.test_samples["kept"],
    }


def describe(found: dict[str, Any]) -> list[str]:
    """Return the figures of a row."""
    off = found["after"] / (SHARE * found["before"]) - 1
    rounds = ", ".join(f"{ms:.3f}" for ms in found["rounds"])
    shares = (f"{100 * found[name]:.1f} %" for name in ("original", "timed", "counted"))
    return [
        f"{found['before']:.3f}", f"{found['after']:.3f}", f"{100 * off:+.1f} %", rounds,
        f"{100 * found['macs']:.0f} %", *shares, str(found["samples"]),
    ]  # fmt: skip


def main() -> None:
    """Calibrate, build, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared/data")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/latency_budgets.md")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--cases", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--target", help="a calibrated target file; by default one is made")
    options = parser.parse_args()
    rows: list[str] = []
    head = HEAD.format(threads=options.threads)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        target = options.target or str(
            calibrate("x86-64", threads=options.threads, out=folder / "x86-64.toml").path
        )
        for case in itertools.islice(list_cases(options.data, options.epochs), options.cases):
            for scheme in ("int8", "float32"):
                try:
                    cells = describe(run(case, scheme, target, options.threads, folder))
                except BudgetError as error:
                    cells = [str(error), *[""] * (COLUMNS - 1)]
                rows.append("| " + " | ".join([case.name, scheme, *cells]) + " |")
                print(rows[-1], flush=True)
                options.out.write_text("\n".join([head, *rows, ""]), encoding="utf-8")


HEAD = """# Latency budgets, met by measuring

Written by `make latency-table`: `--budget latency=50% --measure` on this machine after
`edgeprune calibrate`, threads: {threads}. *Before* and *after* are medians of one interleaved run
at the end, not those that the loop saw (*rounds*). *Same MACs* is a build with the MACs that the
latency budget left as its budget. Accuracies are those of the `.tflite` on test samples;
MobileNetV2 was trained for minutes on 500 pictures, so that its accuracy only shows which way
things move.

| network | format | before, ms | after, ms | off the budget | rounds, ms | MACs left | original \
| latency budget | same MACs | test samples |
|---|---|---|---|---|---|---|---|---|---|---|"""

if __name__ == "__main__":
    main()
