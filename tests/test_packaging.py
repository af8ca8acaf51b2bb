from __future__ import annotations

import email
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path, PurePosixPath

import pytest

import edgeprune

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ("edgeprune", "devices", "pipelines", "setup.py", "pyproject.toml", "LICENSE")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy: a build leaves folders behind whose old files it reuses."""
    checkout = tmp_path_factory.mktemp("checkout")
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(
                ROOT / name, checkout / name, ignore=shutil.ignore_patterns("__pycache__")
            )
        else:
            shutil.copy2(ROOT / name, checkout / name)
    destination = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--no-build-isolation", "--no-deps", "--quiet"]
    subprocess.run([*command, "--wheel-dir", destination, checkout], check=True, timeout=600)
    [path] = destination.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def names(wheel: Path) -> set[str]:
    return set(zipfile.ZipFile(wheel).namelist())


@pytest.fixture(scope="module")
def metadata(wheel: Path) -> email.message.Message:
    archive = zipfile.ZipFile(wheel)
    [name] = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
    return email.message_from_bytes(archive.read(name))


def files_of(folder: str) -> set[str]:
    return {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def test_the_wheel_has_one_top_level_name(names: set[str]):
    tops = {PurePosixPath(name).parts[0] for name in names}
    assert tops == {"edgeprune", f"edgeprune-{edgeprune.__version__}.dist-info"}


def test_the_wheel_has_every_module_of_the_library(names: set[str]):
    assert files_of("edgeprune") <= names


@pytest.mark.parametrize(
    ("folder", "typical"),
    [("devices", "devices/harness/"), ("pipelines", "pipelines/experiments/methods.toml")],
)
def test_the_wheel_carries_the_folder(names: set[str], folder: str, typical: str):
    files = files_of(folder)
    assert any(name.startswith(typical) for name in files)
    assert {name for name in names if name.startswith(f"edgeprune/{folder}/")} == {
        f"edgeprune/{name}" for name in files
    }


def test_the_wheel_has_no_tests_and_no_leftovers(names: set[str]):
    assert not [name for name in names if "tests" in PurePosixPath(name).parts]
    assert not [name for name in names if name.endswith(".pyc")]


def test_plain_edgeprune_is_light(metadata: email.message.Message):
    plain = [line for line in metadata.get_all("Requires-Dist") or [] if "extra ==" not in line]
    names = sorted(re.split(r"[<>=]", line)[0] for line in plain)
    assert names == ["click", "numpy", "rich"]


def test_a_board_needs_no_tensorflow(metadata: email.message.Message):
    device = [
        line for line in metadata.get_all("Requires-Dist") or [] if 'extra == "device"' in line
    ]
    assert any(line.startswith("ai-edge-litert") for line in device)
    assert any(line.startswith("tflite-runtime") and "armv7l" in line for line in device)
    assert not [
        line
        for line in device
        if line.startswith(("tensorflow", "keras", "tf")) and not line.startswith("tflite-runtime")
    ]


def test_the_unpacked_wheel_finds_its_targets_from_anywhere(wheel: Path, tmp_path: Path):
    """Not the checkout's folders: the installed ones, from a folder that has neither."""
    zipfile.ZipFile(wheel).extractall(tmp_path / "installed")
    code = (
        "import sys; sys.path.insert(0, sys.argv.pop(1))\n"
        "for name in ('keras', 'tensorflow', 'tf_keras'): sys.modules[name] = None\n"
        "import edgeprune; assert edgeprune.__file__.startswith(sys.path[0]), edgeprune.__file__\n"
        "from edgeprune.cli import main; main()"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "installed"), "targets"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert result.returncode == 0, result.stderr
    assert "rpi4" in result.stdout
