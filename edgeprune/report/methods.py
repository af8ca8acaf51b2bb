"""Methods, criteria, allocations and recoveries, with what they do and where they come from."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.table import Table

from edgeprune.methods import METHODS, Method

REGISTRIES = {
    "criteria": ("edgeprune.criteria", "CRITERIA"),
    "allocations": ("edgeprune.allocation", "ALLOCATIONS"),
    "recoveries": ("edgeprune.recovery", "RECOVERIES"),
}
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
    tries = f"; tries {', '.join(method.tries)} as well" if method.tries else ""
    return f"{method.summary} {method.source} ({parts}{tries})"


def describe_methods(found: Mapping[str, Mapping[str, str]]) -> Table:
    """Return the table that `edgeprune methods` prints."""
    table = Table(box=SIMPLE_HEAD, show_lines=True)
    for name in ("kind", "name", "what it does"):
        table.add_column(name, no_wrap=name != "what it does")
    for kind, entries in found.items():
        for name, text in entries.items():
            table.add_row(SINGULAR[kind], name, text)
    return table


def _read_registry(package: str, registry: str) -> dict[str, str]:
    """Return what the functions of a registry, `NAME: ... = {"name": function, ...}`, say."""
    spec = find_spec(package)
    assert spec is not None and spec.origin is not None  # it is a package of ours
    initial = Path(spec.origin)
    functions: dict[str, str] = {}
    entries: dict[str, str] = {}
    is_package = initial.name == "__init__.py"
    for path in sorted(initial.parent.glob("*.py")) if is_package else [initial]:
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef):
                functions[node.name] = ast.get_docstring(node) or ""
            elif isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == registry:
                assert isinstance(node.value, ast.Dict)
                entries = {
                    ast.literal_eval(key): ast.unparse(value)
                    for key, value in zip(node.value.keys, node.value.values, strict=True)
                    if key is not None
                }
    return {name: _summarize(functions[function]) for name, function in entries.items()}


def _summarize(docstring: str) -> str:
    """Return the paragraphs before the arguments, as one."""
    return " ".join(docstring.split("\nArgs:")[0].split())
