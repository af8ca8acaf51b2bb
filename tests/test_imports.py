from __future__ import annotations

import ast
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

import edgeprune

ROOT = Path(__file__).resolve().parent.parent
HEAVY = ("keras", "tensorflow", "tf_keras")
NOT_IN_THE_LIGHT_INSTALL = (*HEAVY, "PIL", "ai_edge_litert", "h5py", "scipy", "sklearn")
LIGHT_MODULES = (
    "benchmarking boards cli data energy errors latency support.files support.progress "
    "support.resources support.standard_error surgery.plan tflite tflite.metadata tflite.runtime"
).split()
HARNESS = sorted((ROOT / "devices" / "harness").rglob("*.py"))
HARNESS_MAY_IMPORT = {"numpy", "ai_edge_litert", "tflite_runtime"}


def run_python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=600
    )


def heavy_modules_after(code: str, *arguments: str) -> list[str]:
    report = f"print('heavy:', [name for name in {HEAVY} if name in sys.modules])"
    result = run_python(
        f"import sys, atexit\natexit.register(lambda: {report})\n{code}", *arguments
    )
    assert result.returncode == 0, result.stderr
    return ast.literal_eval(result.stdout.rpartition("heavy: ")[2])


def test_importing_edgeprune_loads_neither_keras_nor_tensorflow():
    assert heavy_modules_after("import edgeprune") == []


def test_the_check_for_heavy_modules_can_fail():
    assert heavy_modules_after("sys.modules['keras'] = sys") == ["keras"]


def test_help_loads_neither_keras_nor_tensorflow():
    assert heavy_modules_after("from edgeprune.cli import main\nmain()", "--help") == []


def test_one_module_names_what_keras_does_not_publish():
    private = re.compile(r"(?<!tf_)keras" + r"\.src")
    sources = [ROOT / "conftest.py", ROOT / "setup.py"]
    for folder in ("edgeprune", "tests", "benchmarks", "devices"):
        sources += (ROOT / folder).rglob("*.py")
    naming = {source.name for source in sources if private.search(source.read_text("utf-8"))}
    assert naming == {"keras_internals.py"}


def test_rules_do_without_what_an_older_keras_does_not_have():
    code = """
import keras
from edgeprune.tracing.keras_internals import array_operations
lacking = {"Dstack", "AdaptiveMaxPooling2D", "RMSNormalization"}
for name in lacking:
    vars(array_operations).pop(name, None), vars(keras.layers).pop(name, None)
from edgeprune.tracing.rules import RULES
print(lacking & {known.__name__ for known in RULES})
"""
    result = run_python(code)
    assert result.stdout == "set()\n", result.stderr


@pytest.mark.parametrize("module", LIGHT_MODULES)
def test_light_modules_load_neither_keras_nor_tensorflow(module: str):
    assert heavy_modules_after(f"import edgeprune.{module}") == []


def run_light_install(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command where the packages of the extras do not exist."""
    without = f"import sys\nfor name in {NOT_IN_THE_LIGHT_INSTALL}: sys.modules[name] = None\n"
    return run_python(without + "from edgeprune.cli import main\nmain()", *arguments)


@pytest.mark.parametrize("command", ["--help", "targets", "--version"])
def test_the_light_install_runs(command: str):
    result = run_light_install(command)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip()
    assert result.stderr == ""


def test_the_light_install_says_which_extra_opens_models(tmp_path: Path):
    model = tmp_path / "model.keras"
    model.touch()
    result = run_light_install("inspect", str(model))
    assert result.returncode == 2, result.stderr
    (line,) = result.stderr.splitlines()
    assert line.startswith("Error: This command needs the extra 'tensorflow' (")
    assert line.endswith(" is not installed): pip install 'edgeprune[tensorflow]'")


def test_python_dash_m_is_the_command():
    result = subprocess.run(
        [sys.executable, "-m", "edgeprune", "--version"],
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert result.returncode == 0, result.stderr
    assert edgeprune.__version__ in result.stdout


@pytest.mark.parametrize("name", edgeprune.__all__)
def test_every_public_name_resolves_and_is_listed(name: str):
    assert getattr(edgeprune, name) is not None
    assert name in dir(edgeprune)


def test_no_module_shares_its_name_with_a_public_name():
    """Otherwise `edgeprune.name` would be the function once and the module ever after."""
    modules = {module.name for module in pkgutil.iter_modules(edgeprune.__path__)}
    assert modules, "no modules found"
    assert modules.isdisjoint(edgeprune.__all__)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'edgeprune' has no attribute 'prunes'"):
        _ = edgeprune.prunes


def imported_names(source: str) -> set[str]:
    """The top-level names that a source imports anywhere, its own folder's modules aside."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add(str(node.module).partition(".")[0])
    return names


def test_imports_inside_functions_are_seen():
    source = "import os.path\ndef load():\n    from keras.layers import Dense\nfrom . import x"
    assert imported_names(source) == {"os", "keras"}


def test_the_harness_needs_only_numpy_and_a_tflite_runtime():
    assert HARNESS, "no program in devices/harness"
    own = {path.stem for path in HARNESS} | {path.parent.name for path in HARNESS}
    allowed = set(sys.stdlib_module_names) | HARNESS_MAY_IMPORT | own
    foreign = {
        path.name: sorted(imported_names(path.read_text(encoding="utf-8")) - allowed)
        for path in HARNESS
    }
    assert {name: names for name, names in foreign.items() if names} == {}
