"""Whether the machine slowed itself down: what Raspberry Pi's firmware and Linux say about it."""

from __future__ import annotations

import glob
import os

from environment import ask_firmware, read_all, read_text

FIRMWARE_FILE = "sys/devices/platform/soc/soc:firmware/get_throttled"
COUNTS = "sys/devices/system/cpu/cpu[0-9]*/thermal_throttle/core_throttle_count"
# Bits 0 to 3 say now; 16 places higher, since boot.
BITS = {
    0: "the supply is too weak (under-voltage)",
    1: "the clock is capped",
    2: "the firmware throttles",
    3: "the temperature is at its soft limit",
}
SINCE_BOOT = 16


class Watch:
    """Looks now and then, and remembers why the figures may be too slow."""

    def __init__(self, root: str = "/") -> None:
        """Remember the state before anything runs."""
        self._root = root
        self._bits = read_firmware_bits(root)
        self._count = read_throttle_count(root)
        self._has_cooling = read_cooling(root) is not None
        self.reasons: list[str] = []
        self.look()

    def look(self) -> list[str]:
        """Return what slows the machine now, or did since the last look; remember it."""
        found = []
        bits = read_firmware_bits(self._root)
        if bits is not None:
            new = bits & ~(self._bits or 0)
            found += [BITS[bit] for bit in BITS if (bits >> bit | new >> (bit + SINCE_BOOT)) & 1]
            self._bits = (self._bits or 0) | bits
        count = read_throttle_count(self._root)
        if count is not None and self._count is not None:
            if count > self._count:
                found.append("the processor throttled for heat")
            self._count = count
        found += [
            f"the kernel lowered the clock for heat ({name})"
            for name in read_cooling(self._root) or ()
        ]
        self.reasons += [reason for reason in found if reason not in self.reasons]
        return found

    def describe(self) -> dict:
        """Return what was watched, and the reasons."""
        watched = {
            "firmware": self._bits is not None,
            "processor": self._count is not None,
            "cooling devices": self._has_cooling,
        }
        return {
            "watched": [name for name, is_there in watched.items() if is_there],
            "reasons": self.reasons,
        }


def read_firmware_bits(root: str = "/") -> int | None:
    """Return the throttling bits of a Raspberry Pi, from the kernel's file or from vcgencmd."""
    text = read_text(root, FIRMWARE_FILE)
    if text is None:
        text = ask_firmware(root, "get_throttled")
        text = text.partition("=")[2] if text else None
    try:
        return int(text, 16) if text else None
    except ValueError:
        return None


def read_throttle_count(root: str) -> int | None:
    """Return how often the cores of an x86 processor throttled since boot."""
    counts = [int(text) for text in read_all(os.path.join(root, COUNTS)) if text.isdigit()]
    return sum(counts) if counts else None


def read_cooling(root: str) -> list[str] | None:
    """Return the cooling devices that hold a clock down now; None where there are none."""
    names, active = [], []
    for folder in sorted(glob.glob(os.path.join(root, "sys/class/thermal/cooling_device*"))):
        name, state = read_text(folder, "type") or "", read_text(folder, "cur_state") or "0"
        if "cpufreq" in name or name == "Processor":
            names.append(name)
            if state.isdigit() and int(state) > 0:
                active.append(name)
    return active if names else None
