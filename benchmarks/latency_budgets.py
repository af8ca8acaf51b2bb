"""Meet latency budgets by measuring, on three networks, and compare with a budget of MACs.

Writes `benchmarks/latency_budgets.md`; rows that are there already are kept. Run it on a quiet
machine. Data and trained models are not part of this repository: CIFAR-10 with a ResNet-20, and the
visual wake words of MLPerf Tiny with its MobileNetV1-0.25; a MobileNetV2-0.35 from a Teachable
Machine gets a head for CIFAR-10 here.
"""

from __future__ import annotations

import argparse
import itertools
import os
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np

from edgeprune.benchmarking import Measurement
from edgeprune.building import build
from edgeprune.calibration import calibrate
from edgeprune.cost.budgets import Budget
from edgeprune.data import Data
from edgeprune.errors import BudgetError
from edgeprune.loading import load_model
from edgeprune.tracing.replica import operations_by_path

ROOT = Path(__file__).resolve().parent.parent
SHARE = 0.5
COLUMNS = 10
SCHEMES = ("int8", "float32")
HEAD_SAMPLES = 10_000
CIFAR10 = "standardize:mean=125.307,122.950,113.865;std=62.993,62.089,66.705"


@dataclass(frozen=True)
class Case:
    """A trained network and its samples, as `build` takes them."""

    name: str
    model: keras.Model | str
    data: tuple[np.ndarray, np.ndarray]
    preprocess: str


def list_cases(folder: Path) -> Iterator[Case]:
    """Yield the three networks."""
    sys.path.insert(0, str(folder))
    from load import load_images

    images, targets, _ = load_images("cifar10/test.npz")
    yield Case(
        "ResNet-20, CIFAR-10", str(folder / "cifar10/resnet20.keras"), (images, targets), CIFAR10
    )
    words, present, _ = load_images("mlperf_tiny/vww01.npz")
    yield Case(
        "MobileNetV1-0.25-96, wake words",
        str(folder / "mlperf_tiny/mobilenetv1_025_vww.h5"),
        (words, present),
        "unit",
    )
    seen = load_images("cifar10/train_1.npz")
    model = make_mobilenet_v2(
        folder / "legacy_models/teachable_machine.h5", enlarge(seen[0][:HEAD_SAMPLES]), seen[1]
    )
    yield Case("MobileNetV2-0.35-96, CIFAR-10", model, (enlarge(images), targets), "symmetric")


def enlarge(images: np.ndarray) -> np.ndarray:
    """Return images of 32 x 32 as 96 x 96."""
    return images.repeat(3, axis=1).repeat(3, axis=2)


def make_mobilenet_v2(trained: Path, images: np.ndarray, targets: np.ndarray) -> keras.Model:
    """Put a head for CIFAR-10 on a MobileNetV2-0.35 that was trained on ImageNet.

    Args:
        trained: a file that contains its layers, by their names in `keras.applications`.
        images: `(n, 96, 96, 3)` to train the head on.
        targets: at least as many classes.
    """
    keras.utils.set_random_seed(0)
    given = operations_by_path(load_model(trained))
    layers = {path.rpartition("/")[2]: layer for path, layer in given.items()}
    trunk = keras.applications.MobileNetV2((96, 96, 3), 0.35, weights=None, classes=10)
    for layer in trunk.layers[:-1]:
        if layer.weights:
            layer.set_weights(layers[layer.name].get_weights())
    features = keras.Model(trunk.inputs, trunk.layers[-2].output)
    found = features.predict(images / np.float32(127.5) - 1, batch_size=128, verbose=0)
    head = keras.Sequential([keras.Input(found.shape[1:]), trunk.layers[-1]])
    head.compile("adam", "sparse_categorical_crossentropy")
    head.fit(found, targets[: len(images)], epochs=20, verbose=0)
    return trunk


