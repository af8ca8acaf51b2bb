"""What a network will take on a board, with the error to expect."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from edgeprune.errors import BudgetError
from edgeprune.latency.features import FEATURES, ITEM_BYTES, RATE_UNIT, Kernels, count_features
from edgeprune.latency.operators import Operator, Workload

PLAIN = Kernels()


@dataclass(frozen=True)
class Prediction:
    """A figure that nobody measured.

    Attributes:
        value: in `unit`.
        unit: `ms` or `mJ`.
        target: that it is for.
        error: relative; nine of ten predictions were within it, of networks left out of the fit.
        runtime: that the measurements behind it were taken with, where it is an old one.

    Example:
        >>> print(Prediction(12.34, "ms", "rpi4", 0.08, "TFLite 2.7"))
        12.34 ms, predicted for rpi4 with TFLite 2.7, +-8 %
    """

    value: float
    unit: str
    target: str
    error: float
    runtime: str = ""

    @property
    def how(self) -> str:
        """Say what kind of figure it is."""
        runtime = f" with {self.runtime}" if self.runtime else ""
        return f"predicted for {self.target}{runtime}, +-{100 * self.error:.0f} %"

    def __str__(self) -> str:
        return f"{self.value:.4g} {self.unit}, {self.how}"


@dataclass(frozen=True)
class Predictor:
    """Coefficients of the cost model for one target and number format.

    Attributes:
        target: name.
        scheme: number format.
        coefficients: `(features,)` in the order and units of `FEATURES`.
        kernels: tiles and cache behind the features.
        error: of the latency, relative, see `Prediction`.
        power_w: at the wall or rails while a network runs; `None` where unknown.
        power_error: relative.
        threads: that the latencies were measured with.
        channel_step: that the measurements show to be fast; `None` where unknown.
        kind: `fitted` to measurements of the board, or `scaled` from another board's.
        source: of the measurements.
        rates: of elementwise operators that differ from the rest, ms per million bytes by the name
            of the operator in TensorFlow Lite; by default none.
        shares: the largest part of the time that each feature and rate had in a network of the fit;
            empty where that is not known.
        runtime: that the measurements were taken with, where it is an old one.
    """

    target: str
    scheme: str
    coefficients: np.ndarray = field(compare=False)
    kernels: Kernels = PLAIN
    error: float = 0.0
    power_w: float | None = None
    power_error: float = 0.0
    threads: int = 1
    channel_step: int | None = None
    kind: str = "fitted"
    source: str = ""
    rates: Mapping[str, float] = field(default_factory=dict, hash=False)
    shares: Mapping[str, float] = field(default_factory=dict, hash=False)
    runtime: str = ""

    def milliseconds(self, work: Workload) -> np.ndarray:
        """Return latencies, with the leading axes of the workload."""
        return self._parts(work).sum(-1)

    def _parts(self, work: Workload) -> np.ndarray:
        """Return the milliseconds of each feature, then of each rate, `(..., features)`."""
        features = count_features(work, self.kernels, self.scheme, tuple(self.rates))
        return features * np.array([*self.coefficients, *self.rates.values()])

    def scaled(self, factor: float) -> Predictor:
        """Return the predictor of a machine that takes `factor` times as long for everything.

        Example:
            >>> Predictor("board", "int8", np.ones(8), rates={"MUL": 2}).scaled(3).rates
            {'MUL': 6}
        """
        rates = {name: rate * factor for name, rate in self.rates.items()}
        return replace(self, coefficients=np.asarray(self.coefficients) * factor, rates=rates)

    def predict(self, work: Workload) -> Prediction:
        """Predict the latency of one inference of a network.

        The error to expect grows with what is new: the part of the predicted time that is spent on
        kinds of work beyond the part that they had in any network of the fit.
        """
        parts = self._parts(work)
        value = float(parts.sum())
        new = 0.0
        if self.shares and value:
            most = [self.shares.get(name, 0.0) for name in (*FEATURES, *self.rates)]
            new = float(np.maximum(parts / value - most, 0).sum())
        return Prediction(value, "ms", self.target, self.error + new, self.runtime)

    def latency(self, operators: Iterable[Operator]) -> Prediction:
        """Predict the latency of one inference, see `predict`.

        Example:
            >>> predictor = Predictor("board", "int8", np.array([1, 0, 0, 0, 0, 0, 0, 0.5]))
            >>> predictor.latency([Operator("pointwise", 1000, 10, 100)]).value
            1.5
        """
        return self.predict(Workload.of(operators))

    def energy(self, operators: Iterable[Operator]) -> Prediction | None:
        """Predict the energy of one inference: power times latency; `None` without a power."""
        if self.power_w is None:
            return None
        latency = self.latency(operators)
        return replace(
            latency,
            value=latency.value * self.power_w,
            unit="mJ",
            error=latency.error + self.power_error,
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the table of a target file that `read_predictor` reads."""
        table: dict[str, Any] = {
            "kind": self.kind,
            "source": self.source,
            "error": round(self.error, 4),
            "threads": self.threads,
            "kernels": asdict(self.kernels),
            "coefficients": {
                name: float(f"{value:.4g}")
                for name, value in zip(FEATURES, self.coefficients, strict=True)
            },
        }
        if self.rates:
            table["rates"] = {name: float(f"{rate:.4g}") for name, rate in self.rates.items()}
        if self.shares:
            table["shares"] = {name: round(share, 4) for name, share in self.shares.items()}
        if self.runtime:
            table["runtime"] = self.runtime
        if self.power_w is not None:
            table |= {"power_w": round(self.power_w, 3), "power_error": round(self.power_error, 4)}
        if self.channel_step is not None:
            table["channel_step"] = self.channel_step
        return table


