"""Outputs that exist completely or not at all."""

from __future__ import annotations

import contextlib
import glob
import json
import math
import os
import shutil
import tempfile
import time
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from edgeprune.errors import EdgepruneError

try:
    import fcntl
except ModuleNotFoundError:  # Windows, where leftovers of a killed process stay
    fcntl = None  # type: ignore[assignment]

MOST_FLATBUFFER_BYTES, MOST_JSON_BYTES = 2**31, 2**28
LOCK, JOURNAL = ".edgeprune-lock", ".edgeprune-moves"
MARK_SECONDS = 1.0
"""In which a new workspace is marked as in use, or its process is gone."""


def check_output(
    path: str | os.PathLike[str], *, suffix: str = "", inputs: Iterable[Any] = ()
) -> None:
    """Refuse a place to write to before there is anything to write.

    Args:
        path: of a folder, or, with a suffix, of a file. It and folders above it may be missing.
        suffix: that the file must have, such as `.keras`.
        inputs: paths that are read, which must neither be the output nor lie in it; anything else
            among them is passed over.

    Raises:
        EdgepruneError: something else is there already, it is an input, or nothing can be written
            there.
    """
    target = Path(path)
    try:
        _check_place(target, suffix)
        for given in inputs:
            if isinstance(given, (str, os.PathLike)):
                _check_apart(target, Path(os.path.expanduser(given)))
    except (OSError, RuntimeError) as error:  # a name too long, links in a circle
        reason = getattr(error, "strerror", None) or error
        raise EdgepruneError(f"Cannot write to '{target}': {reason}.") from error


def _check_apart(target: Path, source: Path) -> None:
    """Refuse an output that is an input, by whatever path or link, or a folder around one."""
    if not os.path.exists(source) or not target.exists():
        return
    if target.samefile(source):
        raise EdgepruneError(
            f"The output '{target}' is an input ('{source}'), which would be lost. Choose another "
            "name."
        )
    if target.is_dir() and target.resolve() in source.resolve().parents:
        raise EdgepruneError(
            f"The output '{target}' is the folder of an input ('{source}'), which could be lost. "
            "Choose a folder of its own."
        )


def _check_place(target: Path, suffix: str) -> None:
    above = next(folder for folder in target.absolute().parents if folder.exists())
    # Some that are too long, a workspace's included, or links in a circle only show when asked for.
    for path in (target, *(above / f".{part}-{'x' * 16}" for part in Path(target.name).parts)):
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            os.lstat(path)
    if target.is_symlink() and not target.exists():
        raise EdgepruneError(f"The output '{target}' is a link to nowhere. Remove it.")
    if suffix and target.suffix != suffix:
        raise EdgepruneError(f"The output must be a file that ends in {suffix}. Got '{target}'.")
    if suffix and target.is_dir():
        raise EdgepruneError(f"The output '{target}' is a folder; expected the name of a file.")
    if not suffix and target.exists() and not target.is_dir():
        raise EdgepruneError(
            f"The output '{target}' is a file; expected a folder, or a name that is free."
        )
    if not above.is_dir():
        raise EdgepruneError(f"Cannot write to '{target}': '{above}' is a file, not a folder.")
    if not os.access(above, os.W_OK | os.X_OK):
        raise EdgepruneError(f"Cannot write to '{target}': no permission to write in '{above}'.")


def check_regular(
    path: str | os.PathLike[str], kind: type[Exception], most_bytes: float = math.inf
) -> None:
    """Refuse to read what may never end, and more than can be meant.

    Args:
        path: to be read; one that is missing is left to whoever opens it.
        kind: of the error to raise.
        most_bytes: that a file for this purpose has.
    """
    if not os.path.exists(path):
        return
    if not os.path.isfile(path):
        raise kind(f"Cannot read '{path}': it is no file but a folder, a pipe or a device.")
    if os.path.getsize(path) > most_bytes:
        raise kind(f"Cannot read '{path}': it has more than {most_bytes / 2**20:,.0f} MB.")


def read_tflite(path: str | os.PathLike[str], kind: type[Exception]) -> bytes:
    """Read a `.tflite` file.

    Args:
        path: of the file.
        kind: of the error to raise: it cannot be read, is no file, or larger than one can be.
    """
    check_regular(path, kind, MOST_FLATBUFFER_BYTES)
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise kind(f"Cannot read '{os.fspath(path)}': {error.strerror}.") from error


