"""Fit the predictor to the Raspberry Pi 4 measurements of MLPerf Inference, and judge it.

Writes `benchmarks/predictor.md` with its plot, and the coefficients into `devices/boards/*.toml`.
The measurements are not part of this repository: MLPerf Inference v1.1 and v2.0, submitter Krai
(github.com/mlcommons/inference_results_v1.1 and _v2.0), as `latencies.csv` and `power.csv`.
"""

from __future__ import annotations

import argparse
import csv
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from mobilenets import FAMILIES

from edgeprune.boards import Target, find_target
from edgeprune.latency import Kernels, Predictor, Workload, count_features
from edgeprune.latency.expectations import expect_coefficients
from edgeprune.latency.fitting import fit, left_out_errors
from edgeprune.latency.predictor import replace_tables, write_tables

ROOT = Path(__file__).resolve().parent.parent
HALF_OF_L2 = 2**19
KERNELS = {"int8": Kernels(4, 4, 16, HALF_OF_L2), "float32": Kernels(8, 8, 1, HALF_OF_L2)}
"""Tiles of ruy's kernels for Arm without dot product: 4 x 4 with depth 16, and 8 x 8."""
SYSTEMS = {
    "rpi4coral-fan.on-tflite-v2.5.0-ruy": ("TFLite 2.5.0, 1.5 GHz", 0),
    "rpi4-tflite-v2.7.1-ruy": ("TFLite 2.7.1, 1.8 GHz", 1),
}
"""Description, and which of the two clocks (and peaks) of the board's file."""
DELIVERED = "rpi4-tflite-v2.7.1-ruy"
SOURCE = "MLPerf Inference v2.0, Krai: Raspberry Pi 4, TFLite 2.7.1 with ruy kernels"
MODEL = re.compile(r"mobilenet-v([12])-([\d.]+)-(\d+)-(non-)?quantized")
ANCHORS = {"int8": 78.0 / 22.9, "float32": 175.8 / 62.2}
"""Pi 4 against Pi 5, EfficientDet-lite0-320, 4 threads (NobuoTsukamoto/benchmarks, TFLite 2.18)."""
SCALED_ERROR = {"rpi5": 0.3, "rpi3b-plus": 0.4, "rpi-zero2w": 0.4}


@dataclass(frozen=True)
class Measured:
    """One row of MLPerf: a network on a system."""

    system: str
    scheme: str
    family: str
    width: float
    size: int
    p50_ms: float
    mean_ms: float
    watts: float | None = None


def read_measurements(folder: Path) -> list[Measured]:
    """Return the rows of the two usable systems."""
    with (folder / "power.csv").open() as file:
        watts = {(r["system"], r["model"]): float(r["avg_W"]) for r in csv.DictReader(file)}
    found = []
    with (folder / "latencies.csv").open() as file:
        for row in csv.DictReader(file):
            match = MODEL.fullmatch(row["model"])
            if match is None or row["system"] not in SYSTEMS:
                continue
            version, width, size, floating = match.groups()
            found.append(
                Measured(
                    row["system"],
                    "float32" if floating else "int8",
                    f"MobileNetV{version}",
                    float(width),
                    int(size),
                    float(row["p50_ms"]),
                    float(row["mean_ms"]),
                    watts.get((row["system"], row["model"])),
                )
            )
    return found


def features_of(rows: Sequence[Measured]) -> np.ndarray:
    """Return the features of each row's network."""
    return np.array(
        [
            count_features(
                Workload.of(FAMILIES[row.family](row.width, row.size)),
                KERNELS[row.scheme],
                row.scheme,
            )
            for row in rows
        ]
    )


def expect(target: Target, scheme: str, edition: int = 0) -> np.ndarray:
    """Return what a board's data sheet lets expect: the prior, and the measure of scaling."""

    def look_up(name: str) -> float:
        value = target.figure(name).value
        return value[min(edition, 1)] if isinstance(value, tuple) else float(value)

    def middle(name: str) -> float:
        return float(np.mean(target.figure(name).value))

    bandwidth = (middle("memory_copy") + middle("memory_set")) / 2
    return expect_coefficients(look_up(f"peak_{scheme}"), bandwidth, look_up("clock"))


@dataclass(frozen=True)
class Judged:
    """Errors of one system and number format, relative, `(networks,)` each."""

    rows: list[Measured]
    fitted: np.ndarray
    by_family: np.ndarray
    by_width: np.ndarray
    within: dict[str, np.ndarray]
    macs_by_family: np.ndarray
    macs_within: dict[str, np.ndarray]
    coefficients: np.ndarray


