"""Outputs that exist completely or not at all."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from edgeprune.errors import EdgepruneError


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


@contextlib.contextmanager
def replace_on_success(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary path in the same folder; move it to `path` only if the block succeeds.

    Args:
        path: where the finished file (or folder) belongs. Missing parent folders are made.

    Yields:
        A path that does not exist yet, with the same suffix, to be written as file or folder.

    Raises:
        EdgepruneError: the folder cannot be written or the disk is full.

    Example:
        >>> import tempfile
        >>> target = Path(tempfile.mkdtemp()) / "report.txt"
        >>> with replace_on_success(target) as temporary:
        ...     _ = temporary.write_text("done")
        >>> target.read_text()
        'done'
    """
    target = Path(path)
    with _workspace(target) as workspace:
        temporary = workspace / target.name
        yield temporary
        if temporary.exists():
            _replace({temporary: target}, workspace)


@contextlib.contextmanager
def move_together(folder: str | os.PathLike[str]) -> Iterator[Path]:
    """Give an empty workspace beside a folder; move all that is in it there if the block succeeds.

    Args:
        folder: where the files belong; made if missing. Files of other names in it are left alone.

    Yields:
        The workspace, on the same file system.

    Raises:
        EdgepruneError: the folder cannot be written or the disk is full.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp()) / "out"
        >>> with move_together(folder) as workspace:
        ...     _ = (workspace / "a.txt").write_text("done")
        >>> [path.name for path in folder.iterdir()]
        ['a.txt']
    """
    target = Path(folder)
    if target.exists() and not target.is_dir():
        raise EdgepruneError(f"'{target}' is a file; expected a folder, or a name that is free.")
    with _workspace(target) as workspace:
        made = workspace / "made"
        made.mkdir()
        yield made
        target.mkdir(exist_ok=True)
        _replace({path: target / path.name for path in made.iterdir()}, workspace)


@contextlib.contextmanager
def _workspace(target: Path) -> Iterator[Path]:
    """Give an empty folder beside a target, gone afterwards; say what could not be written."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        workspace = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    except OSError as error:
        raise EdgepruneError(f"Cannot write to '{target.parent}': {error.strerror}.") from error
    try:
        yield workspace
    except OSError as error:
        raise EdgepruneError(
            f"Cannot write '{target}': {error.strerror or error}. Nothing was left half-written."
        ) from error
    finally:
        shutil.rmtree(workspace, ignore_errors=True)


def _replace(places: Mapping[Path, Path], workspace: Path) -> None:
    """Move files and folders to where others of their kind may be; none of them if one is not."""
    for new, target in places.items():
        if target.exists() and target.is_dir() != new.is_dir():
            found, expected = ("folder", "file") if target.is_dir() else ("file", "folder")
            raise EdgepruneError(
                f"'{target}' is a {found}; expected a {expected}, or a name that is free."
            )
    for number, (new, target) in enumerate(places.items()):
        if not target.is_dir():
            os.replace(new, target)
            continue
        old = workspace / f"old-{number}"
        os.replace(target, old)
        try:
            os.replace(new, target)
        except BaseException:
            os.replace(old, target)
            raise
