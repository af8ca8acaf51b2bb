from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from edgeprune.errors import EdgepruneError
from edgeprune.support.files import LOCK, check_output, move_together, replace_on_success


def contents(folder: Path) -> dict[str, str]:
    """Return every file below a folder, hidden ones included."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_text() for path in files}


# One file or folder.


def test_a_file_appears_when_the_block_ends(tmp_path) -> None:
    target = tmp_path / "missing" / "folder" / "plan.json"
    with replace_on_success(target) as temporary:
        assert temporary.suffix == ".json"
        assert temporary.parent.parent == target.parent  # the same file system
        temporary.write_text("new")
        assert not target.exists()
    assert contents(tmp_path) == {"missing/folder/plan.json": "new"}


def test_an_old_file_is_replaced_and_others_are_left_alone(tmp_path) -> None:
    (tmp_path / "plan.json").write_text("old")
    (tmp_path / "notes.txt").write_text("mine")
    with replace_on_success(tmp_path / "plan.json") as temporary:
        temporary.write_text("new")
        assert (tmp_path / "plan.json").read_text() == "old"
    assert contents(tmp_path) == {"plan.json": "new", "notes.txt": "mine"}


@pytest.mark.parametrize("error", [ValueError("x"), KeyboardInterrupt(), SystemExit(3)])
def test_nothing_is_left_when_the_block_fails(tmp_path, error) -> None:
    (tmp_path / "plan.json").write_text("old")
    with pytest.raises(type(error)), replace_on_success(tmp_path / "plan.json") as temporary:
        temporary.write_text("half")
        raise error
    assert contents(tmp_path) == {"plan.json": "old"}
    assert len(list(tmp_path.iterdir())) == 1


def test_a_block_that_writes_nothing_leaves_what_is_there(tmp_path) -> None:
    (tmp_path / "plan.json").write_text("old")
    with replace_on_success(tmp_path / "plan.json"):
        pass
    assert contents(tmp_path) == {"plan.json": "old"}


def test_a_folder_is_replaced_whole(tmp_path) -> None:
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / "old.txt").write_text("old")
    with replace_on_success(tmp_path / "saved") as temporary:
        temporary.mkdir()
        (temporary / "new.txt").write_text("new")
    assert contents(tmp_path) == {"saved/new.txt": "new"}
    assert len(list(tmp_path.iterdir())) == 1


def test_an_old_folder_comes_back_when_the_new_one_cannot_take_its_place(
    tmp_path, monkeypatch
) -> None:
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / "old.txt").write_text("old")
    replace = os.replace

    def fail_for_new(source, target) -> None:
        if "saved-" in str(source) and "old-" not in Path(source).name:
            raise PermissionError(13, "Permission denied")
        replace(source, target)

    monkeypatch.setattr("edgeprune.support.files.os.replace", fail_for_new)
    with (
        pytest.raises(EdgepruneError, match="Permission denied"),
        replace_on_success(tmp_path / "saved") as temporary,
    ):
        temporary.mkdir()
    assert contents(tmp_path) == {"saved/old.txt": "old"}


def test_a_folder_never_gives_way_to_a_file(tmp_path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "photo.txt").write_text("precious")
    with (
        pytest.raises(EdgepruneError, match=r"out' is a folder; expected a file, or a name that"),
        replace_on_success(tmp_path / "out") as temporary,
    ):
        temporary.write_text("new")
    assert contents(tmp_path) == {"out/photo.txt": "precious"}


def test_a_place_that_cannot_be_written_is_named(tmp_path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(EdgepruneError, match=r"Cannot write to '.*file/inside': Not a directory\."),
        replace_on_success(tmp_path / "file" / "inside" / "plan.json"),
    ):
        pass


def test_an_error_of_the_system_says_that_nothing_was_left(tmp_path) -> None:
    message = (
        r"Cannot write '.*plan.json': No space left on device\. Nothing was left half-written\."
    )
    with (
        pytest.raises(EdgepruneError, match=message),
        replace_on_success(tmp_path / "plan.json") as temporary,
    ):
        temporary.write_text("half")
        raise OSError(28, os.strerror(28))
    assert contents(tmp_path) == {}


FULL = """
import resource, signal, sys
from pathlib import Path
from edgeprune.errors import EdgepruneError
from edgeprune.support.files import move_together, replace_on_success

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
folder = Path(sys.argv[1])

def write_all(path):
    with open(path, "wb") as file:
        for _ in range(100):
            file.write(b"x" * 10_000)

