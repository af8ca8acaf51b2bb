from __future__ import annotations

from rich.console import Console

from edgeprune.report.compatibility_report import describe_compilation
from edgeprune.tflite.edgetpu import Compilation, parse_log

COMMAND = "edgetpu_compiler -s -o out out/model.tflite"


def render(compilation: Compilation, obstacles: int = 0) -> str:
    console = Console(width=300)
    edgetpu = {
        "compilation": compilation.to_dict(),
        "expected": {"obstacles": [{}] * obstacles},
    }
    with console.capture() as captured:
        console.print(describe_compilation(edgetpu))
    return captured.get()


def test_without_a_compiler_the_command_is_there_to_be_copied() -> None:
    assert render(Compilation(COMMAND)) == (
        "Edge TPU: every operator between input and output is expected to be mapped. "
        "edgetpu_compiler is not on the PATH; on x86-64 Linux run\n"
        f"  {COMMAND}\n"
    )
    assert "2 kept off it; see `edgeprune check`" in render(Compilation(COMMAND), obstacles=2)


def test_a_failure_says_why_and_what_to_run() -> None:
    text = render(Compilation(COMMAND, "/bin/edgetpu_compiler", failure="exit code 3"))
    assert text.startswith("Edge TPU: edgetpu_compiler failed: exit code 3.")
    assert text.endswith(f"\n  {COMMAND}\n")


def test_success_says_what_was_mapped_and_where_parameters_are() -> None:
    log = parse_log(
        "Edge TPU Compiler version 16.0.384591198\n"
        "On-chip memory used for caching model parameters: 4.50MiB\n"
        "Off-chip memory used for streaming uncached model parameters: 0.00B\n"
        "Number of operations that will run on Edge TPU: 31\n"
        "Number of operations that will run on CPU: 2\n"
    )
    compilation = Compilation(COMMAND, "/bin/edgetpu_compiler", file="m.tflite", log=log)
    assert render(compilation) == (
        "Edge TPU: compiled by edgetpu_compiler 16.0.384591198, 31 operators mapped, 2 on the CPU, "
        "4.50 MiB on-chip, 0.00 MiB off-chip.\n"
    )
    silent = Compilation(COMMAND, "/bin/edgetpu_compiler", file="m.tflite", log=parse_log(""))
    assert render(silent) == "Edge TPU: compiled by edgetpu_compiler.\n"
