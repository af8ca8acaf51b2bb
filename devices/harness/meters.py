"""Meters of power behind one protocol: `read` gives watts, `close` lets the device go.

Those of Linux are files; every one takes the root of the file system, so that a copy of the files
tests it.
"""

from __future__ import annotations

import glob
import importlib
import os
import re
import time

from environment import ask_firmware, read_text

INA2XX = ("ina219", "ina220", "ina226", "ina230", "ina231", "ina238", "ina260")
METERED, RAILS = "metered", "rails"


class PowerManagementChip:
    """Raspberry Pi 5: volts and amperes of the rails behind the power management chip.

    What hangs on the 5 V rail itself, such as a USB accelerator, is not among them.
    """

    kind, period = RAILS, 0.1

    def __init__(self, root: str = "/", detail: str = "") -> None:
        """Ask once, to know that it answers."""
        self._root = root
        self.read()

    def read(self) -> float:
        """Return the sum over the rails that tell both a voltage and a current."""
        text = ask_firmware(self._root, "pmic_read_adc") or ""
        values = {"A": {}, "V": {}}
        for rail, value, unit in re.findall(r"(\w+)_[AV] \w+\(\d+\)=([\d.]+)([AV])", text):
            values[unit][rail] = float(value)
        both = values["A"].keys() & values["V"].keys()
        if not both:
            raise OSError("no power management chip: vcgencmd pmic_read_adc gives no rails")
        return sum(values["A"][rail] * values["V"][rail] for rail in both)

    def close(self) -> None:
        """Nothing is held open."""


class CurrentSensor:
    """An INA2xx through the kernel's driver: power in microwatts, or amperes times volts."""

    kind, period = METERED, 0.1

    def __init__(self, root: str = "/", detail: str = "") -> None:
        """Find the sensor by the name of its chip, `detail` if there are several."""
        self._folder = find_sensor(root, detail)
        interval = read_text(self._folder, "update_interval")
        if interval and interval.isdigit():
            self.period = max(int(interval) / 1e3, 0.01)

    def read(self) -> float:
        """Return the watts through the shunt."""
        power = read_number(self._folder, "power1_input")
        if power is not None:
            return power / 1e6
        current = read_number(self._folder, "curr1_input")
        voltage = read_number(self._folder, "in1_input")
        if current is None or voltage is None:
            raise OSError(f"{self._folder} has neither power1_input nor curr1_input and in1_input")
        return current * voltage / 1e6

    def close(self) -> None:
        """Nothing is held open."""


class JetsonRails:
    """The INA3221 of a Jetson; `detail` names one rail, else the whole module's, else the sum."""

    kind, period = RAILS, 0.1

    def __init__(self, root: str = "/", detail: str = "") -> None:
        """Find the rails by their labels."""
        pattern = os.path.join(root, "sys/bus/i2c/drivers/ina3221*/*/hwmon/hwmon*/in[1-3]_label")
        labels = {read_text("", path): path for path in sorted(glob.glob(pattern))}
        if not labels:
            raise OSError("no INA3221 with labelled rails")
        if detail and detail not in labels:
            raise OSError(f"no rail {detail}; there are {', '.join(sorted(labels))}")
        whole = [label for label in labels if label in ("VDD_IN", "POM_5V_IN")]
        self._rails = [labels[label] for label in ([detail] if detail else whole or labels)]

    def read(self) -> float:
        """Return millivolts times milliamperes, summed over the rails."""
        watts = 0.0
        for path in self._rails:
            folder, channel = os.path.dirname(path), os.path.basename(path)[2]
            voltage = read_number(folder, f"in{channel}_input")
            current = read_number(folder, f"curr{channel}_input")
            if voltage is None or current is None:
                raise OSError(f"{folder} gives no voltage or no current for channel {channel}")
            watts += voltage * current / 1e6
        return watts

    def close(self) -> None:
        """Nothing is held open."""


class ProcessorCounter:
    """x86 RAPL: energy of the processor package since boot; power is what came between readings."""

    kind, period = RAILS, 0.1

    def __init__(self, root: str = "/", detail: str = "") -> None:
        """Read the counter a first time."""
        self._folder = os.path.join(root, "sys/class/powercap", detail or "intel-rapl:0")
        wrap = read_number(self._folder, "max_energy_range_uj")
        if wrap is None:
            raise OSError(f"no RAPL counter at {self._folder}")
        self._wrap = wrap
        self._last, self._when = self._energy(), time.monotonic()

    def read(self) -> float:
        """Return the mean watts since the reading before."""
        energy, now = self._energy(), time.monotonic()
        used = (energy - self._last) % (self._wrap + 1)
        elapsed = max(now - self._when, 1e-9)
        self._last, self._when = energy, now
        return used / 1e6 / elapsed

    def _energy(self) -> float:
        try:
            with open(os.path.join(self._folder, "energy_uj")) as file:
                return float(file.read())
        except PermissionError:
            raise OSError(
                f"reading {self._folder}/energy_uj needs root: sudo chmod a+r it, or run as root"
            ) from None

    def close(self) -> None:
        """Nothing is held open."""


