"""The log of the Edge TPU compiler, and a compiler of our own in its place."""

from __future__ import annotations

import os
import shlex
import sys
import time
from pathlib import Path

import pytest
import small_models

from edgeprune.tflite import convert
from edgeprune.tflite.edgetpu import compile_model, compiler_command, find_compiler, parse_log
from edgeprune.tflite.metadata import read_files

WHOLE = """Edge TPU Compiler version 16.0.384591198
Started a compilation timeout timer of 180 seconds.

Model compiled successfully in 3129 ms.

Input model: deeplab.tflite
Input size: 743.07KiB
Output model: deeplab_edgetpu.tflite
Output size: 909.17KiB
On-chip memory used for caching model parameters: 4.49MiB
On-chip memory remaining for caching model parameters: 3.18MiB
Off-chip memory used for streaming uncached model parameters: 0.00B
Number of Edge TPU subgraphs: 1
Total number of operations: 36
Operation log: deeplab_edgetpu.log

Model successfully compiled but not all operations are supported by the Edge TPU. A percentage of \
the model will instead run on the CPU, which is slower.
Number of operations that will run on Edge TPU: 2
Number of operations that will run on CPU: 34

Operator                       Count      Status

CONV_2D                        1          Mapped to Edge TPU
CONV_2D                        12         More than one subgraph is not supported
QUANTIZE                       1          Mapped to Edge TPU
ADD                            9          More than one subgraph is not supported
HARD_SWISH                     3          Operation not supported
DEQUANTIZE                     8          Operation is working on an unsupported data type
RESIZE_BILINEAR                2          Tensor has unsupported rank (up to 3 innermost \
dimensions mapped)
Compilation child process completed within timeout period.
Compilation succeeded!
"""


def test_a_whole_log_is_read() -> None:
    log = parse_log(WHOLE)
    assert log.version == "16.0.384591198"
    assert log.succeeded and log.failure is None
    assert (log.milliseconds, log.subgraphs) == (3129, 1)
    assert log.on_chip_bytes == round(4.49 * 2**20)
    assert log.off_chip_bytes == 0
    assert (log.on_tpu, log.on_cpu) == (2, 34)
    rows = [(row.operator, row.count, row.status, row.mapped) for row in log.operators]
    assert rows[0] == ("CONV_2D", 1, "Mapped to Edge TPU", True)
    assert rows[1] == ("CONV_2D", 12, "More than one subgraph is not supported", False)
    assert rows[-1][2] == "Tensor has unsupported rank (up to 3 innermost dimensions mapped)"
    assert len(rows) == 7
    assert sum(count for _, count, *_ in rows) == 36


def test_the_table_counts_where_the_summary_does_not() -> None:
    log = parse_log(
        "Operator  Count  Status\n\nCONV_2D  5  Mapped to Edge TPU\nSOFTMAX  1  Operation is "
        "otherwise supported, but not mapped due to some unspecified limitation\n"
    )
    assert (log.on_tpu, log.on_cpu) == (5, 1)
    assert not log.succeeded


def test_the_same_table_on_the_terminal_and_in_the_file_counts_once() -> None:
    row = "CONV_2D  5  Mapped to Edge TPU\n"
    assert parse_log(row + "\n" + row).on_tpu == 5


@pytest.mark.parametrize(
    ("size", "number"), [("512.00B", 512), ("9.00KiB", 9216), ("1.50MiB", 1572864)]
)
def test_sizes_are_read_in_every_unit(size, number) -> None:
    text = f"Off-chip memory used for streaming uncached model parameters: {size}"
    assert parse_log(text).off_chip_bytes == number


@pytest.mark.parametrize(
    "failure",
    [
        "Internal compiler error. Aborting!",
        "Model not quantized",
        "Invalid model: broken.tflite",
        "ERROR: Didn't find op for builtin opcode 'CONV_2D' version '9'",
        "Compilation failed due to large activation tensors in model.",
    ],
)
def test_every_known_failure_is_one(failure) -> None:
    log = parse_log(f"Edge TPU Compiler version 16.0.384591198\n{failure}\n")
    assert log.failure == failure
    assert not log.succeeded
    assert log.on_chip_bytes is None


