"""Fit the predictor to the Raspberry Pi 4 measurements of MLPerf Inference, and judge it.

Writes `benchmarks/predictor.md` with its plot, and the coefficients into `devices/boards/*.toml`.
The measurements are not part of this repository: MLPerf Inference v1.1 and v2.0, submitter Krai
(github.com/mlcommons/inference_results_v1.1 and _v2.0), as `latencies.csv`, `more_latencies.csv`
and `power.csv`.
"""

from __future__ import annotations

import argparse
import csv
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from published_networks import (
    efficientnet_lite,
    mobilenet_v1,
    mobilenet_v2,
    mobilenet_v3,
    resnet_50,
)

from edgeprune.boards import Target, find_target
from edgeprune.latency import FEATURES, Kernels, Operator, Predictor, Workload, count_features
from edgeprune.latency.expectations import expect_coefficients
from edgeprune.latency.fitting import fit, largest_shares, left_out_errors
from edgeprune.latency.predictor import replace_tables, write_tables

ROOT = Path(__file__).resolve().parent.parent
HALF_OF_L2 = 2**19
KERNELS = {
    "int8": Kernels(4, 4, 16, HALF_OF_L2, competing=True),
    "float32": Kernels(8, 8, 1, HALF_OF_L2, competing=True),
}
"""Tiles of ruy's kernels for Arm without dot product: 4 x 4 with depth 16, and 8 x 8. One inference
after the other goes through all weights, so that what exceeds the cache is read each time."""
RATED = {"int8": ("HARD_SWISH", "MUL"), "float32": ()}
"""Operators without a fast kernel in a number format."""
RATED_FACTOR = 2.0
"""What their bytes are expected to cost against those of others."""
SYSTEMS = {
    "rpi4coral-fan.on-tflite-v2.5.0-ruy": ("TFLite 2.5.0, 1.5 GHz", 0),
    "rpi4-tflite-v2.7.1-ruy": ("TFLite 2.7.1, 1.8 GHz", 1),
}
"""Description, and which of the two clocks (and peaks) of the board's file."""
DELIVERED = "rpi4-tflite-v2.7.1-ruy"
RUNTIME = "TFLite 2.7 (ruy)"
SOURCE = "MLPerf Inference v1.1 and v2.0, Krai: Raspberry Pi 4, TFLite 2.7.1 with ruy kernels"
MODEL = re.compile(
    r"(mobilenet-v1|mobilenet-v2|mobilenet-v3-large-minimalistic|mobilenet-v3-large|resnet|"
    r"efficientnet-lite)-?([\d.]*)-(\d+)-(non-)?quantized"
)
NETWORKS: dict[str, tuple[str, Callable[[str, int], list[Operator]]]] = {
    "mobilenet-v1": ("MobileNetV1", lambda width, size: mobilenet_v1(float(width), size)),
    "mobilenet-v2": ("MobileNetV2", lambda width, size: mobilenet_v2(float(width), size)),
    "mobilenet-v3-large": ("MobileNetV3", lambda _, size: mobilenet_v3(False, size)),
    "mobilenet-v3-large-minimalistic": ("MobileNetV3", lambda _, size: mobilenet_v3(True, size)),
    "efficientnet-lite": ("EfficientNet-lite", lambda n, size: efficientnet_lite(int(n), size)),
    "resnet": ("ResNet-50", lambda _, size: resnet_50(size)),
}
"""Family and operators by the beginning of a name in MLPerf's tables."""
FAMILIES = tuple(dict.fromkeys(family for family, _ in NETWORKS.values()))
ANCHORS = {"int8": 78.0 / 22.9, "float32": 175.8 / 62.2}
"""Pi 4 against Pi 5, EfficientDet-lite0-320, 4 threads (NobuoTsukamoto/benchmarks, TFLite 2.18)."""
SCALED_ERROR = {"rpi5": 0.3, "rpi3b-plus": 0.4, "rpi-zero2w": 0.4}
STATED = 0.9


@dataclass(frozen=True)
class Measured:
    """One row of MLPerf: a network on a system."""

    system: str
    scheme: str
    family: str
    variant: str
    work: Workload
    mean_ms: float
    watts: float | None = None


def read_measurements(folder: Path) -> list[Measured]:
    """Return the rows of the two usable systems."""
    with (folder / "power.csv").open() as file:
        watts = {(r["system"], r["model"]): float(r["avg_W"]) for r in csv.DictReader(file)}
    found = []
    for name in ("latencies.csv", "more_latencies.csv"):
        with (folder / name).open() as file:
            for row in csv.DictReader(file):
                match = MODEL.fullmatch(row["model"])
                if match is None or row["system"] not in SYSTEMS:
                    continue
                start, variant, size, floating = match.groups()
                family, build = NETWORKS[start]
                found.append(
                    Measured(
                        row["system"],
                        "float32" if floating else "int8",
                        family,
                        variant,
                        Workload.of(build(variant, int(size))),
                        float(row["mean_ms"]),
                        watts.get((row["system"], row["model"])),
                    )
                )
    return found


