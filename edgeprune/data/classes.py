"""Class names: which ones exist, and which ones the device has to know."""

from __future__ import annotations

import csv
import difflib
from collections import Counter
from collections.abc import Sequence

from edgeprune.errors import ClassError, DataError

NUM_NAMES_SHOWN = 12


def find_classes(requested: str | Sequence[str | int], classes: Sequence[str]) -> tuple[int, ...]:
    """Turn class names or indices into indices, in the order they were asked for.

    A text that is both a name and an index counts as the name.

    Args:
        requested: names or indices in a sequence, or in one comma separated string. A known name
            that holds commas may be written as it is, the longest counts, or in double quotes.
        classes: all class names, in the order of the model's outputs.

    Raises:
        ClassError: an unknown class, nothing between two commas, the same class twice, or fewer
            than two classes.

    Example:
        >>> find_classes("dog, 0", ["cat", "dog", "fox"])
        (1, 0)
        >>> find_classes("fox, cat, black", ["cat, black", "dog", "fox"])
        (2, 0)
    """
    items = _split(requested, classes) if isinstance(requested, str) else requested
    found: list[int] = []
    for item in items:
        index = _find_class(item, classes)
        if index in found:
            raise ClassError(f"Class '{classes[index]}' was asked for twice. Name each class once.")
        found.append(index)
    if len(found) < 2:
        got = f"only '{classes[found[0]]}' was asked for" if found else "none was asked for"
        raise ClassError(
            f"A specialist needs at least two classes, because with one it has nothing to decide; "
            f"{got}. Add what it has to be told from, known classes: {shorten(classes)}."
        )
    return tuple(found)


def _split(requested: str, classes: Sequence[str]) -> list[str]:
    """Take a text apart at its commas, those inside known names excepted."""
    try:
        cells = [_join(cell) for cell in next(csv.reader([requested], skipinitialspace=True), [])]
    except csv.Error as error:
        raise ClassError(
            f"'{requested}' is no list of names with commas between them ({error}). Known classes: "
            f"{shorten(classes)}."
        ) from error
    if cells and not cells[-1]:  # after a comma at the end
        cells.pop()
    if any(cells) and not all(cells):
        raise ClassError(
            f"There is no name between two commas of '{requested}'. Name each class once: "
            f"{shorten(classes)}."
        )
    known = {_join(name): name for name in classes}
    most = 1 + max((name.count(",") for name in classes), default=0)
    items: list[str] = []
    while cells:
        lengths = range(min(most, len(cells)), 1, -1)
        length = next((n for n in lengths if ",".join(cells[:n]) in known), 1)
        item, cells = ",".join(cells[:length]), cells[length:]
        items.append(known.get(item, item))
    return [item for item in items if item]


def _join(text: str) -> str:
    return ",".join(part.strip() for part in text.split(","))


def _find_class(item: str | int, classes: Sequence[str]) -> int:
    if isinstance(item, str) and item in classes:
        return list(classes).index(item)
    try:
        index = int(item)
    except ValueError:
        raise ClassError(
            f"Unknown class '{item}'.{suggest(str(item), classes)} "
            f"Known classes: {shorten(classes)}."
        ) from None
    if not 0 <= index < len(classes):
        raise ClassError(
            f"There is no class {index}: indices run from 0 to {len(classes) - 1}. "
            f"Known classes: {shorten(classes)}."
        )
    return index


def suggest(name: str, known: Sequence[str]) -> str:
    """Say ` Did you mean 'cat'?` for the known name closest to `name`, or nothing."""
    lowered = {other.casefold(): other for other in known}
    close = difflib.get_close_matches(name.casefold(), lowered, n=1)
    return f" Did you mean '{lowered[close[0]]}'?" if close else ""


def shorten(names: Sequence[str]) -> str:
    """Join names for a message; a long list ends in how many more there are."""
    shown = ", ".join(names[:NUM_NAMES_SHOWN])
    more = len(names) - NUM_NAMES_SHOWN
    return f"{shown} and {more} more" if more > 0 else shown


def check_names(classes: Sequence[str]) -> tuple[str, ...]:
    """Give the class names as a tuple.

    Raises:
        DataError: not a sequence of names, or the same name twice.
    """
    if isinstance(classes, str):
        raise DataError(f"Class names must be a sequence of names. Got the text '{classes}'.")
    names = tuple(str(name) for name in classes)
    twice = [name for name, number in Counter(names).items() if number > 1]
    if twice:
        raise DataError(f"The class names hold '{twice[0]}' twice. Each name must be unique.")
    return names


def match_names(own: Sequence[str], wanted: Sequence[str] | None, source: str) -> tuple[int, ...]:
    """Find where each of a source's own class names stands among the wanted ones.

    Raises:
        ClassError: one of them is not there.
    """
    if wanted is None:
        return tuple(range(len(own)))
    positions = {name: index for index, name in enumerate(wanted)}
    for name in own:
        if name not in positions:
            raise ClassError(
                f"'{source}' has the class '{name}', which is not among the given class names."
                f"{suggest(name, wanted)} Given: {shorten(wanted)}."
            )
    return tuple(positions[name] for name in own)
