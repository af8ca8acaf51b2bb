"""One import place for the TensorFlow Lite runtimes, and a model that is ready to run."""

from __future__ import annotations

import hashlib
import os
from importlib import import_module, metadata
from types import ModuleType

import edgetpu
import numpy as np

RUNTIMES = (
    ("ai_edge_litert.interpreter", "ai-edge-litert"),
    ("tflite_runtime.interpreter", "tflite-runtime"),
)


def find_runtime() -> tuple[ModuleType, tuple[str, str]]:
    """Return the module of the Interpreter and the (name, version) of its distribution."""
    for name, distribution in RUNTIMES:
        try:
            module = import_module(name)
        except ModuleNotFoundError:
            continue
        return module, (distribution, metadata.version(distribution))
    raise ImportError("no TensorFlow Lite runtime is installed: pip install ai-edge-litert")


def check_file(path: str) -> dict:
    """Return name, size and hash of a model file; refuse what no runtime opens."""
    with open(path, "rb") as file:
        content = file.read()
    if content[4:8] != b"TFL3":
        raise ValueError(f"{path} is not a TensorFlow Lite model")
    return {
        "file": os.path.basename(path),
        "size_bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
    }


class Model:
    """An interpreter with its inputs filled once: only `run` is left to be timed.

    Attributes:
        delegate: what runs it in place of the CPU; None for the CPU.
    """

    def __init__(
        self,
        path: str,
        threads: int,
        accelerator: tuple[str, str] | None = None,
        content: bytes | None = None,
    ) -> None:
        """Open the file and allocate its tensors.

        Args:
            path: of the file.
            threads: of the runtime.
            accelerator: library and device of the Edge TPU, for a model that is compiled for it.
            content: of the model, where that is not in the file.
        """
        module, _ = find_runtime()
        self.path, self.delegate, delegates = path, None, []
        if accelerator:
            delegate, self.delegate = edgetpu.open_delegate(module.load_delegate, *accelerator)
            delegates.append(delegate)
        try:
            self._interpreter = module.Interpreter(
                model_path=None if content else path,
                model_content=content,
                num_threads=threads,
                experimental_delegates=delegates or None,
            )
            self._interpreter.allocate_tensors()
        except (RuntimeError, ValueError) as error:
            reason = str(error).strip()
            reason = edgetpu.explain_refusal(reason) if accelerator else reason
            raise ValueError(f"cannot open {path}: {reason}") from error
        self.run = self._run_there if accelerator else self._interpreter.invoke

    def _run_there(self) -> None:
        try:
            self._interpreter.invoke()
        except RuntimeError as error:
            raise RuntimeError(edgetpu.explain_loss(str(error))) from None

    @property
    def inputs(self) -> list[dict]:
        """Details of the inputs, as the runtime gives them."""
        return self._interpreter.get_input_details()

    @property
    def outputs(self) -> list[dict]:
        """Details of the outputs, likewise."""
        return self._interpreter.get_output_details()

    def fill_inputs(self) -> None:
        """Write the same plausible values into every input."""
        generator = np.random.default_rng(0)
        for details in self.inputs:
            self.set_input(details, sample(details, generator))

    def set_input(self, details: dict, values: np.ndarray) -> None:
        """Write one input."""
        self._interpreter.set_tensor(details["index"], values)

    def read_outputs(self) -> list[np.ndarray]:
        """Return copies of all outputs."""
        details = self._interpreter.get_output_details()
        return [self._interpreter.get_tensor(entry["index"]) for entry in details]

    def digest_outputs(self) -> str:
        """Return the hash of all outputs, byte by byte."""
        digest = hashlib.sha256()
        for output in self.read_outputs():
            digest.update(np.ascontiguousarray(output).tobytes())
        return digest.hexdigest()


def sample(details: dict, generator: np.random.Generator) -> np.ndarray:
    """Return plausible values: dense kernels take the same time for all but denormal numbers."""
    shape, dtype = details["shape"], np.dtype(details["dtype"])
    if dtype.kind == "f":
        return generator.uniform(0.0, 1.0, shape).astype(dtype)
    if dtype in (np.int8, np.uint8, np.int16):
        limits = np.iinfo(dtype)
        return generator.integers(limits.min, limits.max, shape, dtype, endpoint=True)
    return np.zeros(shape, dtype)