def evaluator(rows: list[Measured], statistic: Callable[[Measured], float]) -> Judged:
    """Fit, and predict what was left out: a family, a width, a width within a family."""
    features = features_of(rows)
    latencies = np.array([statistic(row) for row in rows])
    prior = expect(find_target("rpi4"), rows[0].scheme, SYSTEMS[rows[0].system][1])
    coefficients = fit(features, latencies, prior)
    families = [row.family for row in rows]
    widths = [(row.family, row.width) for row in rows]
    macs = np.column_stack([[count_macs(row) for row in rows], np.ones(len(rows))])

    def within(table: np.ndarray, prior: np.ndarray | None) -> dict[str, np.ndarray]:
        found = {}
        for family in FAMILIES:
            held = np.array([other == family for other in families])
            parts = [part for part in widths if part[0] == family]
            found[family] = left_out_errors(table[held], latencies[held], parts, prior)
        return found

    return Judged(
        rows,
        features @ coefficients / latencies - 1,
        left_out_errors(features, latencies, families, prior),
        left_out_errors(features, latencies, widths, prior),
        within(features, prior),
        left_out_errors(macs, latencies, families),
        within(macs, None),
        coefficients,
    )


def count_macs(row: Measured) -> float:
    """Return millions of multiply-accumulates."""
    return 1e-6 * sum(op.macs for op in FAMILIES[row.family](row.width, row.size))


def percent(errors: np.ndarray) -> str:
    """Return the mean absolute error."""
    return f"{100 * np.abs(errors).mean():.1f} %"


def share(errors: np.ndarray) -> str:
    """Return how many errors are at most 10 %."""
    return f"{100 * (np.abs(errors) <= 0.1).mean():.0f} %"


def describe(judged: dict[tuple[str, str], Judged], title: str) -> list[str]:
    """Return the table of errors."""
    lines = [
        f"### {title}",
        "",
        "| board and runtime | format | V1 from V2 | V2 from V1 | inside V1 | inside V2 | "
        "width left out, both families | within 10 % |",
        "|---|---|---|---|---|---|---|---|",
    ]
    everything = []
    for (system, scheme), found in judged.items():
        family = np.array([row.family for row in found.rows])
        errors = [*found.within.values(), found.by_family, found.by_width]
        everything += errors
        cells = [
            SYSTEMS[system][0], scheme,
            *(percent(found.by_family[family == name]) for name in FAMILIES),
            *(percent(found.within[name]) for name in FAMILIES),
            percent(found.by_width), share(np.concatenate(errors)),
        ]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    total = np.concatenate(everything)
    lines += [
        "",
        f"All {len(total)} predictions of left-out networks: MAPE {percent(total)}, "
        f"{share(total)} within 10 %.",
        "",
    ]
    return lines


def describe_macs(judged: dict[tuple[str, str], Judged]) -> list[str]:
    """Return the same errors for a straight line over MACs, the usual stand-in for latency."""
    lines = ["### MACs alone, p50", "", 
             "| board and runtime | format | unseen family | inside a family |",
             "|---|---|---|---|"]  # fmt: skip
    for (system, scheme), found in judged.items():
        inside = np.concatenate(list(found.macs_within.values()))
        cells = SYSTEMS[system][0], scheme, percent(found.macs_by_family), percent(inside)
        lines.append(f"| {' | '.join(cells)} |")
    return [*lines, ""]


def judge_energy(rows: Sequence[Measured]) -> tuple[list[str], dict[str, tuple[float, float]]]:
    """Return the table of energies given the latency, and power with its error per format."""
    lines = ["### Energy, given the latency", "", "| format | power, W | MAPE | worst | networks |",
             "|---|---|---|---|---|"]  # fmt: skip
    powers = {}
    for scheme in KERNELS:
        watts = np.array([row.watts for row in rows if row.scheme == scheme and row.watts])
        # One network left out at a time: its power is the mean of the others'.
        others = (watts.sum() - watts) / (len(watts) - 1)
        errors = others / watts - 1
        powers[scheme] = float(watts.mean()), float(np.quantile(np.abs(errors), 0.9))
        cells = (scheme, f"{watts.mean():.2f}", percent(errors),
                 f"{100 * np.abs(errors).max():.1f} %", str(len(watts)))  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    return [*lines, ""], powers


