"""Meters of power, each on a copy of the files of Linux, or on a stand-in of its library."""

from __future__ import annotations

import importlib
import json
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import numpy as np
import pytest

HARNESS = Path(__file__).resolve().parent.parent / "devices" / "harness"

# As vcgencmd prints it on a Raspberry Pi 5; EXT5V and BATT tell a voltage only.
PMIC = """\
     3V7_WL_SW_A current(0)=0.09759900A
       3V3_SYS_A current(1)=0.05856500A
      VDD_CORE_A current(7)=0.43757000A
     3V7_WL_SW_V volt(8)=3.72321000V
       3V3_SYS_V volt(9)=3.31141000V
      VDD_CORE_V volt(15)=0.89750000V
         EXT5V_V volt(24)=5.14814000V
          BATT_V volt(25)=0.00292800V
"""
PMIC_WATTS = 0.097599 * 3.72321 + 0.058565 * 3.31141 + 0.43757 * 0.8975


@pytest.fixture(scope="module")
def harness():
    """The modules of the harness, as its program imports them."""
    names = ("meters", "throttling", "environment", "recording", "interpreter", "program")
    sys.path.insert(0, str(HARNESS))
    try:
        modules = {name: importlib.import_module(name) for name in names}
        yield types.SimpleNamespace(**modules)
    finally:
        sys.path.remove(str(HARNESS))
        for name in names:
            sys.modules.pop(name, None)


