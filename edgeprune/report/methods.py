"""Criteria and recoveries with what their docstrings say of them."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from edgeprune.criteria import CRITERIA
from edgeprune.recovery import RECOVERIES


def list_methods() -> dict[str, dict[str, str]]:
    """Return, for criteria and recoveries, each name with its summary and source."""
    return {
        "criteria": {name: _describe(function) for name, function in CRITERIA.items()},
        "recoveries": {name: _describe(function) for name, function in RECOVERIES.items()},
    }


def describe_methods(found: Mapping[str, Mapping[str, str]]) -> Table:
    """Return the table that `edgeprune methods` prints."""
    table = Table(box=SIMPLE_HEAD, show_lines=True)
    for name in ("kind", "name", "what it does"):
        table.add_column(name)
    for kind, entries in found.items():
        for name, text in entries.items():
            table.add_row({"criteria": "criterion", "recoveries": "recovery"}[kind], name, text)
    return table


def _describe(function: Any) -> str:
    """Return the paragraphs of a docstring before its arguments."""
    text = inspect.getdoc(function) or ""
    return " ".join(text.split("\nArgs:")[0].split())