try:
    if sys.argv[2] == "file":
        with replace_on_success(folder / "model.keras") as temporary:
            write_all(temporary)
    elif sys.argv[2] == "folder":
        with move_together(folder) as workspace:
            (workspace / "labels.txt").write_text("new")
            write_all(workspace / "model.keras")
    else:
        import keras, numpy
        model = keras.Sequential([keras.Input((100,)), keras.layers.Dense(1000)])
        with replace_on_success(folder / "model.keras") as temporary:
            model.save(temporary)
except EdgepruneError as error:
    print(error)
    sys.exit(error.exit_code)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there is no limit on the size of files")
@pytest.mark.parametrize("what", ["file", "folder", "keras"])
def test_on_a_full_disk_the_old_files_stay(tmp_path, what) -> None:
    """A limit on the size of files stands for the full disk: the same error from the same calls."""
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "model.keras").write_text("old")
    (folder / "labels.txt").write_text("old")
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(folder), what], capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 2, done.stderr
    assert "Nothing was left half-written." in done.stdout
    assert contents(tmp_path) == {"out/model.keras": "old", "out/labels.txt": "old"}
    assert len(list(tmp_path.iterdir())) == 1


# Several files together.


def test_files_appear_together_beside_what_is_there(tmp_path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "labels.txt").write_text("old")
    (folder / "photo.txt").write_text("mine")
    with move_together(folder) as workspace:
        (workspace / "labels.txt").write_text("new")
        (workspace / "deep").mkdir()
        (workspace / "deep" / "plan.json").write_text("new")
        assert contents(folder) == {"labels.txt": "old", "photo.txt": "mine"}
    expected = {"labels.txt": "new", "photo.txt": "mine", "deep/plan.json": "new"}
    assert contents(folder) == expected
    assert list(tmp_path.iterdir()) == [folder]


def test_a_missing_folder_is_made_only_on_success(tmp_path) -> None:
    folder = tmp_path / "far" / "out"
    with pytest.raises(KeyboardInterrupt), move_together(folder) as workspace:
        (workspace / "labels.txt").write_text("half")
        raise KeyboardInterrupt
    assert not folder.exists()
    assert contents(tmp_path) == {}
    with move_together(folder) as workspace:
        (workspace / "labels.txt").write_text("whole")
    assert contents(folder) == {"labels.txt": "whole"}


@pytest.mark.parametrize("error", [ValueError("x"), KeyboardInterrupt()])
def test_an_interrupted_folder_stays_as_it_was(tmp_path, error) -> None:
    (tmp_path / "labels.txt").write_text("old")
    with pytest.raises(type(error)), move_together(tmp_path) as workspace:
        (workspace / "labels.txt").write_text("half")
        raise error
    assert contents(tmp_path) == {"labels.txt": "old"}


def test_none_is_moved_if_one_has_no_place(tmp_path) -> None:
    (tmp_path / "z").mkdir()
    (tmp_path / "a").write_text("old")
    with (
        pytest.raises(EdgepruneError, match=r"z' is a folder; expected a file"),
        move_together(tmp_path) as workspace,
    ):
        (workspace / "a").write_text("new")
        (workspace / "z").write_text("new")
    assert contents(tmp_path) == {"a": "old"}
    with (
        pytest.raises(EdgepruneError, match=r"a' is a file; expected a folder"),
        move_together(tmp_path) as workspace,
    ):
        (workspace / "a").mkdir()
    assert contents(tmp_path) == {"a": "old"}


def test_a_file_is_no_folder_to_write_into(tmp_path) -> None:
    (tmp_path / "out").write_text("mine")
    with (
        pytest.raises(EdgepruneError, match=r"out' is a file; expected a folder, or a name"),
        move_together(tmp_path / "out"),
    ):
        pass
    assert contents(tmp_path) == {"out": "mine"}