def read_predictor(target: str, tables: Mapping[str, Any], scheme: str) -> Predictor:
    """Return the predictor of a number format from the `prediction` table of a target.

    Args:
        target: name of the target.
        tables: `Target.prediction`: one table per number format.
        scheme: number format that is wanted; `int8-qat` runs as `int8` does.

    Raises:
        BudgetError: the target has no predictor for the format (says which it has), or its table
            is not one.

    Example:
        >>> table = Predictor("board", "int8", np.ones(8), error=0.1).to_dict()
        >>> read_predictor("board", {"int8": table}, "int8").error
        0.1
    """
    wanted = "int8" if scheme == "int8-qat" else scheme
    if wanted not in tables or wanted not in ITEM_BYTES:
        known = ", ".join(name for name in tables if name in ITEM_BYTES)
        has = f"only for {known}" if known else "for no number format"
        raise BudgetError(
            f"Latency in {scheme} cannot be predicted for target '{target}': it has coefficients "
            f"{has}. Measure the board with: edgeprune calibrate --target {target}"
        )
    table = tables[wanted]
    try:
        # Files of before count what is unrolled among the bytes of convolutions.
        found = {"unrolled_bytes": table["coefficients"].get("convolution_bytes")}
        found |= table["coefficients"]
        return Predictor(
            target,
            wanted,
            np.array([float(found[name]) for name in FEATURES]),
            Kernels(**table["kernels"]),
            rates=_read_numbers(table, "rates"),
            shares=_read_numbers(table, "shares"),
            **{key: table[key] for key in _PLAIN if key in table},
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BudgetError(
            f"The coefficients of target '{target}' for {wanted} cannot be read: {error}. "
            f"Make them anew with: edgeprune calibrate --target {target}"
        ) from error


def _read_numbers(table: Mapping[str, Any], name: str) -> dict[str, float]:
    return {str(key): float(value) for key, value in table.get(name, {}).items()}


_PLAIN = (
    "error", "power_w", "power_error", "threads", "channel_step", "kind", "source", "runtime",
)  # fmt: skip


MARK = "# Written by "


def write_tables(tables: Mapping[str, Mapping[str, Any]], program: str) -> str:
    """Return TOML for the tables of several number formats.

    Example:
        >>> print(write_tables({"int8": {"error": 0.08, "source": "us"}}, "a script"))
        # Written by a script, not by hand.
        [prediction.int8]
        error = 0.08
        source = "us"
        <BLANKLINE>
    """
    lines = [f"{MARK}{program}, not by hand."]
    for scheme, table in tables.items():
        lines.append(f"[prediction.{scheme}]")
        inner = {key: value for key, value in table.items() if isinstance(value, Mapping)}
        lines += [f"{key} = {_write(value)}" for key, value in table.items() if key not in inner]
        for name, values in inner.items():
            lines.append(f"[prediction.{scheme}.{name}]")
            for key, value in values.items():
                unit = {"coefficients": FEATURES.get(key), "rates": RATE_UNIT}.get(name)
                unit = f"  # {unit}" if unit else ""
                lines.append(f"{key} = {_write(value)}{unit}")
        lines.append("")
    return "\n".join(lines)


def replace_tables(text: str, tables: str) -> str:
    """Return the text of a target file with other tables at its end."""
    kept = text.split(MARK)[0].rstrip()
    return f"{kept}\n\n{tables}"


def _write(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
