"""No process that edgeprune starts runs what lies in the working folder under a module's name."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest
import small_models

from edgeprune.support.resources import find_folder
from edgeprune.tflite import convert

ROOT = Path(__file__).resolve().parent.parent
OTHERS = (
    "numpy",
    "keras",
    "tensorflow",
    "tf_keras",
    "ai_edge_litert",
    "h5py",
    "harness",
    "edgeprune",
)
PLANTED = (
    "from pathlib import Path\n"
    "(Path(__file__).parent / 'it ran').write_text(__name__)\n"
    "raise SystemExit('a planted file ran: ' + __name__)\n"
)


@pytest.fixture
def trap(tmp_path: Path) -> Path:
    """A folder with a file of the name of every module that anything may import."""
    folder = tmp_path / "downloads"
    folder.mkdir()
    for name in (*sys.stdlib_module_names, *OTHERS):
        (folder / f"{name}.py").write_text(PLANTED)
    return folder


def run(command: list[str], trap: Path, **options) -> str:
    done = subprocess.run(command, cwd=trap, capture_output=True, text=True, timeout=600, **options)
    assert not (trap / "it ran").exists(), (trap / "it ran").read_text()
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_trap_works(trap: Path) -> None:
    with pytest.raises(AssertionError, match="random"):
        run([sys.executable, "-c", "import random"], trap)


STARTS = {
    "the harness, and for each model another": (
        "from edgeprune.benchmarking import bench\n"
        "print(bench('model.tflite', runs=10, seconds=0.1, warmup=0.1))"
    ),
    "the recorder of a meter": (
        "from edgeprune.benchmarking.measurement_settings import Meter\n"
        "from edgeprune.benchmarking.recorders import recording\n"
        "from edgeprune.errors import BenchmarkError\n"
        "try:\n"
        "    with recording(Meter.parse('ina3221'), 0.1): pass\n"
        "except BenchmarkError as error: print(error)\n"
    ),
    "the process that opens old files": (
        "from edgeprune.loading.references import LegacyProcess\n"
        "from pathlib import Path\n"
        "with LegacyProcess() as process: print(process.saved_model(Path('nowhere')))"
    ),
}


@pytest.mark.parametrize("code", STARTS.values(), ids=STARTS)
def test_a_process_that_is_started_passes_by_planted_files(trap: Path, code: str) -> None:
    """Also where the search path has an empty and a relative entry, which mean that folder."""
    convert(small_models.classifier(), scheme="float32", path=trap / "model.tflite")
    start = "import os; os.environ['PYTHONPATH'] = f'.{os.pathsep}'\n"
    assert run([sys.executable, "-P", "-c", start + code], trap).strip()


def test_a_board_is_not_taken_in_by_files_that_lie_where_it_is_asked(tmp_path: Path) -> None:
    bare, place = tmp_path / "bare", tmp_path / "home"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(bare)], check=True)
    place.mkdir()
    (place / "numpy.py").write_text(PLANTED)
    script = find_folder("devices") / "remote" / "probe.sh"
    said = run(["sh", str(script), str(bare / "bin" / "python")], place)
    assert said.splitlines()[1].split("\t")[2:] == ["-", "-"]


def test_every_python_that_is_started_leaves_the_working_folder_out() -> None:
    """In the sources: an interpreter is started with -P, or on a file of a folder of ours."""
    found = 0
    for folder in ("edgeprune", "devices"):
        for source in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
                if isinstance(node, ast.List) and node.elts:
                    words = [ast.unparse(word) for word in node.elts]
                    if words[0] == "sys.executable":
                        found += 1
                        assert "'-P'" in words or not {"'-m'", "'-c'"} & set(words), source
    assert found >= 3
