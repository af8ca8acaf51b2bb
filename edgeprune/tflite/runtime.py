"""Run a `.tflite` on this machine through whichever TensorFlow Lite runtime is installed."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np

from edgeprune.errors import DataError, EdgepruneError, ModelError
from edgeprune.support.files import read_tflite
from edgeprune.support.progress import stage
from edgeprune.support.standard_error import captured_stderr
from edgeprune.tflite.metadata import read_labels, read_preprocessing

# Module and distribution, the lightest first: TensorFlow is the last resort.
_CANDIDATES = (
    ("ai_edge_litert.interpreter", "ai-edge-litert"),
    ("tflite_runtime.interpreter", "tflite-runtime"),
    ("tensorflow.lite", "tensorflow"),
)

Samples = np.ndarray | Sequence[np.ndarray] | Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Runtime:
    """An installed TensorFlow Lite runtime.

    Attributes:
        name: of the distribution, as pip knows it.
        version: of the distribution.
        interpreter: its Interpreter class.
    """

    name: str
    version: str
    interpreter: Any

    def __str__(self) -> str:
        return f"{self.name} {self.version}"


@cache
def find_runtime() -> Runtime:
    """Return ai-edge-litert, else tflite-runtime, else the interpreter inside TensorFlow.

    Raises:
        EdgepruneError: none of them can be imported; says why for each that is installed.
    """
    broken = []
    for module, distribution in _CANDIDATES:
        try:
            interpreter = import_module(module).Interpreter
            return Runtime(distribution, version(distribution), interpreter)
        except (ModuleNotFoundError, PackageNotFoundError):
            continue
        except (ImportError, AttributeError, OSError) as error:
            broken.append(f"{distribution} does not load ({error})")
    found = "; ".join(broken) or "found none of " + ", ".join(name for _, name in _CANDIDATES)
    if re.search("map segment|allocate memory", found):
        raise EdgepruneError(f"There is too little memory to load a runtime: {found}.")
    raise EdgepruneError(f"No TensorFlow Lite runtime: {found}. pip install ai-edge-litert")


@dataclass(frozen=True)
class Tensor:
    """An input or output of a model.

    Attributes:
        name: in the signature, or of the tensor where the file has no signature.
        shape: with the batch.
        dtype: what the runtime reads or writes.
        scale: real = (integer - zero_point) * scale; 0 where the tensor is not quantized.
        zero_point: see scale.
        index: of the tensor inside the runtime.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    scale: float
    zero_point: int
    index: int

    def quantize(self, real: np.ndarray) -> np.ndarray:
        """Turn real numbers into what the runtime reads: rounded, and clipped to the range."""
        if not self.scale:
            return real.astype(self.dtype)
        limits = np.iinfo(self.dtype)
        integers = np.rint(real / np.float32(self.scale)) + self.zero_point
        return np.clip(integers, limits.min, limits.max).astype(self.dtype)

    def dequantize(self, stored: np.ndarray) -> np.ndarray:
        """Turn what the runtime wrote into real numbers."""
        if not self.scale:
            return stored
        return (stored.astype(np.float32) - self.zero_point) * np.float32(self.scale)