@pytest.mark.parametrize("text", ["", "\0\ufffd%s", "CONV_2D\n12\n", "compiled", "   7 8 9"])
def test_garbage_says_nothing(text) -> None:
    log = parse_log(text)
    assert log == parse_log("")
    assert log.operators == ()


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("compiler") / "model.tflite"
    convert(
        small_models.classifier(), calibration=small_models.samples(10),
        labels=["cat", "dog", "fox"], path=path,
    )  # fmt: skip
    return path


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Put a Python program on the PATH as the compiler."""

    def put(body: str) -> None:
        program = tmp_path / "bin" / "edgetpu_compiler"
        program.parent.mkdir()
        program.write_text(
            f"#!{sys.executable}\nimport os, pathlib, sys, time\n"
            "out, source = sys.argv[sys.argv.index('-o') + 1], pathlib.Path(sys.argv[-1])\n"
            "made = pathlib.Path(out, source.stem + '_edgetpu.tflite')\n" + body
        )
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")

    return put


@pytest.fixture
def out(tmp_path) -> Path:
    folder = tmp_path / "out"
    folder.mkdir()
    return folder


COMPILE = "made.write_bytes(source.read_bytes().replace(b'PK', b'--'))\n"


def test_without_a_compiler_there_is_the_command_to_run(model, out, monkeypatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert find_compiler() is None
    found = compile_model(model, out, delivered=Path("my models"))
    assert shlex.split(found.command) == [
        "edgetpu_compiler", "-s", "-o", "my models", "my models/model.tflite"
    ]  # fmt: skip
    assert (found.compiler, found.file, found.failure, found.log) == (None, None, None, None)
    assert compiler_command("a.tflite", "b") == "edgetpu_compiler -s -o b a.tflite"


def test_a_compiled_model_comes_with_its_log_and_labels(model, out, install) -> None:
    install(f"{COMPILE}print('''{WHOLE}''')\n")
    found = compile_model(model, out)
    assert found.failure is None
    assert found.file == "model_edgetpu.tflite"
    assert [path.name for path in out.iterdir()] == ["model_edgetpu.tflite"]
    assert (found.log.on_tpu, found.log.on_cpu) == (2, 34)
    assert "Model compiled successfully" in found.output
    made = read_files((out / "model_edgetpu.tflite").read_bytes())
    assert made["labels.txt"] == "cat\ndog\nfox\n", "the compiler may drop what is attached"


def test_the_table_is_also_read_from_the_file_beside_the_model(model, out, install) -> None:
    row = "CONV_2D  5  Mapped to Edge TPU"
    install(f"{COMPILE}made.with_suffix('.log').write_text('{row}')\nprint('Model compiled')\n")
    assert compile_model(model, out).log.on_tpu == 5


@pytest.mark.parametrize(
    ("body", "failure"),
    [
        (COMPILE + "sys.exit(3)\n", "exit code 3"),
        ("print('Internal compiler error. Aborting!')\nsys.exit(1)\n", "Internal compiler error."),
        (COMPILE + "print('Model not quantized')\n", "Model not quantized"),
        ("print('Model compiled successfully in 1 ms.')\n", "it wrote no model 'model_edgetpu"),
        ("made.write_text('not a model')\n", "it wrote no model 'model_edgetpu.tflite'"),
        ("sys.stdout.buffer.write(bytes(range(256)))\nos.abort()\n", "exit code -6"),
    ],
)
def test_a_failure_leaves_nothing_and_says_why(model, out, install, body, failure) -> None:
    install(body)
    found = compile_model(model, out)
    assert found.failure.startswith(failure)
    assert found.file is None
    assert list(out.iterdir()) == []


def test_a_compiler_that_hangs_is_ended_with_its_children(model, out, install, tmp_path) -> None:
    note = tmp_path / "child"
    install(
        "if os.fork() == 0:\n"
        f"    pathlib.Path({str(note)!r}).write_text(str(os.getpid()))\n"
        "time.sleep(600)\n"
    )
    found = compile_model(model, out, seconds=5)
    assert found.failure == "it was not done after 5 s and was ended"
    assert list(out.iterdir()) == []
    child = int(note.read_text())
    for _ in range(12_000):
        if not _runs(child):
            return
        time.sleep(0.05)
    pytest.fail("its child is still running")


def _runs(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_compiler_that_cannot_be_started_is_a_failure(model, out, install, tmp_path) -> None:
    install("")
    program = tmp_path / "bin" / "edgetpu_compiler"
    program.write_text("#!/no/such/interpreter\n")
    assert compile_model(model, out).failure == "it cannot be started: No such file or directory"
