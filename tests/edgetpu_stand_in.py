"""The stand-in for libedgetpu (edgetpu_stand_in.c) and for its compiler; neither is an Edge TPU.

As a program it is the compiler: the whole model becomes one operator, for which the stand-in has
the answers of the CPU to the inputs that the harness makes up.
"""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import sys
import zlib
from collections.abc import Iterable
from pathlib import Path

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter

OPERATOR = b"edgetpu-custom-op"
SOURCE = Path(__file__).with_suffix(".c")
WORDS = "libedgetpu.so.1 (stand-in, no Edge TPU)"


def why_there_is_none() -> str | None:
    """Say why it cannot be built here, or None."""
    return None if shutil.which("gcc") else "no gcc is installed"


def build(folder: Path) -> Path:
    """Compile the library; it has the name of the real one."""
    library = folder / "libedgetpu.so.1"
    flags = ["-std=c11", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
    subprocess.run(["gcc", *flags, "-o", str(library), str(SOURCE)], check=True)
    return library


def made_up_inputs(model: bytes) -> np.ndarray:
    """Return what the harness gives a model of one input."""
    (details,) = _open(model).get_input_details()
    generator, dtype = np.random.default_rng(0), np.dtype(details["dtype"])
    if dtype.kind == "f":
        return generator.uniform(0.0, 1.0, details["shape"]).astype(dtype)
    limits = np.iinfo(dtype)
    return generator.integers(limits.min, limits.max, details["shape"], dtype, endpoint=True)


def answer(model: bytes, inputs: np.ndarray) -> np.ndarray:
    """Return what a model answers on the CPU."""
    interpreter = _open(model)
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], inputs)
    interpreter.invoke()
    return interpreter.get_tensor(interpreter.get_output_details()[0]["index"])


def write_answers(path: Path, compiled: bytes, twin: bytes, samples: Iterable[np.ndarray]) -> None:
    """Add the twin's answers to the file that the stand-in reads."""
    key = zlib.crc32(bytes(_parse(compiled).subgraphs[0].operators[0].customOptions))
    with path.open("ab") as file:
        for sample in samples:
            output = answer(twin, sample).tobytes()
            file.write(struct.pack("<II", zlib.crc32(sample.tobytes(), key), len(output)) + output)


def compile_whole(model: bytes) -> bytes:
    """Return a model whose one operator is the given one."""
    parsed = _parse(model)
    graph = parsed.subgraphs[0]
    ends = [graph.tensors[index] for index in (*graph.inputs, *graph.outputs)]
    for tensor in ends:
        tensor.buffer = 0
    count = len(graph.inputs)
    operator = schema.OperatorT(
        opcodeIndex=0,
        inputs=list(range(count)),
        outputs=list(range(count, len(ends))),
        customOptions=np.frombuffer(struct.pack("<I", zlib.crc32(model)), np.uint8),
    )
    graph.tensors, graph.operators = ends, [operator]
    graph.inputs, graph.outputs = operator.inputs, operator.outputs
    code = schema.BuiltinOperator.CUSTOM
    parsed.operatorCodes = [
        schema.OperatorCodeT(deprecatedBuiltinCode=code, builtinCode=code, customCode=OPERATOR)
    ]
    parsed.buffers, parsed.metadata, parsed.signatureDefs = [schema.BufferT()], None, None
    builder = flatbuffers.Builder(1024)
    builder.Finish(parsed.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def install_compiler(folder: Path) -> None:
    """Put this file into a folder as `edgetpu_compiler`."""
    program = folder / "edgetpu_compiler"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{Path(__file__)}" "$@"\n')
    program.chmod(0o755)


def _parse(content: bytes) -> schema.ModelT:
    return schema.ModelT.InitFromObj(schema.Model.GetRootAs(content, 0))


def _open(model: bytes) -> Interpreter:
    interpreter = Interpreter(model_content=model)
    interpreter.allocate_tensors()
    return interpreter


if __name__ == "__main__":
    place = sys.argv.index("-o") + 1
    for source in map(Path, sys.argv[place + 1 :]):
        content = source.read_bytes()
        made = compile_whole(content)
        answers = Path(os.environ["STAND_IN_ANSWERS"])
        write_answers(answers, made, content, [made_up_inputs(content)])
        Path(sys.argv[place], f"{source.stem}_edgetpu.tflite").write_bytes(made)
    print("Edge TPU Compiler version 16.0.384591198\nModel compiled successfully in 12 ms.")
    print("Number of operations that will run on Edge TPU: 1")
