"""The face of the command line: help, tables, JSON, silence, progress."""

from __future__ import annotations

import dataclasses
import inspect
import io
import json
import os
import pty
import re
import subprocess
import sys
import time
from pathlib import Path

import click
import numpy as np
import pytest
from click.testing import CliRunner
from specialists import NUM_TRAIN, digits, make_classifier, run_command, save_digits

import edgeprune
from edgeprune.allocation import ALLOCATIONS
from edgeprune.boards import list_targets
from edgeprune.cli.commands import edgeprune as command_group
from edgeprune.cli.terminal import TerminalProgress, show
from edgeprune.pruning.methods import METHODS
from edgeprune.recovery import RECOVERIES
from edgeprune.report.tables import describe_values
from edgeprune.scoring.criteria import CRITERIA
from edgeprune.support.progress import showing, stage

COMMANDS = """
    build inspect prune check sensitivity convert compile bench calibrate demo methods targets
""".split()
QUICK = "--recovery none --recalibrate off --effort fast --calibration 20"


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("place")
    model = make_classifier()
    model.save(folder / "model.keras")
    save_digits(folder / "digits.npz")
    for number, scheme in enumerate(("float32", "dynamic")):
        (folder / str(number)).mkdir()
        edgeprune.convert(model, scheme=scheme, path=folder / str(number) / "model.tflite")
    return folder


def test_help_lists_the_commands_in_the_order_of_work() -> None:
    answer = run_command("--help")
    assert answer.code == 0
    listed = answer.out.split("Commands:\n")[1].split("\n\n")[0].splitlines()
    assert [line.split()[0] for line in listed] == COMMANDS
    assert not any(line.endswith("...") for line in listed)
    assert "edgeprune build model.keras --data photos/ --classes cat,dog,fox" in answer.out


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_says_what_it_is_and_what_it_is_by_default(name: str) -> None:
    command = command_group.commands[name]
    answer = run_command(name, "--help")
    assert "x>=" not in answer.out
    assert max(map(len, answer.out.splitlines())) <= 100
    context = click.Context(command, parent=click.Context(command_group, show_default=True))
    for option in command.params:
        if not isinstance(option, click.Option) or option.is_flag or option.hidden:
            continue
        _, text = option.get_help_record(context)
        optional = option.name in ("weights", "labels", "target", "data")
        assert len(text) > 15, option.name
        assert "[default: " in text or "[required]" in text or optional, option.name


@pytest.mark.parametrize("name", ["build", "inspect", "prune", "convert", "bench", "demo"])
def test_every_command_that_works_has_an_example_that_can_be_parsed(name: str) -> None:
    examples = [
        line.split()
        for line in run_command(name, "--help").out.splitlines()
        if line.startswith(f"    edgeprune {name}")
    ]
    assert examples
    for _, _, *arguments in examples:
        command = command_group.commands[name]
        assert command.make_context(name, list(arguments), resilient_parsing=False)


def test_defaults_on_the_command_line_are_those_of_python() -> None:
    def defaults(name: str) -> dict:
        params = command_group.commands[name].params
        return {option.name: option.default for option in params if option.name != "model"}

    def plain(value: object) -> object:
        """Return what click shows for a default that is unset as Python shows it."""
        return value if isinstance(value, (str, int, float, list, tuple)) else None

    def as_part(part: object, given: dict, **renamed: str) -> None:
        for field in dataclasses.fields(part):
            option = renamed.get(field.name, field.name)
            if option in given:
                assert plain(given[option]) == getattr(part, field.name), field.name

    build, prune = defaults("build"), defaults("prune")
    pruning = {"recalibration": "recalibrate", "search_seconds": "time_limit"}
    as_part(edgeprune.Pruning(), build, **pruning)
    as_part(edgeprune.Data("x"), build, source="")
    as_part(edgeprune.Export(), build, scheme="quantize", quantization="")
    as_part(edgeprune.Measurement(), build, until_met="", latency="")
    in_python = inspect.signature(edgeprune.build).parameters
    assert (build["target"], build["out"]) == (
        in_python["target"].default, in_python["out"].default
    )  # fmt: skip
    as_part(edgeprune.Pruning(), prune, **pruning)
    for command, function in ((build, edgeprune.build), (prune, edgeprune.prune)):
        parameters = inspect.signature(function).parameters
        assert list(command["budget"]) == [parameters["budget"].default]
        assert command["effort"] == parameters["training"].default