def write(root: Path, files: dict[str, str | int]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(f"{text}\n")


def add_firmware(root: Path, answer: str) -> None:
    program = root / "usr" / "bin" / "vcgencmd"
    program.parent.mkdir(parents=True, exist_ok=True)
    program.write_text(f"#!/bin/sh\ncat <<'END'\n{answer}\nEND\n")
    program.chmod(0o755)


def test_a_raspberry_pi_5_sums_the_rails_that_tell_both(harness, tmp_path) -> None:
    add_firmware(tmp_path, PMIC)
    meter = harness.meters.open_meter("pmic", str(tmp_path))
    assert meter.read() == pytest.approx(PMIC_WATTS)
    assert meter.kind == "rails"
    assert harness.environment.read_state(str(tmp_path))["supply_volts"] == 5.14814


HWMON = "sys/class/hwmon/hwmon"
INA226 = {
    f"{HWMON}0/name": "cpu_thermal",
    f"{HWMON}0/power1_input": 1,
    f"{HWMON}2/name": "ina226",
    f"{HWMON}2/power1_input": 2_850_000,
    f"{HWMON}2/curr1_input": 560,
    f"{HWMON}2/in1_input": 5090,
    f"{HWMON}2/update_interval": 36,
}


def test_a_current_sensor_is_found_by_its_name_and_read_in_microwatts(harness, tmp_path) -> None:
    write(tmp_path, INA226)
    meter = harness.meters.open_meter("hwmon", str(tmp_path))
    assert meter.read() == 2.85
    assert meter.period == 0.036
    assert meter.kind == "metered"
    write(tmp_path, {f"{HWMON}3/name": "ina260", f"{HWMON}3/power1_input": 9_000_000})
    assert harness.meters.open_meter("hwmon:ina260", str(tmp_path)).read() == 9.0


def test_a_sensor_without_power_gives_amperes_times_volts(harness, tmp_path) -> None:
    write(tmp_path, INA226)
    (tmp_path / f"{HWMON}2/power1_input").unlink()
    meter = harness.meters.open_meter("hwmon", str(tmp_path))
    assert meter.read() == pytest.approx(0.560 * 5.090)


JETSON = "sys/bus/i2c/drivers/ina3221x/6-0040/hwmon/hwmon1/"
JETSON_FILES = {
    JETSON + f"{kind}{channel}_{what}": value
    for channel, label, volts, amperes in (
        (1, "POM_5V_IN", 5096, 420), (2, "POM_5V_GPU", 5096, 40), (3, "POM_5V_CPU", 5080, 150),
    )
    for kind, what, value in (
        ("in", "label", label), ("in", "input", volts), ("curr", "input", amperes),
    )
}  # fmt: skip


def test_a_jetson_gives_the_whole_module_or_one_rail(harness, tmp_path) -> None:
    write(tmp_path, JETSON_FILES)
    whole = harness.meters.open_meter("ina3221", str(tmp_path))
    assert whole.read() == pytest.approx(5.096 * 0.420)
    rail = harness.meters.open_meter("ina3221:POM_5V_CPU", str(tmp_path))
    assert rail.read() == pytest.approx(5.080 * 0.150)
    with pytest.raises(OSError, match="no rail GPU; there are POM_5V_CPU, POM_5V_GPU, POM_5V_IN"):
        harness.meters.open_meter("ina3221:GPU", str(tmp_path))


def test_rapl_is_energy_over_time_also_when_its_counter_wraps(
    harness, tmp_path, monkeypatch
) -> None:
    folder = "sys/class/powercap/intel-rapl:0/"
    write(
        tmp_path, {folder + "max_energy_range_uj": 999_999_999, folder + "energy_uj": 990_000_000}
    )
    now = [50.0]
    monkeypatch.setattr(harness.meters.time, "monotonic", lambda: now[0])
    meter = harness.meters.open_meter("rapl", str(tmp_path))
    for energy, watts in ((996_000_000, 3.0), (2_000_000, 3.0), (12_000_000, 5.0)):
        now[0] += 2.0
        write(tmp_path, {folder + "energy_uj": energy})
        assert meter.read() == pytest.approx(watts)


@pytest.mark.parametrize(
    ("files", "watts"),
    [
        ({"power_now": 7_250_000}, 7.25),
        ({"current_now": -1_500_000, "voltage_now": 4_000_000}, 6.0),
    ],
)
def test_a_battery_tells_what_flows(harness, tmp_path, files, watts) -> None:
    supply = "sys/class/power_supply/"
    write(
        tmp_path, {supply + "AC/online": 1, **{supply + f"BAT0/{k}": v for k, v in files.items()}}
    )
    assert harness.meters.open_meter("battery", str(tmp_path)).read() == pytest.approx(watts)


def test_a_joulescope_is_the_mean_of_current_times_voltage(harness, monkeypatch) -> None:
    calls = []

    class Device:
        def open(self) -> None:
            calls.append("open")

        def close(self) -> None:
            calls.append("close")

        def read(self, contiguous_duration):
            calls.append(contiguous_duration)
            return np.array([[0.5, 5.0], [0.7, 5.1]])

    library = types.ModuleType("joulescope")
    library.scan_require_one = lambda config: Device()
    monkeypatch.setitem(sys.modules, "joulescope", library)
    meter = harness.meters.open_meter("joulescope")
    assert meter.read() == pytest.approx((0.5 * 5.0 + 0.7 * 5.1) / 2)
    meter.close()
    assert calls == ["open", 0.1, "close"]


def test_a_power_profiler_is_microamperes_times_the_voltage_it_feeds(harness, monkeypatch) -> None:
    calls: list = []

    class Profiler:
        def __init__(self, port) -> None:
            calls.append(port)

        @staticmethod
        def list_devices():
            return ["/dev/ttyACM0"]

        def get_data(self):
            return b"data"

        def get_samples(self, data):
            return [100_000.0, 140_000.0], [0, 0]

        def __getattr__(self, name):
            return lambda *values: calls.append((name, *values))

    package, library = types.ModuleType("ppk2_api"), types.ModuleType("ppk2_api.ppk2_api")
    library.PPK2_API = Profiler
    monkeypatch.setitem(sys.modules, "ppk2_api", package)
    monkeypatch.setitem(sys.modules, "ppk2_api.ppk2_api", library)
    meter = harness.meters.open_meter("ppk2:3300")
    assert meter.read() == pytest.approx(3.3 * 0.120)
    meter.close()
    assert calls == [
        "/dev/ttyACM0",
        ("get_modifiers",),
        ("use_source_meter",),
        ("set_source_voltage", 3300),
        ("toggle_DUT_power", "ON"),
        ("start_measuring",),
        ("stop_measuring",),
    ]


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("pmic", "no power management chip: vcgencmd pmic_read_adc gives no rails"),
        ("hwmon", "no sensor of the INA2xx family under /sys/class/hwmon"),
        ("hwmon:ina999", "no sensor ina999 under /sys/class/hwmon"),
        ("ina3221", "no INA3221 with labelled rails"),
        ("rapl", "no RAPL counter at "),
        ("battery", "no battery that tells its power or its current and voltage"),
        ("joulescope", "this meter needs its library: pip install joulescope"),
        ("ppk2", "this meter needs its library: pip install ppk2-api"),
    ],
)
def test_a_meter_that_is_not_there_says_so(harness, tmp_path, name, complaint) -> None:
    with pytest.raises(OSError, match=complaint):
        harness.meters.open_meter(name, str(tmp_path))


