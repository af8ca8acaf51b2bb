"""Energy out of windows and readings, against arithmetic and a real measurement."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from edgeprune.benchmarking.measurement_settings import Meter, Settings
from edgeprune.energy.power_logs import read_power_log
from edgeprune.energy.windowed_energy import Energy, EnergyRules, PowerSeries, estimate_energy
from edgeprune.errors import BenchmarkError

IDLE_WATTS, BUSY_WATTS = 2.0, 6.0


def plan_windows(repeats: int = 5, inferences: int = 200, models: int = 1) -> list[dict]:
    """Idle and busy windows of ten seconds in turn, half a second apart, idle at the end."""
    found, now = [], 100.0
    for _ in range(repeats):
        for model in range(models):
            for which, count in ((None, 0), (model, inferences)):
                found.append(
                    {"model": which, "start": now, "end": now + 10, "inferences": count,
                     "throttled": False}
                )  # fmt: skip
                now += 10.5
    found.append(
        {"model": None, "start": now, "end": now + 10, "inferences": 0, "throttled": False}
    )
    return found


def read_meter(windows: list[dict], watts, period: float = 0.1) -> PowerSeries:
    """A meter that shows `watts(model)` in and after every window."""
    starts = np.array([window["start"] for window in windows])
    times = np.arange(windows[0]["start"] - 1, windows[-1]["end"] + 1, period)
    indices = np.clip(np.searchsorted(starts, times, side="right") - 1, 0, None)
    values = np.array([watts(windows[index]["model"], index) for index in indices])
    return PowerSeries(times, values, period)


def level(model: int | None, index: int) -> float:
    return IDLE_WATTS if model is None else BUSY_WATTS + model


def estimate(windows, series, model: int = 0, **changes):
    return estimate_energy(
        windows, series, model, kind="metered", meter="hwmon", rules=EnergyRules(**changes)
    )


def test_energy_is_power_times_time_by_inferences_and_idle_is_taken_off() -> None:
    windows = plan_windows()
    found = estimate(windows, read_meter(windows, level))
    assert isinstance(found, Energy)
    assert found.total_mj == pytest.approx(1e3 * BUSY_WATTS * 10 / 200, rel=0.02)
    assert found.above_idle_mj == pytest.approx(
        1e3 * (BUSY_WATTS - IDLE_WATTS) * 10 / 200, rel=0.02
    )
    assert found.mean_watts == pytest.approx(BUSY_WATTS, rel=0.02)
    assert found.idle_watts == pytest.approx(IDLE_WATTS, rel=0.02)
    assert (found.kind, found.meter, found.windows) == ("metered", "hwmon", 5)
    assert found.rate_hz == pytest.approx(10, rel=0.01)


def test_models_side_by_side_have_their_own_windows() -> None:
    windows = plan_windows(models=3)
    series = read_meter(windows, level)
    watts = [estimate(windows, series, model).mean_watts for model in range(3)]
    assert watts == pytest.approx([6, 7, 8], rel=0.02)


def test_an_idle_power_that_drifts_is_taken_off_where_it_was() -> None:
    windows = plan_windows()

    def drifting(model: int | None, index: int) -> float:
        return level(model, index) + 0.2 * index

    found = estimate(windows, read_meter(windows, drifting))
    assert found.above_idle_mj == pytest.approx(1e3 * 4 * 10 / 200, rel=0.03)


def test_the_interval_is_that_of_the_windows_and_not_of_the_readings() -> None:
    offsets = {1: -0.2, 3: -0.1, 5: 0.0, 7: 0.1, 9: 0.2}
    windows = plan_windows()
    series = read_meter(windows, lambda model, index: level(model, index) + offsets.get(index, 0))
    found = estimate(windows, series)
    # Student's t for 4 degrees of freedom, on five windows of 10 s and 200 inferences.
    half = 2.776 * math.sqrt(0.025) / math.sqrt(5) * 1e3 * 10 / 200
    low, high = found.total_interval_mj
    assert (high - low) / 2 == pytest.approx(half, rel=0.03)
    finer = read_meter(
        windows, lambda model, index: level(model, index) + offsets.get(index, 0), 0.01
    )
    low, high = estimate(windows, finer).total_interval_mj
    assert (high - low) / 2 == pytest.approx(half, rel=0.03)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda window: window.update(throttled=True), "the machine throttled"),
        (lambda window: window.update(end=window["start"] + 9), "a window of 9.0 s, shorter than"),
        (lambda window: window.update(inferences=99), "99 inferences, fewer than 100"),
    ],
)
def test_a_window_that_means_little_is_left_out_and_four_are_too_few(spoil, reason) -> None:
    windows = plan_windows(repeats=6)
    spoil(windows[1])
    series = read_meter(plan_windows(repeats=6), level)
    found = estimate(windows, series)
    assert found.windows == 5
    assert reason in found.rejected[0]
    spoil(windows[3])
    assert estimate(windows, series).startswith(f"4 of at least 5 windows could be used: {reason}")


def test_a_gap_of_more_than_three_periods_rejects_its_window() -> None:
    windows = plan_windows(repeats=6)
    series = read_meter(windows, level)
    middle = windows[1]["start"] + 5
    for missing, counts in ((0.08, 6), (0.45, 5)):
        kept = abs(series.times - middle) > missing / 2
        found = estimate(windows, PowerSeries(series.times[kept], series.watts[kept], 0.1))
        assert found.windows == counts
    assert "s without a reading, longer than 3 periods" in found.rejected[0]


def test_a_meter_that_is_too_slow_gives_no_energy() -> None:
    windows = plan_windows()
    found = estimate(windows, read_meter(windows, level, period=0.5))
    assert found.startswith("0 of at least 5 windows could be used: 2")
    assert "readings in a window, fewer than 50" in found


def test_the_integral_is_that_of_the_lines_between_readings() -> None:
    times = np.array([0.0, 1.0, 3.0])
    series = PowerSeries(times, 2 * times + 1, 1.0)
    for start, end in ((0.0, 3.0), (0.3, 0.6), (0.5, 2.5)):
        exact = (end**2 + end) - (start**2 + start)
        assert series.integrate(start, end) == pytest.approx(exact)
    assert series.shift(10).integrate(10.5, 12.5) == pytest.approx(series.integrate(0.5, 2.5))


def test_the_integrator_gives_the_joules_of_a_published_measurement(shared_data: Path) -> None:
    """MLPerf Inference v2.0, Krai: MobileNetV1-1.0-224 int8 on a Raspberry Pi 4, 0.185 J."""
    folder = shared_data / "mlperf_pi"
    series = read_power_log(folder / "v1-1.0-224-int8_spl.txt", UTC)
    assert series.period == pytest.approx(1.0, abs=0.01)
    events = {}
    for line in (folder / "v1-1.0-224-int8_mlperf_log_detail.txt").read_text().splitlines():
        entry = json.loads(line.removeprefix(":::MLLOG "))
        events[entry["key"]] = entry
    zero = datetime.fromisoformat(events["test_datetime"]["value"])
    start, end = (events[f"power_{which}"]["value"] for which in ("begin", "end"))
    moments = [
        datetime.strptime(text, "%m-%d-%Y %H:%M:%S.%f").replace(tzinfo=UTC) for text in (start, end)
    ]
    assert abs(moments[0] - zero) < timedelta(seconds=30)
    seconds = [moment.timestamp() for moment in moments]
    queries = events["result_query_count"]["value"]
    assert series.integrate(*seconds) / queries == pytest.approx(0.185, rel=0.01)


def test_invalid_readings_of_a_ptdaemon_log_are_left_out(tmp_path: Path) -> None:
    log = tmp_path / "spl.txt"
    log.write_text(
        "Time,02-22-2022 01:36:49.445,Watts,2.831000,Volts,248.9,Mark,x\n"
        "Time,02-22-2022 01:36:50.445,Watts,-1.000000,Volts,-1,Mark,x\n"
        "Time,02-22-2022 01:36:51.445,Watts,2.900000,Volts,248.9,Mark,x\n"
    )
    series = read_power_log(log, UTC)
    assert list(series.watts) == [2.831, 2.9]
    first = datetime(2022, 2, 22, 1, 36, 49, 445000, tzinfo=UTC)
    assert series.times[0] == pytest.approx(first.timestamp())


@pytest.mark.parametrize(
    "text",
    [
        "timestamp,power_mw\n1000.0,2500\n1001.0,2600\n1002.0,2700\n",
        "time;no\n".replace(";no", ",watts,volts")
        + "1970-01-01T00:16:40+00:00,2.5,5\n1970-01-01T00:16:41+00:00,2.6,5\n"
        "1970-01-01T00:16:42+00:00,2.7,5\n",
    ],
)
def test_csv_logs_name_their_time_and_watts(tmp_path: Path, text: str) -> None:
    (tmp_path / "log.csv").write_text(text)
    series = read_power_log(tmp_path / "log.csv")
    assert list(series.times) == [1000, 1001, 1002]
    assert list(series.watts) == pytest.approx([2.5, 2.6, 2.7])
    assert series.period == 1.0


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (
            "a,b\n1,2\n",
            "is neither a PTDaemon log nor a CSV with a time and watts: its header is a",
        ),
        ("", "is neither a PTDaemon log nor a CSV with a time and watts: its header is empty"),
        ("time,watts\n1,2\n", "holds 1 valid readings"),
        ("time,watts\nyesterday,2\n", "Invalid isoformat string: 'yesterday'"),
    ],
)
def test_a_log_that_cannot_be_read_says_why(tmp_path: Path, text: str, complaint: str) -> None:
    (tmp_path / "log.csv").write_text(text)
    with pytest.raises(BenchmarkError) as caught:
        read_power_log(tmp_path / "log.csv")
    assert complaint in str(caught.value)
    with pytest.raises(BenchmarkError, match="Cannot read the power log"):
        read_power_log(tmp_path / "gone.csv")


@pytest.mark.parametrize(
    ("text", "meter"),
    [
        ("hwmon", Meter("hwmon")),
        ("hwmon:ina226@host", Meter("hwmon", "ina226", True)),
        ("pmic@board", Meter("pmic")),
        ("log:power.csv", Meter("log", "power.csv", True)),
        ("ppk2:3300", Meter("ppk2", "3300", True)),
    ],
)
def test_meters_are_named_with_their_place(text: str, meter: Meter) -> None:
    assert Meter.parse(text) == meter


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("volts", "Unknown meter 'volts'. Choose one of none, pmic, hwmon, ina3221, rapl, battery"),
        ("hwmon@moon", "Unknown meter 'hwmon@moon'."),
        ("log", "The meter 'log' needs the file it writes: log:power.csv."),
        ("ppk2@board", "The meter 'ppk2' is read by this machine, not by the board."),
    ],
)
def test_a_meter_that_is_none_is_refused(text: str, complaint: str) -> None:
    with pytest.raises(BenchmarkError) as caught:
        Meter.parse(text)
    assert str(caught.value).startswith(complaint)


def test_only_a_meter_of_the_board_is_named_to_the_harness() -> None:
    on_board = Settings(meter=Meter("hwmon", "ina226")).arguments()
    assert on_board[on_board.index("--meter") + 1] == "hwmon:ina226"
    beside = Settings(meter=Meter("hwmon", on_host=True)).arguments()
    assert "--meter" not in beside
    assert "--energy" in beside