class Battery:
    """A battery that says what flows: `power_now`, or current times voltage, in millionths."""

    kind, period = METERED, 1.0

    def __init__(self, root: str = "/", detail: str = "") -> None:
        """Find the supply of the name `detail`, else the first that says anything."""
        pattern = os.path.join(root, "sys/class/power_supply", detail or "*")
        for folder in sorted(glob.glob(pattern)):
            self._folder = folder
            if self._power() is not None:
                return
        raise OSError("no battery that tells its power or its current and voltage")

    def read(self) -> float:
        """Return the watts that flow out of the battery."""
        power = self._power()
        if power is None:
            raise OSError(f"{self._folder} no longer tells its power")
        return power

    def _power(self) -> float | None:
        power = read_number(self._folder, "power_now")
        if power is not None:
            return abs(power) / 1e6
        current = read_number(self._folder, "current_now")
        voltage = read_number(self._folder, "voltage_now")
        if current is None or voltage is None:
            return None
        return abs(current) * voltage / 1e12

    def close(self) -> None:
        """Nothing is held open."""


class Joulescope:
    """A Joulescope through its library; each reading is the mean over one period."""

    kind, period = METERED, 0.1

    def __init__(self, root: str = "/", detail: str = "") -> None:
        """Open the only one that is plugged in."""
        library = load("joulescope", "joulescope")
        self._device = library.scan_require_one(config="auto")
        self._device.open()

    def read(self) -> float:
        """Return the mean of current times voltage."""
        data = self._device.read(contiguous_duration=self.period)
        return float((data[:, 0] * data[:, 1]).mean())

    def close(self) -> None:
        """Let the device go."""
        self._device.close()


class PowerProfiler:
    """A Nordic PPK2 that feeds the board; `detail` is the voltage in mV (default 5000)."""

    kind, period = METERED, 0.1

    def __init__(self, root: str = "/", detail: str = "") -> None:
        """Feed the board and start measuring."""
        library = load("ppk2_api.ppk2_api", "ppk2-api")
        ports = library.PPK2_API.list_devices()
        if not ports:
            raise OSError("no PPK2 is plugged in")
        port = ports[0] if isinstance(ports[0], str) else ports[0][0]
        self._volts = int(detail or 5000) / 1e3
        self._device = library.PPK2_API(port)
        self._device.get_modifiers()
        self._device.use_source_meter()
        self._device.set_source_voltage(round(1e3 * self._volts))
        self._device.toggle_DUT_power("ON")
        self._device.start_measuring()

    def read(self) -> float:
        """Return the mean of what came since the reading before."""
        deadline = time.monotonic() + 1.0
        while time.monotonic() < deadline:
            data = self._device.get_data()
            samples = self._device.get_samples(data) if data else []
            if isinstance(samples, tuple):  # newer versions add the digital inputs
                samples = samples[0]
            if samples:
                return self._volts * sum(samples) / len(samples) / 1e6
            time.sleep(0.001)
        raise OSError("the PPK2 sent nothing for a second")

    def close(self) -> None:
        """Stop measuring; the board keeps its supply."""
        self._device.stop_measuring()


METERS = {
    "pmic": PowerManagementChip,
    "hwmon": CurrentSensor,
    "ina3221": JetsonRails,
    "rapl": ProcessorCounter,
    "battery": Battery,
    "joulescope": Joulescope,
    "ppk2": PowerProfiler,
}


def open_meter(text: str, root: str = "/"):
    """Open a meter by its name, with a detail after a colon: `hwmon:ina226`."""
    name, _, detail = text.partition(":")
    if name not in METERS:
        raise ValueError(f"no meter {name}; there are {describe()}")
    return METERS[name](root, detail)


def describe() -> str:
    """Return the names of all meters."""
    return ", ".join(METERS)


def find_sensor(root: str, chip: str) -> str:
    """Return the folder of an INA2xx; its number differs from boot to boot, its name does not."""
    found = []
    for folder in sorted(glob.glob(os.path.join(root, "sys/class/hwmon/hwmon*"))):
        name = read_text(folder, "name") or ""
        if name == chip or (not chip and name in INA2XX):
            found.append(folder)
    if not found:
        raise OSError(f"no sensor {chip or 'of the INA2xx family'} under /sys/class/hwmon")
    return found[0]


def read_number(folder: str, name: str) -> float | None:
    """Return the number in a file of /sys, or None."""
    text = read_text(folder, name)
    try:
        return float(text) if text else None
    except ValueError:
        return None


def load(module: str, distribution: str):
    """Import the library of a device."""
    try:
        return importlib.import_module(module)
    except ImportError:
        raise OSError(f"this meter needs its library: pip install {distribution}") from None