class TFLiteModel:
    """A `.tflite` that answers in real numbers, whatever the types of its inputs and outputs.

    Args:
        model: path or content of a `.tflite` with a batch of one.
        threads: of the runtime.

    Attributes:
        inputs: in the order of the file; edgeprune writes them in the order of the Keras model.
        outputs: likewise.
        labels: class names that travel with the model; empty where there are none.
        takes_bytes: whether the scaling of samples is inside, so that it takes them as stored.
        runtime: what runs it.

    Raises:
        ModelError: not a TensorFlow Lite file, compiled for the Edge TPU, damaged, or with a batch
            that is not one.
        EdgepruneError: no runtime is installed.

    Example:
        >>> model = TFLiteModel("model.tflite", threads=2)       # doctest: +SKIP
        >>> model.labels                                          # doctest: +SKIP
        ('cat', 'dog', 'fox')
        >>> model.predict(images).shape                           # doctest: +SKIP
        (100, 3)
    """

    def __init__(self, model: str | os.PathLike[str] | bytes, *, threads: int = 1) -> None:
        content, name = (model, "the model") if isinstance(model, bytes) else _read(model)
        check_content(content, name)
        self.runtime = find_runtime()
        self.labels = read_labels(content)
        self.takes_bytes = read_preprocessing(content).get("inside") is True
        self.threads = threads
        try:
            with captured_stderr():
                self._interpreter = self.runtime.interpreter(
                    model_content=content, num_threads=threads
                )
                self._interpreter.allocate_tensors()
        except (ValueError, RuntimeError) as error:
            raise ModelError(f"{self.runtime} cannot open {name}: {_first_line(error)}") from error
        signature = self._signature()
        self.inputs = _describe(self._interpreter.get_input_details(), signature[0])
        self.outputs = _describe(self._interpreter.get_output_details(), signature[1])
        for tensor in self.inputs:
            if not tensor.shape or tensor.shape[0] != 1:
                raise ModelError(
                    f"Input '{tensor.name}' of {name} has shape {tensor.shape}; expected a batch "
                    "of one. Convert the model again with edgeprune."
                )

    def predict(
        self, inputs: Samples, prepare: Callable[[np.ndarray], np.ndarray] | None = None
    ) -> Any:
        """Run the samples one by one, in real numbers: integers are quantized and dequantized here.

        Args:
            inputs: `(n, ...)` in the scale of the Keras model, or as stored, 0 to 255, where
                `takes_bytes`; with several inputs a sequence in their order, or a mapping by name.
            prepare: makes that of a sample `(1, ...)`, where they are something else.

        Returns:
            The output `(n, ...)`; with several outputs a dict by name.

        Raises:
            DataError: the samples do not have the shape that the model takes.
        """
        samples = self._samples(inputs)
        total = len(samples[0])
        results: list[list[np.ndarray]] = [[] for _ in self.outputs]
        with stage("running the .tflite", total) as advance:
            for index in range(total):
                for tensor, array in zip(self.inputs, samples, strict=True):
                    one = array[index : index + 1]
                    one = one if prepare is None else prepare(one)
                    one = _to_bytes(one) if self.takes_bytes else tensor.quantize(one)
                    self._interpreter.set_tensor(tensor.index, one)
                self._interpreter.invoke()
                for tensor, collected in zip(self.outputs, results, strict=True):
                    collected.append(self._interpreter.get_tensor(tensor.index))
                advance()
        answers = {
            tensor.name: tensor.dequantize(np.concatenate(collected))
            for tensor, collected in zip(self.outputs, results, strict=True)
        }
        return next(iter(answers.values())) if len(answers) == 1 else answers

    def _samples(self, inputs: Samples) -> list[np.ndarray]:
        names = [tensor.name for tensor in self.inputs]
        wanted = ", ".join(
            f"'{tensor.name}' (n, {', '.join(map(str, tensor.shape[1:]))})"
            for tensor in self.inputs
        )
        given: list[Any]
        if isinstance(inputs, Mapping):
            given = [inputs[name] for name in names] if set(inputs) == set(names) else []
        else:
            given = [inputs] if len(names) == 1 else list(inputs)
        arrays = [np.asarray(array) for array in given]
        if len(arrays) != len(names) or len({len(array) for array in arrays}) != 1:
            raise DataError(f"The model takes as many samples for each of its inputs: {wanted}.")
        for tensor, array in zip(self.inputs, arrays, strict=True):
            if array.shape[1:] != tensor.shape[1:] or len(array) == 0:
                raise DataError(f"The samples have shape {array.shape}; the model takes {wanted}.")
        return arrays

    def _signature(self) -> tuple[dict[int, list[str]], ...]:
        """Return the signature's names of inputs and outputs by tensor index; equal ones share."""
        found: tuple[dict[int, list[str]], ...] = {}, {}
        if len(self._interpreter.get_signature_list()) == 1:
            runner = self._interpreter.get_signature_runner()
            both = runner.get_input_details(), runner.get_output_details()
            for names, entries in zip(found, both, strict=True):
                for name, details in entries.items():
                    names.setdefault(int(details["index"]), []).append(name)
        return found


def check_file(path: str | os.PathLike[str], *, compiled: bool = False) -> bool:
    """Refuse a file that no runtime can open, before it is tried.

    Args:
        path: of the file.
        compiled: whether it may be compiled for the Edge TPU, which no CPU runs.

    Returns:
        Whether it is.

    Raises:
        ModelError: not readable, not a TensorFlow Lite file, or one compiled for the Edge TPU.
    """
    return check_content(*_read(path), compiled=compiled)


def check_content(content: bytes, name: str, *, compiled: bool = False) -> bool:
    """Refuse what a runtime cannot open, before it is tried.

    Args:
        content: of the file.
        name: how to call it in the message.
        compiled: whether it may be compiled for the Edge TPU, which no CPU runs.

    Returns:
        Whether it is.

    Raises:
        ModelError: not a TensorFlow Lite file, or one compiled for the Edge TPU.
    """
    if content[4:8] != b"TFL3":
        raise ModelError(f"{name} is not a TensorFlow Lite model: expected a .tflite file.")
    found = b"edgetpu-custom-op" in content
    if found and not compiled:
        raise ModelError(
            f"{name} is compiled for the Edge TPU and runs only there. "
            "Use the .tflite it was compiled from (the name without '_edgetpu')."
        )
    return found


def _read(path: str | os.PathLike[str]) -> tuple[bytes, str]:
    return read_tflite(path, ModelError), f"'{os.fspath(path)}'"


def _describe(details: Sequence[Any], names: Mapping[int, list[str]]) -> tuple[Tensor, ...]:
    return tuple(
        Tensor(
            name=names[entry["index"]].pop(0) if names.get(entry["index"]) else entry["name"],
            shape=tuple(int(size) for size in entry["shape"]),
            dtype=np.dtype(entry["dtype"]),
            scale=float(entry["quantization"][0]),
            zero_point=int(entry["quantization"][1]),
            index=int(entry["index"]),
        )
        for entry in details
    )


def _to_bytes(stored: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(stored), 0, 255).astype(np.uint8)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
