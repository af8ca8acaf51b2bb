"""Methods, criteria, allocations and recoveries, with what they do and where they come from."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.table import Table

from edgeprune.pruning.methods import METHODS, Method

REGISTRIES = {
    "criteria": ("edgeprune.scoring.criteria", "FUNCTIONS"),
    "allocations": ("edgeprune.allocation", "ALLOCATIONS"),
    "recoveries": ("edgeprune.recovery", "RECOVERIES"),
}
LOOKS_AT = {
    "filters": "weights",
    "taylor": "one pass, backwards",
    "responses": "one pass",
    "reconstruction": "one pass",
    "masks": "losses of random masks",
    "discrimination": "statistics, labels",
    "blends": "what all its members look at",
    "subsets": "statistics",
}
"""By the file that a criterion is in."""
CRITERIA_PAGE = """# Criteria

How the channels of a group are ranked: higher = keep. Written by
`edgeprune.report.method_list.write_criteria_page` from the code; a test compares.

One contract holds for all: the same seed gives the same scores; scores follow the channels when
these change places; channels that carry nothing to any consumer come last; only the classes that
will be kept count; where a group has several writers or consumers, what is summed is said below.
`random` and the criteria of random masks draw with the seed, in the order of the channels' norms,
so that the arrangement of channels does not matter. Statistics are collected once for all; a
further pass runs only when a criterion asks for it.

| name | looks at | what it does, and its source |
|---|---|---|
"""
SINGULAR = {
    "methods": "method",
    "criteria": "criterion",
    "allocations": "allocation",
    "recoveries": "recovery",
}


def list_methods() -> dict[str, dict[str, str]]:
    """Return, for methods and each of their parts, each name with its summary and source.

    The registries of functions are read from the sources: importing them would import Keras, which
    takes seconds.
    """
    methods = {name: _describe(method) for name, method in METHODS.items()}
    return {
        "methods": methods,
        **{kind: _read_registry(*place) for kind, place in REGISTRIES.items()},
    }


def _describe(method: Method) -> str:
    parts = f"criterion {method.criterion}, allocation {method.allocation}, recovery "
    parts += method.recovery
    return f"{method.summary} {method.source} ({parts})"


def describe_methods(found: Mapping[str, Mapping[str, str]]) -> Table:
    """Return the table that `edgeprune methods` prints."""
    table = Table(box=SIMPLE_HEAD, show_lines=True)
    for name in ("kind", "name", "what it does"):
        table.add_column(name, no_wrap=name != "what it does")
    for kind, entries in found.items():
        for name, text in entries.items():
            table.add_row(SINGULAR[kind], name, text)
    return table


def write_criteria_page() -> str:
    """Return `docs/criteria.md`: what every criterion looks at, what it does, its source."""
    rows = []
    for name, entry in _read_entries(*REGISTRIES["criteria"]).items():
        looks_at = "the seed" if name == "random" else LOOKS_AT[entry.module]
        text = entry.text.replace("|", "\\|")
        rows.append(f"| `{name}` | {looks_at} | {text} |\n")
    return CRITERIA_PAGE + "".join(rows)


@dataclass(frozen=True)
class _Entry:
    """A function of a registry: the module it is in, and what its docstring says."""

    module: str
    text: str


def _read_registry(package: str, registry: str) -> dict[str, str]:
    return {name: entry.text for name, entry in _read_entries(package, registry).items()}


def _read_entries(package: str, registry: str) -> dict[str, _Entry]:
    """Return what the functions of a registry, `NAME: ... = {"name": function, ...}`, say."""
    spec = find_spec(package)
    assert spec is not None and spec.origin is not None  # it is a package of ours
    initial = Path(spec.origin)
    functions: dict[str, _Entry] = {}
    entries: dict[str, str] = {}
    for path in sorted(initial.parent.glob("*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef):
                text = _summarize(ast.get_docstring(node) or "")
                functions[node.name] = _Entry(path.stem, text)
            elif isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == registry:
                assert isinstance(node.value, ast.Dict)
                entries = {
                    ast.literal_eval(key): ast.unparse(value)
                    for key, value in zip(node.value.keys, node.value.values, strict=True)
                    if key is not None
                }
    return {name: functions[function] for name, function in entries.items()}


def _summarize(docstring: str) -> str:
    """Return the paragraphs before the sections, as one."""
    return " ".join(re.split(r"\n(?:Args|Returns|Raises|Example):\n", docstring)[0].split())