def test_click_tools_can_run_the_commands_too() -> None:
    result = CliRunner().invoke(command_group, ["targets", "--json"])
    assert result.exit_code == 0
    assert {entry["name"] for entry in json.loads(result.stdout)} >= {"rpi4", "rpi5"}


def test_targets_are_listed_whole() -> None:
    table = run_command("targets").out
    for target in list_targets():
        assert target.name in table
    listed = json.loads(run_command("targets", "--json").out)
    assert [entry["name"] for entry in listed] == [target.name for target in list_targets()]


def test_methods_are_what_the_registries_hold() -> None:
    """They are read from the sources, to be quick; importing is the oracle."""
    listed = json.loads(run_command("methods", "--json").out)
    registries = {"criteria": CRITERIA, "allocations": ALLOCATIONS, "recoveries": RECOVERIES}
    for kind, registry in registries.items():
        assert list(listed[kind]) == list(registry)
        for name, function in registry.items():
            first_line = inspect.getdoc(function).splitlines()[0]
            assert listed[kind][name].startswith(first_line)
            assert "Args:" not in listed[kind][name]
    table = run_command("methods").out
    assert list(listed["methods"]) == list(METHODS)
    for name, method in METHODS.items():
        assert listed["methods"][name].startswith(f"{method.summary} {method.source} (criterion ")
    assert all(name in table for name in [*METHODS, *CRITERIA, *ALLOCATIONS, *RECOVERIES])


def test_inspect_shows_groups_and_locks(place: Path) -> None:
    answer = run_command("inspect", place / "model.keras")
    assert answer.code == 0, answer.err
    for text in ("first", "second", "head", "softmax", "80 of 91 channels can be removed."):
        assert text in answer.out
    listed = json.loads(run_command("inspect", place / "model.keras", "--json").out)
    by_name = {group["name"]: group for group in listed["groups"]}
    assert (by_name["first"]["width"], by_name["second"]["width"]) == (16, 64)
    assert by_name["second"]["consumers"] == ["head"]
    assert by_name["head"]["locked"]
    assert listed["params"] == make_classifier().count_params()


