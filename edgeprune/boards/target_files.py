"""Finding and reading target files.

The boards that edgeprune knows are in `devices/boards`. A user's own are files in
`~/.config/edgeprune/targets` (`$XDG_CONFIG_HOME` is honoured), or anywhere if named by their path.
"""

from __future__ import annotations

import difflib
import os
import tomllib
from pathlib import Path
from typing import Any

from edgeprune.boards.target_checks import BASE, NEEDED, find_mistakes
from edgeprune.boards.targets import Figure, Target
from edgeprune.errors import EdgepruneError
from edgeprune.support.files import check_regular
from edgeprune.support.resources import find_folder

MOST_BYTES = 2**22


def list_targets() -> tuple[Target, ...]:
    """Return all targets by name; a user's file stands in for a shipped one of the same name.

    Example:
        >>> [target.name for target in list_targets() if target.delegate]
        ['coral-dev-board', 'coral-m2', 'coral-usb']
    """
    return tuple(read_target(path) for path in _files().values())


def find_target(name: str) -> Target:
    """Return one target.

    Args:
        name: of a target, or the path of a TOML file that describes one.

    Raises:
        EdgepruneError: there is no target of this name (suggests the nearest), or its file does not
            describe one.

    Example:
        >>> find_target("rpi4").channel_step
        8
    """
    if name.endswith(".toml"):
        return read_target(Path(name))
    files = _files()
    if name in files:
        return read_target(files[name])
    near = difflib.get_close_matches(name.lower(), files, 1, 0.5)
    suggestion = f"Did you mean '{near[0]}'? " if near else ""
    raise EdgepruneError(f"Unknown target '{name}'. {suggestion}There are {', '.join(files)}.")


def find_own_targets() -> Path:
    """Return the folder of the user's target files, which need not exist.

    Example:
        >>> find_own_targets().parts[-2:]
        ('edgeprune', 'targets')
    """
    settings = os.environ.get("XDG_CONFIG_HOME")
    return Path(settings or Path.home() / ".config") / "edgeprune" / "targets"


def find_shipped_targets() -> Path:
    """Return the folder of the target files that edgeprune brings along."""
    return find_folder("devices") / "boards"


def read_target(path: Path) -> Target:
    """Read one target file.

    A file with `based_on = "rpi4"` states only what differs from that shipped target; figures are
    replaced one by one, `prediction` as a whole.

    Args:
        path: of the file; the target is called by its name without the ending.

    Raises:
        EdgepruneError: the file cannot be read or does not describe a target; names every mistake.

    Example:
        >>> read_target(find_shipped_targets() / "rpi5.toml").energy_meter
        'pmic'
    """
    entries = _read(path)
    base = entries.get(BASE)
    wrong = list(find_mistakes(entries))
    if isinstance(base, str) and base:
        shipped = find_shipped_targets() / f"{base}.toml"
        if shipped.is_file() and shipped != path:
            inherited = _read(shipped)
            own = entries.get("figures", {})
            figures = inherited.get("figures", {}) | (own if isinstance(own, dict) else {})
            entries = inherited | entries | {"figures": figures}
        else:
            known = ", ".join(sorted(file.stem for file in shipped.parent.glob("*.toml")))
            wrong.append(f"'{BASE}' is '{base}', expected one of {known}")
    missing = [key for key in NEEDED if key not in entries]
    if missing:
        wrong.append(f"missing: {', '.join(missing)}")
    if wrong:
        raise EdgepruneError(f"'{path}' does not describe a target: {'; '.join(wrong)}.")
    entries.pop(BASE, None)
    figures = tuple(
        Figure(name, _value(entry["value"]), entry.get("unit", ""), entry["source"])
        for name, entry in entries.pop("figures", {}).items()
    )
    return Target(name=path.stem, figures=figures, file=str(path), **entries)


def _read(path: Path) -> dict[str, Any]:
    check_regular(path, EdgepruneError, MOST_BYTES)
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise EdgepruneError(f"Cannot read the target '{path}': {error.strerror}.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise EdgepruneError(f"'{path}' does not describe a target: {error}.") from error


def _value(value: Any) -> float | tuple[float, float] | str:
    return (value[0], value[1]) if isinstance(value, list) else value


def _files() -> dict[str, Path]:
    folders = (find_shipped_targets(), find_own_targets())
    files = {path.stem: path for folder in folders for path in sorted(folder.glob("*.toml"))}
    return dict(sorted(files.items()))
