"""Calibrate this machine, then predict networks that it was not calibrated with.

Writes `benchmarks/calibration.md`: predicted against measured medians of 24 networks, half of them
pruned, in int8 and float32. Run it on a quiet machine; a load of others makes it worthless.
"""

from __future__ import annotations

import argparse
import itertools
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from scipy.stats import spearmanr

from edgeprune.benchmarking import bench
from edgeprune.calibration import calibrate
from edgeprune.calibration.networks import SCHEMES
from edgeprune.latency import Predictor, read_operators
from edgeprune.surgery.channel_removal import remove_channels
from edgeprune.surgery.plan import Plan
from edgeprune.tflite import convert
from edgeprune.tracing.groups import find_groups

ROOT = Path(__file__).resolve().parent.parent
SECONDS = 0.5
BATCH = 8
KEPT = (0.75, 0.5, 0.3)


def build_resnet(side: int, width: int, blocks: int) -> keras.Model:
    """Return a residual network for small images (He et al. 2015), three stages."""
    layers = keras.layers
    inputs = keras.Input((side, side, 3))
    x = layers.Conv2D(width, 3, padding="same", use_bias=False)(inputs)
    x = layers.ReLU()(layers.BatchNormalization()(x))
    for stage in range(3):
        for block in range(blocks):
            stride, channels = (2 if stage and not block else 1), width * 2**stage
            y = layers.Conv2D(channels, 3, stride, padding="same", use_bias=False)(x)
            y = layers.ReLU()(layers.BatchNormalization()(y))
            y = layers.Conv2D(channels, 3, padding="same", use_bias=False)(y)
            y = layers.BatchNormalization()(y)
            if stride > 1:
                x = layers.Conv2D(channels, 1, stride, use_bias=False)(x)
            x = layers.ReLU()(layers.Add()([x, y]))
    x = layers.Dense(10, activation="softmax")(layers.GlobalAveragePooling2D()(x))
    return keras.Model(inputs, x)


def list_networks() -> Iterator[tuple[str, keras.Model]]:
    """Yield the unpruned networks; none is among the micro-models."""
    made = keras.applications
    options = {"weights": None}
    yield "ResNet-20", build_resnet(32, 16, 3)
    yield "ResNet-32, 48x48", build_resnet(48, 16, 5)
    yield "MobileNetV1-0.25-96", made.MobileNet((96, 96, 3), 0.25, **options)
    yield "MobileNetV1-0.5-128", made.MobileNet((128, 128, 3), 0.5, **options)
    yield "MobileNetV2-0.35-96", made.MobileNetV2((96, 96, 3), 0.35, **options)
    yield "MobileNetV2-0.75-128", made.MobileNetV2((128, 128, 3), 0.75, **options)
    yield "MobileNetV2-1.0-160", made.MobileNetV2((160, 160, 3), 1.0, **options)
    yield "MobileNetV3-small-96", made.MobileNetV3Small((96, 96, 3), **options)
    yield "EfficientNet-B0-96", made.EfficientNetB0(input_shape=(96, 96, 3), **options)
    yield "VGG-16-64", made.VGG16(False, input_shape=(64, 64, 3), **options)
    yield "DenseNet-121-64", made.DenseNet121(False, input_shape=(64, 64, 3), **options)
    yield "Xception-96", made.Xception(False, input_shape=(96, 96, 3), **options)


def prune_at_random(model: keras.Model, share: float) -> keras.Model:
    """Return a model with widths of its groups drawn around a share: any widths, not multiples."""
    generator = np.random.default_rng(round(1000 * share))
    groups = find_groups(model)
    keep = {}
    for group in groups.removable:
        width = int(np.clip(group.width * share * generator.uniform(0.7, 1.3), 1, group.width))
        keep[group.name] = tuple(range(width))
    return remove_channels(model, Plan(keep, groups.fingerprint), groups=groups)


