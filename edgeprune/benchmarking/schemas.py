"""Is a document what its JSON schema says? For the words that the schema of the harness uses."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

TYPES: Mapping[str, Any] = {
    "object": dict,
    "array": list,
    "string": str,
    "boolean": bool,
    "null": type(None),
    "integer": int,
    "number": (int, float),
}


def find_problem(value: Any, schema: Mapping[str, Any], root: Mapping[str, Any]) -> str | None:
    """Return what is wrong with a document, with the place in it; `None` for a valid one.

    Numbers must be finite, which JSON asks and Python does not.

    Args:
        value: as `json.loads` gives it.
        schema: what it must be.
        root: the schema that `$ref` looks into.

    Example:
        >>> find_problem({"count": "5"}, {"properties": {"count": {"type": "integer"}}}, {})
        "count: expected integer, got '5'"
    """
    return next(_find(value, schema, root, ""), None)


def _find(
    value: Any, schema: Mapping[str, Any], root: Mapping[str, Any], place: str
) -> Iterator[str]:
    where = f"{place.lstrip('/') or 'the document'}: "
    if "$ref" in schema:
        yield from _find(value, root["$defs"][schema["$ref"].rpartition("/")[2]], root, place)
        return
    if "oneOf" in schema:
        found = [next(_find(value, one, root, place), None) for one in schema["oneOf"]]
        if found.count(None) != 1:
            yield next(filter(None, reversed(found)), f"{where}it is not clear what it is")
        return
    kinds = schema.get("type", [])
    kinds = [kinds] if isinstance(kinds, str) else kinds
    if kinds and not any(_is_a(value, kind) for kind in kinds):
        yield f"{where}expected {' or '.join(kinds)}, got {_show(value)}"
        return
    allowed = [schema["const"]] if "const" in schema else schema.get("enum", [value])
    if value not in allowed:
        yield f"{where}expected {' or '.join(map(repr, allowed))}, got {_show(value)}"
    if isinstance(value, int | float) and not isinstance(value, bool):
        low, high = schema.get("minimum", -math.inf), schema.get("maximum", math.inf)
        if not low <= value <= high:
            yield f"{where}expected a number from {low} to {high}, got {_show(value)}"
    if isinstance(value, list):
        low, high = schema.get("minItems", 0), schema.get("maxItems", math.inf)
        if not low <= len(value) <= high:
            wanted = f"at least {low}" if high == math.inf else f"{low} to {high}"
            yield f"{where}expected {wanted} entries, got {len(value)}"
        if "items" in schema:
            for index, entry in enumerate(value):
                yield from _find(entry, schema["items"], root, f"{place}/{index}")
    if isinstance(value, dict):
        yield from _find_in_object(value, schema, root, place)


def _find_in_object(
    value: Mapping[str, Any], schema: Mapping[str, Any], root: Mapping[str, Any], place: str
) -> Iterator[str]:
    known = schema.get("properties", {})
    others = schema.get("additionalProperties", True)
    for name in schema.get("required", ()):
        if name not in value:
            yield f"{place.lstrip('/') or 'the document'}: '{name}' is missing"
    for name, entry in value.items():
        inside = known.get(name, others)
        if inside is False:
            yield f"{place.lstrip('/') or 'the document'}: {_show(name)} is unknown"
        elif inside is not True:
            yield from _find(entry, inside, root, f"{place}/{_show(name).strip(chr(39))}")


def _is_a(value: Any, kind: str) -> bool:
    if isinstance(value, bool):
        return kind == "boolean"
    if kind == "integer" and isinstance(value, float):
        return value.is_integer()
    if isinstance(value, float) and not math.isfinite(value):
        return False
    return isinstance(value, TYPES[kind])


def _show(value: Any) -> str:
    """Return a short text of a value, which may be anything and of any size."""
    if isinstance(value, str):
        return repr(value[:40])
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else "an array"
    return "a huge number" if isinstance(value, int) and abs(value) > 10**30 else repr(value)
