"""A measurement that was saved, beside one of today."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeprune.benchmarking.documents import MOST_BYTES
from edgeprune.benchmarking.measurements import MeasuredModel
from edgeprune.benchmarking.schemas import find_problem
from edgeprune.errors import BenchmarkError
from edgeprune.support.files import check_regular

MOST_FILE_BYTES = 64 * MOST_BYTES
QUANTITIES = ("p50_ms", "p90_ms", "memory_peak_bytes", "size_bytes")
_NUMBER = {"type": "number", "minimum": 0}
_SCHEMA: Mapping[str, Any] = {
    "type": "object",
    "required": ["measurements"],
    "properties": {
        "measurements": {
            "type": "array",
            "minItems": 1,
            "items": {
                "type": "object",
                "required": ["model", "where", "runtime", "threads", *QUANTITIES],
                "properties": {
                    **{name: {"type": "string"} for name in ("model", "where", "runtime")},
                    **{name: _NUMBER for name in ("threads", *QUANTITIES)},
                },
            },
        }
    },
}


@dataclass(frozen=True)
class Change:
    """A model then and now.

    Attributes:
        model: its name.
        ratios: now / then, by quantity.
        differs: what else is not as it was, such as the runtime; empty if all is.
    """

    model: str
    ratios: Mapping[str, float | None]
    differs: tuple[str, ...]


def read_earlier(
    path: str | os.PathLike[str], models: Mapping[str, str]
) -> dict[str, Mapping[str, Any]]:
    """Return, by model, the measurements of a `measurement.json` that `bench --out` wrote.

    How much of its path names a model depends on what was measured beside it: one of today is found
    by its name, else by as much of its path as was its name then.

    Args:
        path: of the file.
        models: paths of those that are measured now, by name.

    Raises:
        BenchmarkError: it cannot be read, is none, or knows none of the models.
    """
    name = os.fspath(path)
    check_regular(name, BenchmarkError, MOST_FILE_BYTES)
    try:
        document = json.loads(Path(path).read_bytes())
        problem = find_problem(document, _SCHEMA, _SCHEMA)
    except OSError as error:
        raise BenchmarkError(f"Cannot read '{name}': {error.strerror}.") from error
    except (ValueError, RecursionError):
        problem = "it is not JSON"
    if problem is not None:
        raise BenchmarkError(
            f"'{name}' is no measurement: {problem}. Expected the measurement.json of bench --out."
        )
    found = {entry["model"]: entry for entry in document["measurements"]}
    then = {
        model: found[old] for model, path in models.items() if (old := _find(model, path, found))
    }
    if not then:
        raise BenchmarkError(
            f"None of {', '.join(models)} is among what '{name}' has: {', '.join(found)}."
        )
    return then


def _find(name: str, path: str, known: Collection[str]) -> str | None:
    """Return the name that a model had then."""
    parts = Path(os.path.abspath(path)).parts
    fitting = [old for old in known if parts[-len(Path(old).parts) :] == Path(old).parts]
    return name if name in known else max(fitting, key=len, default=None)


def compare(now: Sequence[MeasuredModel], then: Mapping[str, Mapping[str, Any]]) -> list[Change]:
    """Return what became of the models that were measured both times, by their names."""
    changes = []
    for entry in now:
        old = then.get(entry.model)
        if old is None:
            continue
        ratios = {
            name: getattr(entry, name) / old[name] if old[name] else None for name in QUANTITIES
        }
        differs = [
            f"{name} was '{old[name]}', is '{value}'"
            for name, value in (("where", entry.where), ("runtime", entry.runtime),
                                ("threads", entry.threads))
            if old[name] != value
        ]  # fmt: skip
        changes.append(Change(entry.model, ratios, tuple(differs)))
    return changes
