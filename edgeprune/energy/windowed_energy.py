"""Energy per inference out of windows and power readings, with an interval over windows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

# Two-sided 95 % quantiles of Student's t for 1 to 30 degrees of freedom; 1.96 from there on.
_T95 = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160,
    2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056,
    2.052, 2.048, 2.045, 2.042,
)  # fmt: skip

Kind = Literal["metered", "rails", "modelled"]


@dataclass(frozen=True)
class EnergyRules:
    """What a window must have to count.

    Attributes:
        seconds: least length of a busy window.
        inferences: fewest inferences in it.
        samples: fewest readings in it.
        repeats: fewest busy windows that must be left.
        gap_periods: longest time without a reading, in periods of the meter.
    """

    seconds: float = 10.0
    inferences: int = 100
    samples: int = 50
    repeats: int = 5
    gap_periods: float = 3.0


RULES = EnergyRules()


@dataclass(frozen=True)
class Energy:
    """Energy of one inference.

    Attributes:
        kind: `metered` (all that the board draws, or the battery gives), `rails` (what a chip on
            the board sees: less than it draws) or `modelled`.
        meter: its name.
        total_mj: millijoules per inference, the board's idle power included.
        above_idle_mj: the same without the idle power around each window.
        total_interval_mj: 95 % confidence interval of `total_mj` over windows.
        above_idle_interval_mj: likewise.
        mean_watts: while the model ran.
        idle_watts: while nothing ran.
        windows: how many counted.
        rate_hz: readings per second.
        rejected: why other windows did not count.
    """

    kind: Kind
    meter: str
    total_mj: float
    above_idle_mj: float
    total_interval_mj: tuple[float, float]
    above_idle_interval_mj: tuple[float, float]
    mean_watts: float
    idle_watts: float
    windows: int
    rate_hz: float
    rejected: tuple[str, ...] = ()

    def __str__(self) -> str:
        low, high = self.total_interval_mj
        return (
            f"{self.total_mj:.3g} mJ ({low:.3g} to {high:.3g}), {self.above_idle_mj:.3g} above "
            f"idle, {self.mean_watts:.2f} W, {self.kind} by {self.meter}"
        )


@dataclass(frozen=True)
class PowerSeries:
    """Readings of a meter.

    Attributes:
        times: seconds, rising.
        watts: at these times.
        period: seconds between readings, as the meter means it.
    """

    times: np.ndarray
    watts: np.ndarray
    period: float

    @classmethod
    def from_readings(cls, readings: Sequence[Sequence[float]], period: float) -> PowerSeries:
        """Sort pairs of seconds and watts."""
        pairs = np.array(sorted(map(tuple, readings)), dtype=float).reshape(-1, 2)
        return cls(pairs[:, 0], pairs[:, 1], period)

    def shift(self, seconds: float) -> PowerSeries:
        """Return the series on another clock."""
        return PowerSeries(self.times + seconds, self.watts, self.period)

    def integrate(self, start: float, end: float) -> float:
        """Return the joules between two moments: trapezoids, clipped at both ends.

        Example:
            >>> series = PowerSeries(np.array([0.0, 2.0]), np.array([1.0, 3.0]), period=2.0)
            >>> series.integrate(0.5, 1.5)
            2.0
        """
        inside = (self.times > start) & (self.times < end)
        times = np.concatenate([[start], self.times[inside], [end]])
        edges = np.interp([start, end], self.times, self.watts)
        watts = np.concatenate([edges[:1], self.watts[inside], edges[1:]])
        return float(np.sum(0.5 * (watts[1:] + watts[:-1]) * np.diff(times)))

    def count(self, start: float, end: float) -> int:
        """Return how many readings lie between two moments."""
        return int(np.sum((self.times >= start) & (self.times <= end)))

    def longest_gap(self, start: float, end: float) -> float:
        """Return the longest time without a reading between two moments, its ends included."""
        inside = self.times[(self.times >= start) & (self.times <= end)]
        before, after = self.times[self.times < start], self.times[self.times > end]
        first = before[-1] if before.size else start
        last = after[0] if after.size else end
        return float(np.max(np.diff(np.concatenate([[first], inside, [last]]))))


def estimate_energy(
    windows: Sequence[Mapping[str, Any]],
    series: PowerSeries,
    model: int,
    *,
    kind: Kind,
    meter: str,
    rules: EnergyRules = RULES,
) -> Energy | str:
    """Work out the energy of one model.

    Args:
        windows: of the harness, in the order of time, on the clock of the series.
        series: readings.
        model: index of the model; other models' windows are left alone.
        kind: what the meter sees.
        meter: its name.
        rules: what a window must have.

    Returns:
        The energy, or one line that says why there is none.
    """
    total, above, powers, idles, rejected = [], [], [], [], []
    for index, window in enumerate(windows):
        if window["model"] != model:
            continue
        beside = [windows[at] for at in (index - 1, index + 1) if 0 <= at < len(windows)]
        beside = [entry for entry in beside if entry["model"] is None]
        reason = _reject(window, series, rules, busy=True) or next(
            filter(None, (_reject(entry, series, rules, busy=False) for entry in beside)), None
        )
        if not beside:
            reason = reason or "no idle window beside it"
        if reason:
            rejected.append(reason)
            continue
        seconds = window["end"] - window["start"]
        power = series.integrate(window["start"], window["end"]) / seconds
        idle = float(np.mean([_mean_power(entry, series) for entry in beside]))
        total.append(1e3 * power * seconds / window["inferences"])
        above.append(1e3 * (power - idle) * seconds / window["inferences"])
        powers.append(power)
        idles.append(idle)
    if len(total) < rules.repeats:
        why = f": {rejected[0]}" if rejected else ""
        return f"{len(total)} of at least {rules.repeats} windows could be used{why}"
    span = float(series.times[-1] - series.times[0]) or 1.0
    return Energy(
        kind,
        meter,
        float(np.mean(total)),
        float(np.mean(above)),
        _interval(total),
        _interval(above),
        float(np.mean(powers)),
        float(np.mean(idles)),
        len(total),
        (len(series.times) - 1) / span,
        tuple(rejected),
    )


def _reject(
    window: Mapping[str, Any], series: PowerSeries, rules: EnergyRules, *, busy: bool
) -> str | None:
    start, end = window["start"], window["end"]
    if window["throttled"]:
        return "the machine throttled"
    if end - start < rules.seconds:
        return f"a window of {end - start:.1f} s, shorter than {rules.seconds:g} s"
    if busy and window["inferences"] < rules.inferences:
        return f"{window['inferences']} inferences, fewer than {rules.inferences}"
    found = series.count(start, end)
    if found < rules.samples:
        return f"{found} readings in a window, fewer than {rules.samples}"
    gap = series.longest_gap(start, end)
    if gap > rules.gap_periods * series.period:
        return f"{gap:.2f} s without a reading, longer than {rules.gap_periods:g} periods"
    return None


def _mean_power(window: Mapping[str, Any], series: PowerSeries) -> float:
    joules = series.integrate(window["start"], window["end"])
    return joules / float(window["end"] - window["start"])


def _interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the 95 % confidence interval of a mean; of one value it is without bounds."""
    mean, degrees = float(np.mean(values)), len(values) - 1
    if degrees < 1:
        return -math.inf, math.inf
    quantile = _T95[degrees - 1] if degrees <= len(_T95) else 1.96
    half = quantile * float(np.std(values, ddof=1)) / math.sqrt(len(values))
    return mean - half, mean + half
