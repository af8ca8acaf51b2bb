"""Old names for one release: keywords that moved into parts, and public names that changed."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib import import_module
from typing import Any, ParamSpec, TypeVar

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")

PARTS = {
    "data": "edgeprune.data.data_settings:Data",
    "pruning": "edgeprune.pruning.pruning_settings:Pruning",
    "export": "edgeprune.tflite.export_settings:Export",
    "measurement": "edgeprune.benchmarking.measurement_settings:Measurement",
}
PRUNING = {
    "method": ("pruning", "method"),
    "criterion": ("pruning", "criterion"),
    "allocation": ("pruning", "allocation"),
    "recovery": ("pruning", "recovery"),
    "recalibration": ("pruning", "recalibration"),
    "step": ("pruning", "step"),
    "time_limit": ("pruning", "search_seconds"),
    "seed": ("pruning", "seed"),
}
BUILD = PRUNING | {
    "preprocess": ("data", "preprocess"),
    "labels": ("data", "labels"),
    "quantize": ("export", "scheme"),
    "io": ("export", "io"),
    "input": ("export", "input"),
    "quantization": ("export", "quantization"),
    "fine_tuning": ("training", ""),
    "measure": ("measurement", "latency"),
    "meet_measured": ("measurement", "until_met"),
    "threads": ("measurement", "threads"),
    "host": ("measurement", "host"),
}


def moved_keywords(
    moved: Mapping[str, tuple[str, str]],
) -> Callable[[Callable[Parameters, Result]], Callable[Parameters, Result]]:
    """Let a function take keywords of edgeprune 0.1, with a warning that names the new place.

    Args:
        moved: old keyword -> parameter and its field; no field where the parameter was renamed.
    """

    def decorate(function: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
        @functools.wraps(function)
        def call(*args: Any, **keywords: Any) -> Result:
            given = [name for name in keywords if name in moved]
            for name in given:
                part, entry = moved[name]
                value = keywords.pop(name)
                place = f"{part}={_name_of(part)}({entry}=...)" if entry else f"{part}=..."
                warnings.warn(
                    f"'{name}' of {function.__name__}() has moved: give {place}.",
                    DeprecationWarning,
                    stacklevel=2,
                )
                if not entry:
                    keywords[part] = value
                elif part == "data":
                    args = (*args[:1], replace(_parse(part, args[1]), **{entry: value}), *args[2:])
                else:
                    known = _parse(part, keywords.get(part))
                    keywords[part] = known if value is None else replace(known, **{entry: value})
            return function(*args, **keywords)

        return call

    return decorate


def _name_of(part: str) -> str:
    return PARTS[part].partition(":")[2]


def _parse(part: str, given: Any) -> Any:
    """Return a part as an object, whatever form it was given in."""
    module, _, name = PARTS[part].partition(":")
    kind = getattr(import_module(module), name)
    if isinstance(given, kind):
        return given
    return kind.parse(given) if hasattr(kind, "parse") else kind()