def write_files(folder: Path, count: int) -> dict[str, Path]:
    """Convert the networks, pruned and not, in both formats."""
    files = {}
    for number, (name, model) in enumerate(itertools.islice(list_networks(), count)):
        share = KEPT[number % len(KEPT)]
        variants = {name: model, f"{name}, {share:.0%} kept": prune_at_random(model, share)}
        for variant, network in variants.items():
            generator = np.random.default_rng(0)
            for weight in network.weights:  # as after training: the converter drops sums with zero
                if weight.path.endswith(("beta", "moving_mean")):
                    weight.assign(generator.normal(0, 0.1, weight.shape))
            samples = np.random.default_rng(0).random((4, *network.input_shape[1:]), "float32")
            for scheme in SCHEMES:
                path = folder / f"{len(files)}.tflite"
                convert(network, scheme=scheme, calibration=samples, path=path)
                files[f"{scheme}|{variant}"] = path
        print(f"converted {name}", flush=True)
    return files


def measure_files(files: dict[str, Path], seconds: float) -> tuple[dict[str, float], str]:
    """Return the median latency of every network in ms, and where it was measured."""
    measured, state = {}, ""
    keys = list(files)
    for begin in range(0, len(keys), BATCH):
        batch = {key: files[key] for key in keys[begin : begin + BATCH]}
        result = bench(batch, target="x86-64", seconds=seconds)
        measured |= {entry.model: entry.p50_ms for entry in result.measurements}
        state = result.measurements[0].where
        print(f"measured {len(measured)} of {len(keys)}", flush=True)
    return measured, state


def describe(
    predictor: Predictor, files: dict[str, Path], measured: dict[str, float]
) -> tuple[list[str], str]:
    """Return the table of a format, and its verdict."""
    lines = [
        "| network | MACs | predicted, ms | measured p50, ms | error |",
        "|---|---|---|---|---|",
    ]
    pairs = []
    for key, path in files.items():
        scheme, _, name = key.partition("|")
        if scheme != predictor.scheme:
            continue
        operators = read_operators(path)
        macs = sum(operator.macs for operator in operators)
        predicted = predictor.latency(operators).value
        pairs.append((predicted, measured[key]))
        error = predicted / measured[key] - 1
        lines.append(
            f"| {name} | {macs / 1e6:.1f} M | {predicted:.3f} | {measured[key]:.3f} "
            f"| {100 * error:+.1f} % |"
        )
    table = np.array(pairs)
    errors = np.abs(table[:, 0] / table[:, 1] - 1)
    rank = spearmanr(table[:, 0], table[:, 1]).statistic
    within = 100 * (errors <= 0.15).mean()
    verdict = (
        f"{len(pairs)} networks: MAPE {100 * errors.mean():.1f} %, {within:.0f} % within 15 %, "
        f"rank correlation {rank:.3f}; stated error {100 * predictor.error:.0f} %."
    )
    return lines, verdict


def main() -> None:
    """Convert, calibrate, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/calibration.md")
    parser.add_argument("--seconds", type=float, default=SECONDS)
    parser.add_argument("--networks", type=int, default=12, help="how many of them")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = write_files(folder, options.networks)
        before, _ = measure_files(files, options.seconds)
        start = time.perf_counter()
        found = calibrate("x86-64", out=folder / "here.toml")
        minutes = (time.perf_counter() - start) / 60
        after, state = measure_files(files, options.seconds)
        measured = {key: min(before[key], after[key]) for key in files}
        unrest = np.median([abs(before[key] / after[key] - 1) for key in files])
        how = (
            f"Calibration took {minutes:.1f} minutes, {found.target.threads} threads; {state}. "
            f"Load average over the last minute: {os.getloadavg()[0]:.1f}. The two measurements of "
            f"a network differ by {100 * unrest:.0f} % (median)."
        )
        text = [HEAD, how, ""]
        for predictor in found.predictors:
            lines, verdict = describe(predictor, files, measured)
            text += [f"### {predictor.scheme}", "", verdict, "", *lines, ""]
            print(predictor.scheme, verdict)
    options.out.write_text("\n".join(text), encoding="utf-8")


HEAD = """# Calibration of this machine

Written by `make calibration-table`. The predictor is fitted to micro-models alone
(`edgeprune calibrate`), then asked for networks that it has never seen: twelve architectures as
they are, and each once more with random widths that are multiples of nothing. Each is measured
before and after the calibration, and the faster median counts, as in the calibration itself. Which
quantities the cost model has was decided with earlier runs of this table in view; its coefficients
have never seen these networks.
"""

if __name__ == "__main__":
    main()
