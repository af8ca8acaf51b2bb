"""Where the two folders beside the library are: `devices` and `pipelines`.

They are data, found as files and never imported.
"""

from __future__ import annotations

from pathlib import Path

from edgeprune.errors import EdgepruneError

_LIBRARY = Path(__file__).resolve().parents[1]


def find_folder(name: str) -> Path:
    """Return `devices` or `pipelines`: the installed folder, else the one of the checkout.

    An installed edgeprune carries the folders inside itself; in a checkout they are its siblings.

    Args:
        name: "devices" or "pipelines".

    Raises:
        EdgepruneError: the installation lacks the folder.

    Example:
        >>> (find_folder("devices") / "boards" / "rpi4.toml").is_file()
        True
    """
    places = [_LIBRARY / name, _LIBRARY.parent / name]
    for place in places:
        if place.is_dir():
            return place
    raise EdgepruneError(
        f"This installation of edgeprune has no folder '{name}': looked for "
        f"{' and '.join(map(str, places))}. Install edgeprune again."
    )