@contextlib.contextmanager
def replace_on_success(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary path in the same folder; move it to `path` only if the block succeeds.

    Args:
        path: where the finished file (or folder) belongs. Missing parent folders are made. What
            else the block writes beside the temporary path goes along, all of it or none.

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
        made = [path for path in workspace.iterdir() if path.name != LOCK]
        _replace({path: target.parent / path.name for path in made}, workspace)


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
        if target.exists():
            _replace({path: target / path.name for path in made.iterdir()}, workspace)
        else:
            os.replace(made, target)


@contextlib.contextmanager
def _workspace(target: Path) -> Iterator[Path]:
    """Give a folder beside a target, gone afterwards; say what could not be written."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _clear_leftovers(target)
        workspace = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    except OSError as error:
        raise EdgepruneError(f"Cannot write to '{target.parent}': {error.strerror}.") from error
    try:
        with _locked(workspace):
            yield workspace
    except OSError as error:
        raise EdgepruneError(
            f"Cannot write '{target}': {error.strerror or error}. Nothing was left half-written."
        ) from error
    finally:
        shutil.rmtree(workspace, ignore_errors=True)


@contextlib.contextmanager
def _locked(workspace: Path) -> Iterator[None]:
    """Mark a workspace as in use; the mark stays when the process is killed, its lock does not."""
    with open(workspace / f"{LOCK}-new", "w") as file:
        if fcntl is not None:
            fcntl.flock(file, fcntl.LOCK_EX)
        os.rename(file.name, workspace / LOCK)  # nobody ever sees it without its lock
        yield


def _clear_leftovers(target: Path) -> None:
    """Undo what a process that was killed left half-done, and remove its workspace."""
    for lock in target.parent.glob(f".{glob.escape(target.name)}-*/{LOCK}"):
        try:
            with open(lock) as file:
                if fcntl is None:
                    continue
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _roll_back(lock.parent)
                shutil.rmtree(lock.parent, ignore_errors=True)
        except (OSError, ValueError):  # still in use, or not ours to mend
            continue
    for folder in target.parent.glob(f".{glob.escape(target.name)}-????????"):
        with contextlib.suppress(OSError):  # killed before it was marked: nothing else is in it
            if time.time() - folder.stat().st_mtime > MARK_SECONDS:
                if os.listdir(folder) == [f"{LOCK}-new"]:
                    (folder / f"{LOCK}-new").unlink()
                folder.rmdir()


def remove_dates(path: str | os.PathLike[str]) -> None:
    """Take the time of saving out of a `.keras` archive: equal models become equal bytes.

    Args:
        path: of the archive, as Keras writes it; it is replaced.
    """
    dated = Path(f"{os.fspath(path)}-dated")
    os.replace(path, dated)
    with zipfile.ZipFile(dated) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            entry = zipfile.ZipInfo(name)  # without a time it says 1980
            entry.file_size = old.getinfo(name).file_size  # it says whether 64 bits are needed
            with old.open(name) as source, new.open(entry, "w") as target:
                if name == "metadata.json":
                    found = json.load(source) | {"date_saved": "1980-01-01@00:00:00"}
                    target.write(json.dumps(found).encode())
                else:
                    shutil.copyfileobj(source, target)
    dated.unlink()


def _replace(places: Mapping[Path, Path], workspace: Path) -> None:
    """Move files and folders to where others of their kind may be; none of them if one is not."""
    for new, target in places.items():
        if target.exists() and target.is_dir() != new.is_dir():
            found, expected = ("folder", "file") if target.is_dir() else ("file", "folder")
            raise EdgepruneError(
                f"'{target}' is a {found}; expected a {expected}, or a name that is free."
            )
    if len(places) == 1:
        new, target = next(iter(places.items()))
        if not target.is_dir():
            os.replace(new, target)
            return
    moves = [(os.path.abspath(new), os.path.abspath(target)) for new, target in places.items()]
    (workspace / JOURNAL).write_text(json.dumps(moves))
    try:
        for number, (source, destination) in enumerate(moves):
            if os.path.lexists(destination):
                os.replace(destination, workspace / f"old-{number}")
            os.replace(source, destination)
    except BaseException:
        _roll_back(workspace)
        raise
    (workspace / JOURNAL).unlink()


def _roll_back(workspace: Path) -> None:
    """Put everything back that `_replace` moved, as far as it had come."""
    journal = workspace / JOURNAL
    moves = json.loads(journal.read_text()) if journal.exists() else []
    for number, (new, target) in enumerate(moves):
        old = workspace / f"old-{number}"
        if not os.path.lexists(new):
            os.replace(target, new)
        if os.path.lexists(old):
            os.replace(old, target)
    journal.unlink(missing_ok=True)
