"""What can be refused before anything is loaded: places that are not there, or cannot be used."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from edgeprune.errors import DataError, EdgepruneError


def check_output(path: str | os.PathLike[str], *, suffix: str = "") -> None:
    """Refuse a place to write to before there is anything to write.

    Args:
        path: of a folder, or, with a suffix, of a file. It and folders above it may be missing.
        suffix: that the file must have, such as `.keras`.

    Raises:
        EdgepruneError: something else is there already, or nothing can be written there.
    """
    target = Path(path)
    if suffix and target.suffix != suffix:
        raise EdgepruneError(f"The output must be a file that ends in {suffix}. Got '{target}'.")
    if suffix and target.is_dir():
        raise EdgepruneError(f"The output '{target}' is a folder; expected the name of a file.")
    if not suffix and target.exists() and not target.is_dir():
        raise EdgepruneError(
            f"The output '{target}' is a file; expected a folder, or a name that is free."
        )
    above = next(folder for folder in target.absolute().parents if folder.exists())
    if not above.is_dir():
        raise EdgepruneError(f"Cannot write to '{target}': '{above}' is a file, not a folder.")
    if not os.access(above, os.W_OK | os.X_OK):
        raise EdgepruneError(f"Cannot write to '{target}': no permission to write in '{above}'.")


def check_source(data: Any) -> None:
    """Refuse a path without data.

    Raises:
        DataError: nothing is there.
    """
    if not isinstance(data, (str, os.PathLike)):
        return
    path = Path(data).expanduser()
    looks_like_path = path.suffix or len(path.parts) > 1 or str(data).endswith(os.sep)
    if looks_like_path and not path.exists():
        raise DataError(
            f"There is no data at '{data}'. Expected a folder with one folder of images per class, "
            "an .npz file with x and y, or the name of a built-in data set."
        )