def expect(target: Target, scheme: str, edition: int = 0) -> np.ndarray:
    """Return what a board's data sheet lets expect: the prior, and the measure of scaling."""

    def look_up(name: str) -> float:
        value = target.figure(name).value
        return value[min(edition, 1)] if isinstance(value, tuple) else float(value)

    def middle(name: str) -> float:
        return float(np.mean(target.figure(name).value))

    bandwidth = (middle("memory_copy") + middle("memory_set")) / 2
    found = expect_coefficients(look_up(f"peak_{scheme}"), bandwidth, look_up("clock"), scheme)
    rate = RATED_FACTOR * found[list(FEATURES).index("other_bytes")]
    return np.append(found, [rate] * len(RATED[scheme]))


@dataclass(frozen=True)
class Fit:
    """A predictor of some rows, with the error that it states."""

    predictor: Predictor

    @classmethod
    def to(cls, rows: Sequence[Measured]) -> Fit:
        """Fit; the error is what nine of ten networks of a family left out of these are within."""
        first = rows[0]
        table, latencies, prior = tabulate(rows)
        coefficients = fit(table, latencies, prior)
        families = [row.family for row in rows]
        errors = left_out_errors(table, latencies, families, prior) if len(set(families)) > 1 else 0
        names = (*FEATURES, *RATED[first.scheme])
        shares = largest_shares(table, coefficients)
        return cls(
            Predictor(
                "rpi4",
                first.scheme,
                coefficients[: len(FEATURES)],
                KERNELS[first.scheme],
                float(np.quantile(np.abs(1 / (1 + np.asarray(errors)) - 1), STATED)),
                threads=4,
                source=SOURCE,
                rates=dict(zip(names[len(FEATURES) :], coefficients[len(FEATURES) :], strict=True)),
                shares=dict(zip(names, shares.tolist(), strict=True)),
                runtime=RUNTIME,
            )
        )