def scale(fitted: Predictor, name: str) -> Predictor:
    """Carry a predictor to another board by the ratio of their data sheets."""
    there, here = find_target(name), find_target("rpi4")
    ratio = expect(there, fitted.scheme) / expect(here, fitted.scheme, SYSTEMS[DELIVERED][1])
    coefficients, source = fitted.coefficients * ratio, "scaled from rpi4 by peak, bandwidth, clock"
    if name == "rpi5":
        work = Workload.of(FAMILIES["MobileNetV2"](1.0, 224))
        features = count_features(work, fitted.kernels, fitted.scheme)
        found = (features @ fitted.coefficients) / (features @ coefficients)
        coefficients = coefficients * found / ANCHORS[fitted.scheme]
        source += ", then to EfficientDet-lite0 on both (NobuoTsukamoto/benchmarks)"
    return replace(
        fitted, target=name, coefficients=coefficients, error=SCALED_ERROR[name], kind="scaled",
        power_w=None, source=source,
    )  # fmt: skip


def plot(judged: dict[tuple[str, str], Judged], path: Path) -> None:
    """Draw predicted against measured for families that were left out."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, 2, figsize=(8, 8), layout="constrained")
    for axis, ((system, scheme), found) in zip(axes.flat, judged.items(), strict=True):
        measured = np.array([row.p50_ms for row in found.rows])
        predicted = measured * (1 + found.by_family)
        limits = np.array([measured.min() * 0.8, measured.max() * 1.2])
        axis.fill_between(limits, 0.9 * limits, 1.1 * limits, alpha=0.2, label="within 10 %")
        for name, marker in zip(FAMILIES, "os", strict=True):
            held = np.array([row.family == name for row in found.rows])
            axis.loglog(measured[held], predicted[held], marker, label=f"{name}, unseen")
        axis.set(title=f"{SYSTEMS[system][0]}, {scheme}", xlabel="measured p50, ms",
                 ylabel="predicted, ms")  # fmt: skip
        axis.legend()
    figure.savefig(path, dpi=90)


def main() -> None:
    """Read, fit, judge, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared/data/mlperf_pi")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks")
    parser.add_argument("--boards", type=Path, default=ROOT / "devices/boards")
    options = parser.parse_args()
    rows = read_measurements(options.data)
    parts = {
        (system, scheme): [r for r in rows if (r.system, r.scheme) == (system, scheme)]
        for system in SYSTEMS
        for scheme in KERNELS
    }
    medians = {key: evaluator(found, lambda row: row.p50_ms) for key, found in parts.items()}
    means = {key: evaluator(found, lambda row: row.mean_ms) for key, found in parts.items()}
    energy, powers = judge_energy(rows)
    predictors = {}
    for scheme in KERNELS:
        found = medians[DELIVERED, scheme]
        error = float(np.quantile(np.abs(found.by_family), 0.9))
        predictors[scheme] = Predictor(
            "rpi4", scheme, found.coefficients, KERNELS[scheme], error, *powers[scheme],
            threads=4, source=SOURCE,
        )  # fmt: skip
    write_boards(options.boards, predictors)
    plot(medians, options.out / "predictor.png")
    text = [HEAD, *describe(medians, "p50"), *describe(means, "mean"), *describe_macs(medians),
            *energy, "![Predicted against measured](predictor.png)", ""]  # fmt: skip
    (options.out / "predictor.md").write_text("\n".join(text), encoding="utf-8")
    print("\n".join(text))


def write_boards(folder: Path, predictors: dict[str, Predictor]) -> None:
    """Put the coefficients into the files of the boards."""
    for name in ("rpi4", *SCALED_ERROR):
        found = {
            scheme: predictor if name == "rpi4" else scale(predictor, name)
            for scheme, predictor in predictors.items()
        }
        path = folder / f"{name}.toml"
        tables = write_tables(
            {scheme: predictor.to_dict() for scheme, predictor in found.items()},
            "benchmarks/predictor.py",
        )
        path.write_text(replace_tables(path.read_text("utf-8"), tables), encoding="utf-8")


HEAD = """# The predictor against measurements of the Raspberry Pi 4

Written by `make predictor-table` from MLPerf Inference v1.1 and v2.0 (Krai): MobileNetV1 (4 widths,
4 sizes) and V2 (3 widths, 5 sizes), int8 and float32, measured with four threads. Errors are
relative; MAPE is their mean absolute value. *V1 from V2*: fitted to MobileNetV2 alone, asked for
MobileNetV1. *Inside V1*: fitted to three widths of MobileNetV1, asked for the fourth, so that the
narrowest and the widest are extrapolated. No row is ever predicted by a fit that has seen it. The
prior (`edgeprune/latency/expectations.py`) comes from the data sheet; its constants and
strength, and which features there are, were chosen with these tables in view, so the errors for an
unseen family are somewhat optimistic.
"""

if __name__ == "__main__":
    main()