def test_the_current_folder_is_a_folder_like_any_other(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    with move_together(".") as workspace:
        (workspace / "labels.txt").write_text("new")
    assert contents(tmp_path) == {"labels.txt": "new"}
    assert len(list(tmp_path.iterdir())) == 1


def test_all_files_come_back_when_one_cannot_be_replaced(tmp_path, monkeypatch) -> None:
    folder, replace, moved = tmp_path / "out", os.replace, []
    folder.mkdir()
    for name in "abc":
        (folder / name).write_text("old")

    def fail_at_the_third(source, target) -> None:
        if Path(source).parent.name == "made":
            moved.append(source)
            if len(moved) == 3:
                raise PermissionError(13, "Permission denied")
        replace(source, target)

    monkeypatch.setattr("edgeprune.support.files.os.replace", fail_at_the_third)
    with (
        pytest.raises(EdgepruneError, match="Permission denied"),
        move_together(folder) as workspace,
    ):
        for name in "abcd":
            (workspace / name).write_text("new")
    assert contents(tmp_path) == {"out/a": "old", "out/b": "old", "out/c": "old"}


KILLED = """
import os, signal, sys
from pathlib import Path
from edgeprune.support import files

replace, left = os.replace, int(sys.argv[2])

def kill_later(source, target):
    global left
    if not left:
        os.kill(os.getpid(), signal.SIGKILL)
    left -= 1
    replace(source, target)

files.os.replace = kill_later
with files.move_together(sys.argv[1]) as workspace:
    for name in "abc":
        (workspace / name).write_text("new")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="it knows no locks that end with a process")
@pytest.mark.parametrize("moves", range(5))
def test_the_next_run_undoes_what_a_killed_one_left(tmp_path, moves) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    for name in ("a", "b", "mine"):
        (folder / name).write_text("old")
    subprocess.run([sys.executable, "-c", KILLED, str(folder), str(moves)], timeout=600)
    assert len(list(tmp_path.iterdir())) == 2
    with pytest.raises(KeyboardInterrupt), move_together(folder):
        raise KeyboardInterrupt
    assert contents(tmp_path) == {"out/a": "old", "out/b": "old", "out/mine": "old"}
    assert list(tmp_path.iterdir()) == [folder]


def test_a_workspace_in_use_and_a_folder_of_the_user_are_left_alone(tmp_path) -> None:
    (tmp_path / ".out-mine").mkdir()
    with move_together(tmp_path / "out") as first:
        (first / "a").write_text("first")
        with move_together(tmp_path / "out") as second:
            (second / "b").write_text("second")
        assert (first / "a").exists()
    assert contents(tmp_path) == {"out/a": "first", "out/b": "second"}
    assert (tmp_path / ".out-mine").exists()


def test_what_is_written_beside_a_file_goes_along_or_not_at_all(tmp_path) -> None:
    for name in ("m.keras", "m.plan.json"):
        (tmp_path / name).write_text("old")
    with pytest.raises(ValueError), replace_on_success(tmp_path / "m.keras") as temporary:
        temporary.with_suffix(".plan.json").write_text("new")
        raise ValueError
    assert contents(tmp_path) == {"m.keras": "old", "m.plan.json": "old"}
    with replace_on_success(tmp_path / "m.keras") as temporary:
        for path in (temporary, temporary.with_suffix(".plan.json")):
            path.write_text("new")
    assert contents(tmp_path) == {"m.keras": "new", "m.plan.json": "new"}


# What is refused before there is anything to write.


@pytest.mark.parametrize("link", [None, "symlink_to", "hardlink_to"])
def test_an_output_that_is_an_input_is_refused(tmp_path, link) -> None:
    model = output = tmp_path / "m.keras"
    model.write_text("the only one")
    if link:
        output = tmp_path / "other.keras"
        getattr(output, link)(model)
    with pytest.raises(EdgepruneError, match=r"is an input \('.*m\.keras'\), which would be lost"):
        check_output(output, suffix=".keras", inputs=[model, None, 3])
    check_output(tmp_path / "free.keras", suffix=".keras", inputs=[model])


def test_a_folder_around_an_input_is_refused(tmp_path) -> None:
    (tmp_path / "nets").mkdir()
    model, link = tmp_path / "nets" / "m.keras", tmp_path / "link.keras"
    model.write_text("the only one")
    link.symlink_to(model)
    for given in (model, link):
        with pytest.raises(EdgepruneError, match="is the folder of an input"):
            check_output(tmp_path / "nets", inputs=[given])
    check_output(tmp_path / "nets" / "out", inputs=[model])


def test_names_that_cannot_be_are_refused(tmp_path) -> None:
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    (tmp_path / "nowhere").symlink_to(tmp_path / "missing")
    for name in ("circle", "nowhere", "x" * 5000, "x" * 250, "circle/out"):
        with pytest.raises(EdgepruneError, match=r"Cannot write to|link to nowhere"):
            check_output(tmp_path / name)


def test_a_workspace_whose_process_was_killed_before_it_was_marked_goes(tmp_path: Path) -> None:
    bare, begun, other = (
        tmp_path / f".out-{name}" for name in ("abcdefgh", "ijklmnop", "12345678")
    )
    for folder in (bare, begun, other):
        folder.mkdir()
    (begun / f"{LOCK}-new").touch()
    (other / "mine.txt").touch()  # looks like ours, and is not
    for folder in (bare, begun, other):
        os.utime(folder, (0, 0))
    fresh = tmp_path / ".out-newnewne"
    fresh.mkdir()
    with move_together(tmp_path / "out"):
        pass
    assert {path.name for path in tmp_path.iterdir()} == {"out", other.name, fresh.name}