def test_inspect_is_readable_at_80_columns_and_draws(
    place: Path, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    picture = tmp_path / "model.dot"
    answer = run_command("inspect", place / "model.keras", "--picture", picture)
    assert answer.code == 0, answer.err
    assert max(map(len, answer.out.splitlines())) <= 80
    assert "locked: normalised over by softmax" in answer.out
    assert "digraph" in picture.read_text()


def test_prune_writes_a_model_and_its_plan(place: Path, tmp_path: Path) -> None:
    import keras

    command = f"prune {place}/model.keras --data {place}/digits.npz --classes 8,3 --budget macs=40%"
    answer = run_command(*f"{command} {QUICK} --json --out {tmp_path}/slim.keras".split())
    assert answer.code == 0, answer.err
    result = json.loads(answer.out)
    assert {path.name for path in tmp_path.iterdir()} == {"slim.keras", "slim.plan.json"}
    model = keras.models.load_model(result["model"])
    plan = edgeprune.Plan.load(result["plan"])
    assert model.output_shape == (None, 2)
    assert model.get_layer("second").filters == len(plan.keep["second"])
    assert (plan.classes, result["classes"]) == ((8, 3), ["eight", "three"])
    assert result["params"]["after"] == model.count_params()
    assert result["macs"]["after"] <= 0.4 * result["macs"]["before"]
    table = run_command(*f"{command} {QUICK} --out {tmp_path}/slim.keras".split()).out
    assert f"{result['macs']['before']:,} -> {result['macs']['after']:,}" in table
    assert "eight, three" in table


def test_convert_takes_a_specialist_with_the_data_of_all_classes(
    place: Path, tmp_path: Path
) -> None:
    from edgeprune.tflite.runtime import TFLiteModel

    command = f"prune {place}/model.keras --data {place}/digits.npz --classes 8,3 --budget macs=90%"
    options = [*QUICK.split(), "--quiet", "--out", tmp_path / "slim.keras"]
    assert run_command(*command.split(), *options).code == 0
    (tmp_path / "labels.txt").write_text("\ufeffeight\nthree\n", encoding="utf-8")
    command = f"convert {tmp_path}/slim.keras --data {place}/digits.npz --io int8 --json"
    command += f" --labels {tmp_path}/labels.txt --out {tmp_path}/slim.tflite"
    answer = run_command(*command.split())
    assert answer.code == 0, answer.err
    result = json.loads(answer.out)
    lost = {name: result.pop(name) for name in ("loss_on_samples", "worst_layers", "ranges")}
    assert all(lost.values())
    assert result == {
        "file": f"{tmp_path}/slim.tflite",
        "quantize": "int8",
        "input": "int8",
        "io": "int8",
        "float_layers": "none",
        "size_bytes": (tmp_path / "slim.tflite").stat().st_size,
    }
    model = TFLiteModel(tmp_path / "slim.tflite")
    assert model.labels == ("eight", "three")
    x, y = (part[NUM_TRAIN:] for part in digits())
    kept = np.isin(y, (8, 3))
    answers = np.array([8, 3])[model.predict(x[kept].astype(np.float32)).argmax(-1)]
    assert (answers == y[kept]).mean() > 0.9


def test_bench_measures_models_of_the_same_name(place: Path, monkeypatch) -> None:
    """As builds leave them, each in its folder."""
    monkeypatch.chdir(place)
    models = ["0/model.tflite", "1/model.tflite"]
    command = ["bench", *models, "--seconds", "0.1", "--runs", "20", "--threads", "1"]
    answer = run_command(*command)
    assert answer.code == 0, answer.err
    assert all(answer.out.count(model) == 2 for model in models)
    for text in (
        "p50",
        "p90",
        "p99",
        "first run, ms",
        "peak memory, MiB",
        "1 thread,",
    ):
        assert text in answer.out
    measured = json.loads(run_command(*command, "--json", "--quiet").out)["measurements"]
    assert [entry["model"] for entry in measured] == models
    assert all(entry["threads"] == 1 and entry["count"] == 20 for entry in measured)


@pytest.mark.parametrize("options", [["--json"], ["--json", "--quiet"], ["--quiet"]])
def test_only_the_result_is_on_stdout(
    place: Path, tmp_path: Path, monkeypatch, capfd, options: list[str]
) -> None:
    """Whatever a function of the user prints, or a library that downloads, or writes from C."""
    (tmp_path / "talking.py").write_text(
        "import os, warnings\n"
        "def scale(batch):\n"
        "    print('I was called')\n"
        "    os.write(2, b'Created device GPU:0')\n"
        "    warnings.warn('batches are small')\n"
        "    return batch\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    command = (
        f"build {place}/model.keras --data {place}/digits.npz --classes 1,2 --no-bench {QUICK}"
    )
    answer = run_command(*command.split(), "--preprocess", "talking:scale", *options)
    assert answer.code == 0, answer.err
    assert "batches are small" not in answer.err
    assert capfd.readouterr() == ("", "")
    if "--json" in options:
        report = (tmp_path / "edgeprune-output" / "report.json").read_text()
        assert json.loads(answer.out) == json.loads(report)
    else:
        assert answer.out == ""
    if "--quiet" in options:
        assert answer.err == ""
    else:
        assert "I was called" in answer.err
        assert "converting to int8" in answer.err


def test_warnings_about_the_data_are_shown_even_when_quiet(place: Path, tmp_path: Path) -> None:
    """The wrong scaling."""
    command = f"build {place}/model.keras --data {place}/digits.npz --preprocess symmetric --quiet"
    answer = run_command(*command.split(), *QUICK.split(), "--no-bench", "--out", tmp_path / "out")
    assert (answer.code, answer.out) == (0, "")
    assert "Warning: " in answer.err
    assert "it was trained with raw, or with something close to it." in answer.err
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert all(f"Warning: {text}" in answer.err for text in report["warnings"])


def test_names_are_shown_as_they_are(capsys) -> None:
    values = {"classes": ["[bold]", ":cat:", "[/]"]}
    show(lambda: values, lambda: describe_values(values), as_json=False, quiet=False)
    assert capsys.readouterr().out.split() == ["classes", "[bold],", ":cat:,", "[/]"]


def test_a_board_measures_without_keras_and_what_it_needs(place: Path) -> None:
    """What `pip install edgeprune[device]` brings is click, NumPy, rich and a runtime."""
    missing = ("keras", "tensorflow", "tf_keras", "h5py", "scipy", "sklearn", "PIL")
    code = f"import sys\nfor name in {missing}: sys.modules[name] = None\n"
    code += "from edgeprune.cli import main; main()"
    command = ["bench", f"{place}/0/model.tflite", "--seconds", "0.1", "--runs", "10", "--json"]
    result = subprocess.run(
        [sys.executable, "-c", code, *command], capture_output=True, text=True, timeout=600
    )
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["measurements"][0]["count"] == 10


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_shows_bars_and_keeps_a_line_per_stage(monkeypatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    with showing(TerminalProgress()), stage("counting", 3) as advance, stage("waiting"):
        for _ in range(2):
            advance()
        time.sleep(0.15)
    shown = screen.getvalue()
    assert "counting" in shown and "waiting" in shown
    assert "2/3" in shown
    assert "0/1" not in shown and "None" not in shown
    kept = [line for line in shown.split("\n") if re.search(r"  counting +\d+\.\d s", line)]
    assert len(kept) == 1


def test_a_pipe_gets_lines_without_escapes(monkeypatch) -> None:
    pipe = io.StringIO()
    monkeypatch.setattr(sys, "stderr", pipe)
    with showing(TerminalProgress()), stage("counting", 3) as advance:
        time.sleep(0.06)
        with stage("inner"):
            time.sleep(0.06)
        advance()
    lines = pipe.getvalue().splitlines()
    assert len(lines) == 1
    assert lines[0].split()[0] == "counting" and lines[0].endswith(" s")


def test_the_result_on_a_terminal_has_no_remains_of_the_bars(place: Path) -> None:
    """Seen as a terminal shows it: the last state of every line."""
    output = run_on_terminal(
        "bench", f"{place}/0/model.tflite", "--seconds", "0.2", "--threads", "1"
    )
    lines = [line.split("\x1b[2K")[-1] for line in output.replace("\r\n", "\n").split("\n")]
    assert any("Latency, ms per inference" in line for line in lines)
    assert "benchmark" in output
    assert output.rstrip().endswith("interleaved.")


def run_on_terminal(*arguments: str) -> str:
    main, side = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "edgeprune", *arguments],
        stdin=side,
        stdout=side,
        stderr=side,
        env=os.environ | {"TERM": "xterm", "COLUMNS": "80"},
        close_fds=True,
    )
    os.close(side)
    output = b""
    while True:
        try:
            part = os.read(main, 4096)
        except OSError:  # Linux says so when the other side is closed
            break
        if not part:
            break
        output += part
    os.close(main)
    assert process.wait(timeout=600) == 0, output
    return output.decode()


