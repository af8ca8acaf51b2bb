"""What the machine is and what state it is in, as far as Linux tells. Missing facts are None."""

from __future__ import annotations

import glob
import os
import platform
import re
import shutil
import subprocess

import interpreter
import numpy as np

# "CPU part" of /proc/cpuinfo where the kernel gives no name (Arm).
ARM_PARTS = {
    "0xd03": "Cortex-A53",
    "0xd04": "Cortex-A35",
    "0xd05": "Cortex-A55",
    "0xd07": "Cortex-A57",
    "0xd08": "Cortex-A72",
    "0xd09": "Cortex-A73",
    "0xd0a": "Cortex-A75",
    "0xd0b": "Cortex-A76",
    "0xd41": "Cortex-A78",
}


def read_machine(root: str = "/") -> dict:
    """Return the facts that do not change while measuring."""
    return {
        "board": read_text(root, "proc/device-tree/model"),
        "cpu": read_cpu(root),
        "architecture": platform.machine(),
        "cores": os.cpu_count(),
        "usable_cores": usable_cores(),
        "memory_bytes": read_memory_size(root),
        "kernel": platform.system() + " " + platform.release(),
        "system": read_system(root),
    }


def read_software() -> dict:
    """Return the versions that decide what runs."""
    _, (runtime, version) = interpreter.find_runtime()
    return {
        "runtime": runtime,
        "runtime_version": version,
        "python": platform.python_version(),
        "numpy": np.__version__,
    }


def read_state(root: str = "/") -> dict:
    """Return the facts that do change: clocks, temperatures, load, supply."""
    frequency = os.path.join(root, "sys/devices/system/cpu/cpu[0-9]*/cpufreq/")
    return {
        "load_average": list(os.getloadavg()),
        "governors": sorted(set(read_all(frequency + "scaling_governor"))),
        "frequencies_mhz": [int(t) / 1e3 for t in read_all(frequency + "scaling_cur_freq")],
        "highest_mhz": [int(text) / 1e3 for text in read_all(frequency + "cpuinfo_max_freq")],
        "temperatures_c": read_temperatures(root),
        "supply_volts": read_supply(root),
    }


def read_cpu(root: str) -> str | None:
    """Return the name of the CPU, or of its kinds of core."""
    text = read_text(root, "proc/cpuinfo") or ""
    name = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    if name and "ARM" not in name.group(1).upper():
        return name.group(1).strip()
    parts = dict.fromkeys(re.findall(r"^CPU part\s*:\s*(0x[0-9a-f]+)", text, re.MULTILINE))
    if parts:
        return " + ".join(ARM_PARTS.get(part, f"Arm part {part}") for part in parts)
    return platform.processor() or None


def usable_cores() -> int | None:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count()


def read_memory_size(root: str) -> int | None:
    """Return the size of the main memory in bytes."""
    match = re.search(r"^MemTotal:\s+(\d+) kB", read_text(root, "proc/meminfo") or "", re.MULTILINE)
    return 1024 * int(match.group(1)) if match else None


def read_system(root: str) -> str:
    """Return the name of the operating system."""
    text = read_text(root, "etc/os-release") or ""
    match = re.search(r'^PRETTY_NAME="?(.*?)"?$', text, re.MULTILINE)
    return match.group(1) if match else platform.platform()


def read_temperatures(root: str) -> dict[str, float]:
    """Return degrees Celsius by name of the thermal zone."""
    degrees = {}
    for zone in sorted(glob.glob(os.path.join(root, "sys/class/thermal/thermal_zone*"))):
        kind, text = read_text(zone, "type"), read_text(zone, "temp")
        if text is not None and text.lstrip("-").isdigit():
            degrees[f"{os.path.basename(zone)} {kind or ''}".strip()] = int(text) / 1e3
    return degrees


def read_supply(root: str) -> float | None:
    """Return the volts that reach the board, where its firmware tells them (Raspberry Pi 5)."""
    answer = ask_firmware(root, "pmic_read_adc") or ""
    match = re.search(r"EXT5V_V \w+\(\d+\)=([\d.]+)V", answer)
    return float(match.group(1)) if match else None


def ask_firmware(root: str, *question: str) -> str | None:
    """Return what `vcgencmd` answers, or None where there is none."""
    program = os.path.join(root, "usr/bin/vcgencmd")
    if not os.path.exists(program):
        program = shutil.which("vcgencmd") if root == "/" else None
    if not program:
        return None
    try:
        done = subprocess.run(
            [program, *question], capture_output=True, text=True, timeout=5, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout


def read_all(pattern: str) -> list[str]:
    """Return the texts of all readable files of a pattern."""
    texts = [read_text("", path) for path in sorted(glob.glob(pattern))]
    return [text for text in texts if text]


def read_text(root: str, path: str) -> str | None:
    """Return a file of /proc or /sys without its end marks, or None."""
    try:
        with open(os.path.join(root, path), errors="replace") as file:
            return file.read().strip("\0\n ")
    except OSError:
        return None
