"""What a target file may say: every mistake is found before anything is built."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

BASE = "based_on"
METERS = (
    "none", "pmic", "hwmon", "ina3221", "rapl", "battery", "log", "joulescope", "ppk2",
)  # fmt: skip
SCHEMES = ("float32", "float16", "dynamic", "int8", "int16x8", "int8-qat")
RUNTIMES = ("ai-edge-litert", "tflite-runtime")
ARCHITECTURES = ("aarch64", "armv7l", "x86_64")

Check = Callable[[Any], bool]


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _is_device(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch(r"(usb|pci)(:\d{1,3})?", value) is not None


def _is_table(value: Any) -> bool:
    return isinstance(value, Mapping)


def _is_one_of(*choices: str) -> tuple[Check, str]:
    return (lambda value: value in choices), "one of " + ", ".join(choices)


_TEXT = (_is_text, "a text")
_COUNT = (_is_count, "a whole number from 1")
_TABLE = (_is_table, "a table")
_KEYS: dict[str, tuple[Check, str]] = {
    "description": _TEXT,
    "architecture": _is_one_of(*ARCHITECTURES),
    "cpu": _TEXT,
    "threads": _COUNT,
    "channel_step": _COUNT,
    "scheme": _is_one_of(*SCHEMES),
    "runtime": _is_one_of(*RUNTIMES),
    "cores": _COUNT,
    "delegate": _TEXT,
    "device": (_is_device, "usb, pci, usb:0 or the like"),
    "board": _TEXT,
    "host_board": _TEXT,
    "energy_meter": _is_one_of(*METERS),
    "figures": _TABLE,
    "prediction": _TABLE,
    BASE: _TEXT,
}
_AMOUNT = (lambda value: _is_number(value) and value >= 0, "a finite number from 0")
_FLAG = (lambda value: isinstance(value, bool), "true or false")
_NUMBERS = (
    lambda value: _is_table(value) and all(map(_is_number, value.values())),
    "a table of finite numbers",
)
_PREDICTION: dict[str, tuple[Check, str]] = {
    "kind": _TEXT,
    "source": _TEXT,
    "error": _AMOUNT,
    "threads": _COUNT,
    "channel_step": _COUNT,
    "power_w": _AMOUNT,
    "power_error": _AMOUNT,
    "coefficients": _NUMBERS,
    "rates": _NUMBERS,
    "shares": _NUMBERS,
    "runtime": _TEXT,
    "kernels": _TABLE,
}
_KERNELS: dict[str, tuple[Check, str]] = {
    "rows": _COUNT,
    "columns": _COUNT,
    "depth": _COUNT,
    "cache_bytes": _AMOUNT,
    "unrolls": _FLAG,
    "competing": _FLAG,
    "call_weight": _AMOUNT,
}
NEEDED = (
    "description", "architecture", "cpu", "threads", "channel_step", "scheme", "runtime",
)  # fmt: skip


def find_mistakes(entries: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is wrong with the entries of a target file, one clause each.

    Example:
        >>> list(find_mistakes({"thread": 4}))
        ["unknown key 'thread' (did you mean 'threads'?)"]
    """
    for key, value in entries.items():
        if key not in _KEYS:
            near = difflib.get_close_matches(key, _KEYS, 1)
            yield f"unknown key '{key}'" + (f" (did you mean '{near[0]}'?)" if near else "")
            continue
        fits, expected = _KEYS[key]
        if not fits(value):
            yield f"'{key}' is {value!r}, expected {expected}"
        elif key == "figures":
            yield from _find_mistakes_in_figures(value)
        elif key == "prediction":
            for scheme in SCHEMES:
                yield from _find_mistakes_in_prediction(scheme, value.get(scheme, {}))


def _find_mistakes_in_prediction(scheme: str, table: Any) -> Iterator[str]:
    if not _is_table(table):
        yield f"'prediction.{scheme}' is {table!r}, expected a table"
        return
    kernels = table.get("kernels", {})
    places = [("", table, _PREDICTION)]
    places += [(".kernels", kernels, _KERNELS)] if _is_table(kernels) else []
    for place, entries, checks in places:
        for key, (fits, expected) in checks.items():
            if key in entries and not fits(entries[key]):
                found = f"'prediction.{scheme}{place}.{key}' is {entries[key]!r}"
                yield f"{found}, expected {expected}"


def _find_mistakes_in_figures(figures: Mapping[str, Any]) -> Iterator[str]:
    for name, entry in figures.items():
        if not isinstance(entry, Mapping) or not entry.keys() <= {"value", "unit", "source"}:
            yield f"figure '{name}' must be a table of value, unit and source"
        elif not _is_text(entry.get("source")):
            yield f"figure '{name}' has no source"
        elif not _is_value(entry.get("value")):
            yield f"figure '{name}' has no value: a number, [lowest, highest] or a text"
        elif not isinstance(entry["value"], str) and not _is_text(entry.get("unit")):
            yield f"figure '{name}' has no unit"
        elif not isinstance(entry.get("unit", ""), str):
            yield f"figure '{name}' has a unit that is no text"


def _is_value(value: Any) -> bool:
    if isinstance(value, list):
        return len(value) == 2 and all(map(_is_number, value)) and value[0] < value[1]
    return _is_text(value) or _is_number(value)


def _is_number(value: Any) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and math.isfinite(value)
