"""The `prediction` tables of a target file, as TOML."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from edgeprune.latency.features import FEATURES, RATE_UNIT

MARK = "# Written by "


def write_tables(tables: Mapping[str, Mapping[str, Any]], program: str) -> str:
    """Return TOML for the tables of several number formats.

    Args:
        tables: by number format, see `Predictor.to_dict`.
        program: that computed them, for people.

    Example:
        >>> print(write_tables({"int8": {"error": 0.08, "source": "us"}}, "a script"))
        # Written by a script, not by hand.
        [prediction.int8]
        error = 0.08
        source = "us"
        <BLANKLINE>
    """
    lines = [f"{MARK}{program}, not by hand."]
    for scheme, table in tables.items():
        lines.append(f"[prediction.{scheme}]")
        inner = {key: value for key, value in table.items() if isinstance(value, Mapping)}
        lines += [f"{key} = {_write(value)}" for key, value in table.items() if key not in inner]
        for name, values in inner.items():
            lines.append(f"[prediction.{scheme}.{name}]")
            for key, value in values.items():
                unit = FEATURES.get(key) or (RATE_UNIT if name == "rates" else "")
                unit = f"  # {unit}" if unit else ""
                lines.append(f"{key} = {_write(value)}{unit}")
        lines.append("")
    return "\n".join(lines)


def replace_tables(text: str, tables: str) -> str:
    """Return the text of a target file with other tables at its end.

    Args:
        text: of the file.
        tables: see `write_tables`.
    """
    kept = text.split(MARK)[0].rstrip()
    return f"{kept}\n\n{tables}"


def _write(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