def test_nothing_but_ours_is_said_in_a_process_of_its_own(place: Path, tmp_path: Path) -> None:
    """TensorFlow greets while it is imported, which happens once per process."""
    command = (
        f"build {place}/model.keras --data {place}/digits.npz --classes 1,2 {QUICK} --no-bench"
    )
    result = subprocess.run(
        [sys.executable, "-m", "edgeprune", *command.split(), "--out", str(tmp_path / "out")],
        capture_output=True,
        text=True,
        timeout=600,
        env={k: v for k, v in os.environ.items() if not k.startswith("TF_")},
    )
    assert result.returncode == 0, result.stderr
    lines = result.stderr.splitlines()
    assert lines[0].split(",")[0] == "  starting TensorFlow"
    assert all(re.fullmatch(r"  .*\d s(  task: .*)?", line) for line in lines), result.stderr
    assert result.stdout.startswith("Accuracy on test samples (measured)")


def test_a_reader_that_stops_early_is_no_error() -> None:
    """`edgeprune targets --json | head -1`."""
    code = (
        "import os, sys\n"
        "reading, writing = os.pipe()\n"
        "os.dup2(writing, 1); os.close(writing); os.close(reading)\n"
        "from edgeprune.cli import main; main(['targets', '--json'])"
    )
    result = subprocess.run([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True)
    assert result.stderr == ""
    assert result.returncode == 1


def test_the_demonstration_ends_with_its_table_and_files(tmp_path: Path, monkeypatch) -> None:
    """With a network that needs no training; the real one has tests of its own."""
    monkeypatch.setattr(
        "edgeprune.cli.demonstration.train_digits_model", lambda seed, on_epoch: make_classifier()
    )
    answer = run_command("demo", "--out", tmp_path / "demo")
    assert answer.code == 0, answer.err
    for text in ("MACs", "parameters", "size, bytes", "latency p50, ms", "original, kept classes"):
        assert text in answer.out
    *_, listed = answer.out.partition("Files in ")
    files = {path.name for path in (tmp_path / "demo").iterdir()}
    assert len(files) == 7
    assert files <= set(listed.split())
    report = json.loads((tmp_path / "demo" / "report.json").read_text())
    assert report["classes"] == ["3", "5", "8"]
    assert report["accuracy"]["tflite"] > 0.9
    assert report["command"] == f"edgeprune demo --out {tmp_path}/demo"