def tabulate(rows: Sequence[Measured]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return features, latencies and the prior of rows of one system and number format."""
    first = rows[0]
    kernels, rated = KERNELS[first.scheme], RATED[first.scheme]
    return (
        np.array([count_features(row.work, kernels, first.scheme, rated) for row in rows]),
        np.array([row.mean_ms for row in rows]),
        expect(find_target("rpi4"), first.scheme, SYSTEMS[first.system][1]),
    )


@dataclass(frozen=True)
class Judged:
    """Predictions of one system and number format, each from a fit that has not seen its family.

    Attributes:
        rows: that were predicted.
        errors: predicted / measured - 1.
        inside: whether the measured latency was inside the stated interval.
        within: errors inside a family, each width from the others of its family.
    """

    rows: list[Measured]
    errors: np.ndarray
    inside: np.ndarray
    within: dict[str, np.ndarray]

    def of(self, family: str) -> np.ndarray:
        """Mark the rows of a family."""
        return np.array([row.family == family for row in self.rows])


def judge(rows: list[Measured]) -> Judged:
    """Predict every family from the others, and every width of a family from its other widths."""
    errors, inside = np.empty(len(rows)), np.empty(len(rows), bool)
    for family in {row.family for row in rows}:
        predictor = Fit.to([row for row in rows if row.family != family]).predictor
        for index, row in enumerate(rows):
            if row.family == family:
                found = predictor.predict(row.work)
                errors[index] = found.value / row.mean_ms - 1
                inside[index] = abs(row.mean_ms / found.value - 1) <= found.error
    within = {}
    for family in FAMILIES[:2]:
        held = [row for row in rows if row.family == family]
        within[family] = left_out_errors(*tabulate(held)[:2], [row.variant for row in held],
                                         tabulate(held)[2])  # fmt: skip
    return Judged(rows, errors, inside, within)


def percent(errors: np.ndarray) -> str:
    """Return the mean absolute error."""
    return f"{100 * np.abs(errors).mean():.1f} %"


def describe(judged: dict[tuple[str, str], Judged]) -> list[str]:
    """Return the table of errors."""
    lines = [
        "### Families that the fit has not seen, and widths inside a family",
        "",
        f"| board and runtime | format | {' | '.join(FAMILIES)} | all | truths inside | "
        "inside V1 | inside V2 |",
        "|---|---|" + "---|" * (len(FAMILIES) + 4),
    ]
    for (system, scheme), found in judged.items():
        cells = [SYSTEMS[system][0], scheme]
        for family in FAMILIES:
            held = found.of(family)
            text = percent(found.errors[held]) if held.any() else "not measured"
            if 0 < held.sum() < 5:
                text += f" ({', '.join(f'{100 * error:+.0f}' for error in found.errors[held])})"
            cells.append(text)
        cells += [percent(found.errors), f"{100 * found.inside.mean():.0f} %"]
        cells += [percent(errors) for errors in found.within.values()]
        lines.append(f"| {' | '.join(cells)} |")
    inside = np.concatenate([found.inside for found in judged.values()])
    errors = np.concatenate([found.errors for found in judged.values()])
    return [
        *lines,
        "",
        f"All {len(errors)} predictions of an unseen family: MAPE {percent(errors)}; "
        f"{100 * inside.mean():.0f} % of the truths lie inside the interval that was stated.",
        "",
    ]


def describe_macs(parts: dict[tuple[str, str], list[Measured]]) -> list[str]:
    """Return the errors of a straight line over MACs, the usual stand-in for latency."""
    lines = [
        "### MACs alone",
        "",
        "| board and runtime | format | unseen family |",
        "|---|---|---|",
    ]
    for (system, scheme), rows in parts.items():
        macs = np.array([[1e-6 * row.work.macs.sum(), 1] for row in rows])
        latencies = np.array([row.mean_ms for row in rows])
        errors = left_out_errors(macs, latencies, [row.family for row in rows])
        lines.append(f"| {SYSTEMS[system][0]} | {scheme} | {percent(errors)} |")
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
    source, both = "scaled from rpi4 by peak, bandwidth, clock", len(FEATURES)
    scaled = replace(
        fitted, target=name, coefficients=fitted.coefficients * ratio[:both],
        rates={key: rate * by for (key, rate), by in zip(fitted.rates.items(), ratio[both:],
                                                         strict=True)},
        error=SCALED_ERROR[name], kind="scaled", power_w=None,
    )  # fmt: skip
    if name == "rpi5":
        work = Workload.of(mobilenet_v2(1.0, 224))
        found = float(fitted.milliseconds(work) / scaled.milliseconds(work))
        scaled = scaled.scaled(found / ANCHORS[fitted.scheme])
        source += ", then to EfficientDet-lite0 on both (NobuoTsukamoto/benchmarks)"
    return replace(scaled, source=source)


def plot(judged: dict[tuple[str, str], Judged], path: Path) -> None:
    """Draw predicted against measured for families that were left out."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, 2, figsize=(8, 8), layout="constrained")
    for axis, ((system, scheme), found) in zip(axes.flat, judged.items(), strict=True):
        measured = np.array([row.mean_ms for row in found.rows])
        predicted = measured * (1 + found.errors)
        limits = np.array([measured.min() * 0.8, measured.max() * 1.2])
        axis.fill_between(limits, 0.9 * limits, 1.1 * limits, alpha=0.2, label="within 10 %")
        for family, marker in zip(FAMILIES, "os^Dv", strict=True):
            held = found.of(family)
            axis.loglog(measured[held], predicted[held], marker, label=f"{family}, unseen")
        axis.set(title=f"{SYSTEMS[system][0]}, {scheme}", xlabel="measured mean, ms",
                 ylabel="predicted, ms")  # fmt: skip
        axis.legend(fontsize="small")
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
    judged = {key: judge(found) for key, found in parts.items()}
    energy, powers = judge_energy(rows)
    predictors = {}
    for scheme in KERNELS:
        power, error = powers[scheme]
        found = Fit.to(parts[DELIVERED, scheme]).predictor
        predictors[scheme] = replace(found, power_w=power, power_error=error)
    write_boards(options.boards, predictors)
    plot(judged, options.out / "predictor.png")
    text = [HEAD, *describe(judged), *describe_macs(parts), *energy,
            "![Predicted against measured](predictor.png)", ""]  # fmt: skip
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
4 sizes) and V2 (3 widths, 5 sizes), MobileNetV3-large (both), EfficientNet-lite 0, 2 and 4 and, in
float32, ResNet-50, measured with four threads; mean latencies. Errors are relative; MAPE is their
mean absolute value. A family is predicted by a fit to the other families alone; *inside V1* is each
width of MobileNetV1 predicted from its other widths, so that the narrowest and the widest are
extrapolated. No row is ever predicted by a fit that has seen it. The prior
(`edgeprune/latency/expectations.py`) comes from the data sheet; its constants and strength, and
which features there are, were chosen with these tables in view, among about 200 combinations
of seven constants, so the errors for an unseen family are somewhat optimistic.

*Truths inside*: how many of the measured latencies lie inside the interval that was stated with
the prediction: the error that nine of ten networks of a family were within that was left out of the
same fit, plus the part of the predicted time that is spent on kinds of work (matrix products,
unrolled windows, streamed weights, ...) beyond the part that they had in any network of the fit.

All of this is TFLite 2.5 and 2.7 with ruy's kernels. Today's runtimes compute integers with XNNPACK
too: four minutes of `edgeprune calibrate --target rpi4 --host ...` replace these coefficients.
"""

if __name__ == "__main__":
    main()