def run(case: Case, scheme: str, target: str, threads: int, folder: Path) -> dict[str, Any]:
    """Build for half the latency, then for as many MACs as that left, and return both."""
    data = Data(case.data, case.preprocess, calibration=50, validation=100)
    measurement = Measurement(threads=threads)
    options: dict[str, Any] = {"target": target, "export": scheme, "out": folder / "out"}
    timed = build(
        case.model, data, budget=f"latency={SHARE:.0%}",
        measurement=replace(measurement, until_met=True), **options,
    )  # fmt: skip
    spent = Budget("macs", timed.outcome.macs.after, relative=False)
    counted = build(case.model, data, budget=spent, measurement=measurement, **options)
    latency, of_counted = timed.outcome.latency_ms, counted.outcome.latency_ms
    assert latency is not None and of_counted is not None  # both were measured
    return {
        "before": latency.before,
        "after": latency.after,
        "rounds": [turn["latency"] for turn in timed.outcome.rounds],
        "macs": timed.outcome.macs.ratio,
        "original": timed.outcome.accuracy["original"],
        "timed": timed.outcome.accuracy["tflite"],
        "counted": counted.outcome.accuracy["tflite"],
        "counted_ms": latency.before * of_counted.ratio,
        "samples": timed.outcome.test_samples["kept"],
    }


def describe(found: dict[str, Any]) -> list[str]:
    """Return the figures of a row."""
    off = found["after"] / (SHARE * found["before"]) - 1
    rounds = ", ".join(f"{ms:.3f}" for ms in found["rounds"])
    shares = (f"{100 * found[name]:.1f} %" for name in ("original", "timed", "counted"))
    return [
        f"{found['before']:.3f}", f"{found['after']:.3f}", f"{100 * off:+.1f} %", rounds,
        f"{100 * found['macs']:.0f} %", *shares, f"{found['counted_ms']:.3f}",
        str(found["samples"]),
    ]  # fmt: skip


def main() -> None:
    """Calibrate, build, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared/data")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/latency_budgets.md")
    parser.add_argument("--cases", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--target", help="a calibrated target file; by default one is made")
    options = parser.parse_args()
    kept, rows = read_rows(options.out), []
    head = HEAD.format(threads=options.threads)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        target = options.target or str(
            calibrate("x86-64", threads=options.threads, out=folder / "x86-64.toml").path
        )
        for case in itertools.islice(list_cases(options.data), options.cases):
            for scheme in SCHEMES:
                if (case.name, scheme) in kept:
                    rows.append(kept.pop((case.name, scheme)))
                    continue
                try:
                    cells = describe(run(case, scheme, target, options.threads, folder))
                except BudgetError as error:
                    cells = [str(error), *[""] * (COLUMNS - 1)]
                rows.append("| " + " | ".join([case.name, scheme, *cells]) + " |")
                print(rows[-1], flush=True)
                text = "\n".join([head, *rows, *kept.values(), ""])
                options.out.write_text(text, encoding="utf-8")


def read_rows(path: Path) -> dict[tuple[str, str], str]:
    """Return the rows of an earlier run by network and format."""
    lines = path.read_text("utf-8").splitlines() if path.exists() else []
    cells = {line: [cell.strip() for cell in line.split("|")] for line in lines if "|" in line}
    return {(found[1], found[2]): line for line, found in cells.items() if found[2] in SCHEMES}


HEAD = """# Latency budgets, met by measuring

Written by `make latency-table`: `--budget latency=50% --measure` on this machine after
`edgeprune calibrate`, threads: {threads}. *Before* and *after* are medians of one interleaved run
at the end, not those that the loop saw (*rounds*; the last is the rival with as many MACs, which
is taken where it is as fast and validation prefers it). *Same MACs* is a build with the MACs that
the latency budget left as its budget, with its own latency. Accuracies are those of the `.tflite`
on test samples; MobileNetV2 is a trunk trained on ImageNet with a head for enlarged CIFAR-10.

| network | format | before, ms | after, ms | off the budget | rounds, ms | MACs left | original \
| latency budget | same MACs | same MACs, ms | test samples |
|---|---|---|---|---|---|---|---|---|---|---|---|"""

if __name__ == "__main__":
    main()