def test_every_meter_has_the_same_two_methods(harness) -> None:
    for meter in harness.meters.METERS.values():
        public = {name for name in vars(meter) if not name.startswith("_")}
        assert public == {"read", "close", "kind", "period"}
        assert meter.kind in ("metered", "rails")
        assert meter.period > 0


def test_a_recording_is_a_line_per_reading_until_it_is_stopped(tmp_path) -> None:
    """Through the real program, with a meter that reads a file which a test can write."""
    script = f"""
import sys; sys.argv = ["harness", "--record", "hwmon", "--period", "0.02"]
sys.path.insert(0, {str(HARNESS)!r})
import meters, runpy
read = meters.open_meter
meters.open_meter = lambda name, root="/": read(name, {str(tmp_path)!r})
runpy.run_path({str(HARNESS)!r}, run_name="__main__")
"""
    write(tmp_path, INA226)
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True
    ) as process:
        first = json.loads(process.stdout.readline())
        readings = [json.loads(process.stdout.readline()) for _ in range(5)]
        process.send_signal(signal.SIGTERM)
        rest = process.communicate(timeout=600)[0].splitlines()
    assert first == {"meter": "hwmon", "kind": "metered", "period": 0.02}
    times = [moment for moment, _ in readings]
    assert times == sorted(times)
    assert abs(times[-1] - time.monotonic()) < 60, "the monotonic clock"
    assert {watts for _, watts in readings} == {2.85}
    assert process.returncode == 0
    assert "ended" in json.loads(rest[-1])


FIRMWARE = "sys/devices/platform/soc/soc:firmware/get_throttled"


@pytest.mark.parametrize(
    ("before", "after", "reasons"),
    [
        ("0", "0", []),
        ("0", "50005", ["the supply is too weak (under-voltage)", "the firmware throttles"]),
        ("50000", "50000", []),
        ("50000", "d0008", ["the temperature is at its soft limit"]),
        ("0", "20000", ["the clock is capped"]),
        ("2", "2", ["the clock is capped"]),
    ],
)
def test_bits_of_the_firmware_count_if_they_are_set_now_or_since_the_start(
    harness, tmp_path, before, after, reasons
) -> None:
    write(tmp_path, {FIRMWARE: before})
    watch = harness.throttling.Watch(str(tmp_path))
    write(tmp_path, {FIRMWARE: after})
    assert watch.look() == reasons
    assert watch.describe() == {"watched": ["firmware"], "reasons": reasons}


def test_vcgencmd_is_asked_where_the_kernel_has_no_file(harness, tmp_path) -> None:
    add_firmware(tmp_path, "throttled=0x50000")
    assert harness.throttling.read_firmware_bits(str(tmp_path)) == 0x50000


def test_a_pc_counts_how_often_its_cores_throttled(harness, tmp_path) -> None:
    name = "sys/devices/system/cpu/cpu{}/thermal_throttle/core_throttle_count"
    write(tmp_path, {name.format(0): 3, name.format(1): 0})
    watch = harness.throttling.Watch(str(tmp_path))
    assert watch.look() == []
    write(tmp_path, {name.format(1): 1})
    assert watch.look() == ["the processor throttled for heat"]
    assert watch.look() == [], "it does no longer"
    assert watch.reasons == ["the processor throttled for heat"]


def test_a_cooling_device_that_holds_the_clock_down_is_seen(harness, tmp_path) -> None:
    folder = "sys/class/thermal/cooling_device{}/"
    write(tmp_path, {folder.format(0) + "type": "pwm-fan", folder.format(0) + "cur_state": 3})
    assert harness.throttling.Watch(str(tmp_path)).describe()["watched"] == []
    write(tmp_path, {folder.format(1) + "type": "cpufreq-cpu0", folder.format(1) + "cur_state": 2})
    watch = harness.throttling.Watch(str(tmp_path))
    assert watch.reasons == ["the kernel lowered the clock for heat (cpufreq-cpu0)"]
