"""Whether a model suits a target, answered from its real operators before anything is built."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgeprune.boards import Target
from edgeprune.errors import ConversionError, ModelError
from edgeprune.support.files import read_tflite
from edgeprune.tflite.arena import plan_memory
from edgeprune.tflite.edgetpu import ChipCompatibility, Obstacle, examine, is_edgetpu
from edgeprune.tflite.flatbuffer import operator_kind, parse_model, type_name

if TYPE_CHECKING:
    import keras

MEBIBYTE = 2**20
# Python, NumPy and the runtime: about 50 MB where the harness was measured (x86-64), rounded up.
RUNTIME_BYTES = 64 * MEBIBYTE
NEWEST = {"tflite-runtime": (2, 14)}


@dataclass(frozen=True)
class Compatibility:
    """What was found out about one model on one target.

    Attributes:
        model: as the user named it.
        target: its name.
        scheme: number format that was looked at; that of the file for a `.tflite`.
        obstacles: what keeps the model, or a part of it, off the target.
        notes: what is good to know.
        size_bytes: of the `.tflite` that was looked at; 0 if none could be made.
        activation_bytes: that a runtime allocates for activations, planned; likewise.
        edgetpu: operators on the Edge TPU; `None` for other targets.
    """

    model: str
    target: str
    scheme: str
    obstacles: tuple[Obstacle, ...]
    notes: tuple[str, ...]
    size_bytes: int
    activation_bytes: int
    edgetpu: ChipCompatibility | None = None

    @property
    def fits(self) -> bool:
        """Whether nothing keeps the model off the target."""
        return not self.obstacles

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON types."""
        return {
            "model": self.model,
            "target": self.target,
            "scheme": self.scheme,
            "fits": self.fits,
            "obstacles": [vars(obstacle) for obstacle in self.obstacles],
            "notes": list(self.notes),
            "size_bytes": self.size_bytes,
            "activation_bytes": self.activation_bytes,
            "edgetpu": None if self.edgetpu is None else self.edgetpu.to_dict(),
        }


def check_file(path: str | os.PathLike[str], target: Target) -> Compatibility:
    """Check a `.tflite` for a target.

    Args:
        path: of the file.
        target: a board.

    Raises:
        ModelError: it cannot be read, is no `.tflite`, or is compiled for the Edge TPU already.
    """
    name = os.fspath(path)
    content = read_tflite(path, ModelError)
    if content[4:8] != b"TFL3":
        raise ModelError(f"'{name}' is not a TensorFlow Lite model: expected a .tflite file.")
    if b"edgetpu-custom-op" in content:
        raise ModelError(
            f"'{name}' is compiled for the Edge TPU already: its operators are gone. "
            "Check the .tflite it was compiled from (the name without '_edgetpu')."
        )
    return _check(content, name, _scheme(content, name), target)


def check_model(model: keras.Model, target: Target, *, name: str | None = None) -> Compatibility:
    """Check a Keras model for a target: it is converted with made-up ranges and looked at.

    Args:
        model: Functional or Sequential; it is not changed.
        target: a board; its number format is the one looked at.
        name: how to call the model.

    Raises:
        ConversionError: it is no model that could be converted.
    """
    from edgeprune.tflite.converter import convert, draft
    from edgeprune.tracing.replica import with_any_batch

    called = name or model.name
    model = with_any_batch(model)
    shapes = _check_shapes(model)
    if shapes:
        return Compatibility(called, target.name, target.scheme, tuple(shapes), (), 0, 0)
    try:
        if target.scheme.startswith("int8"):
            content = draft(model)
        else:
            content = convert(model, scheme=target.scheme)
    except ConversionError as error:
        obstacle = Obstacle("model", called, str(error), "replace these layers")
        return Compatibility(called, target.name, target.scheme, (obstacle,), (), 0, 0)
    return _check(content, called, target.scheme, target)


def _check_shapes(model: keras.Model) -> list[Obstacle]:
    found = []
    for tensor in getattr(model, "inputs", None) or ():
        shape = tuple(tensor.shape)
        if None in shape[1:]:
            change = "fix it: --input-size 96x96, or keras.Input((height, width, channels))"
            found.append(Obstacle("input", tensor.name, f"shape {shape} is open", change))
        elif shape[0] not in (None, 1):
            found.append(Obstacle("input", tensor.name, f"batch of {shape[0]}", "a batch of 1"))
    return found


def _scheme(content: bytes, name: str) -> str:
    """Return the number format of a file as far as its tensors tell."""
    parsed = parse_model(content, name)
    subgraph = parsed.subgraphs[0]
    kinds = {
        type_name(tensor)
        for operator in subgraph.operators
        if operator_kind(parsed, operator) not in ("QUANTIZE", "DEQUANTIZE")
        for tensor in (subgraph.tensors[index] for index in operator.outputs)
    }
    if "float32" in kinds:
        return "float32"
    return next((kind for kind in ("int16", "int8", "uint8") if kind in kinds), "unknown")


def _check(content: bytes, name: str, scheme: str, target: Target) -> Compatibility:
    parsed = parse_model(content, name)
    fitness = examine(content, name) if is_edgetpu(target.delegate) else None
    obstacles = list(fitness.obstacles if fitness is not None else _check_operators(parsed, scheme))
    activations = plan_memory(parsed)
    obstacles += _check_memory(len(content) + activations, target)
    obstacles += _check_runtime(parsed, target)
    notes = list(fitness.notes) if fitness is not None else []
    if scheme != target.scheme and fitness is None:
        notes.append(f"It is {scheme}; {target.name} is usually given {target.scheme}.")
    return Compatibility(
        name,
        target.name,
        scheme,
        tuple(obstacles),
        tuple(notes),
        len(content),
        activations,
        fitness,
    )


def _check_operators(parsed: Any, scheme: str) -> list[Obstacle]:
    """Find what a CPU runtime has no kernel for, and what stays float in an int8 model."""
    found = []
    subgraph = parsed.subgraphs[0]
    for operator in subgraph.operators:
        kind = operator_kind(parsed, operator)
        where = subgraph.tensors[operator.outputs[0]].name.decode(errors="replace").split(";")[0]
        tensors = [subgraph.tensors[i] for i in (*operator.inputs, *operator.outputs) if i >= 0]
        if parsed.operatorCodes[operator.opcodeIndex].customCode:
            found.append(
                Obstacle(kind, where, "no runtime brings this operator", "replace the layer")
            )
            continue
        floats = any(type_name(tensor) == "float32" for tensor in tensors)
        if scheme == "int8" and floats and kind not in ("QUANTIZE", "DEQUANTIZE"):
            change = "replace the layer, or take --quantize dynamic"
            found.append(Obstacle(kind, where, "stays in float", change))
    return found


def _check_memory(needed: int, target: Target) -> list[Obstacle]:
    memory = target.figure("memory")
    if memory is None or not isinstance(memory.value, (int, float)):
        return []
    available = memory.value * MEBIBYTE
    if needed + RUNTIME_BYTES <= available:
        return []
    return [
        Obstacle(
            "model",
            "memory",
            f"{needed / MEBIBYTE:,.0f} MiB of weights and activations do not fit the "
            f"{memory.value:g} MiB of {target.name} beside the runtime",
            "a smaller input, or prune: edgeprune build --budget macs=25%",
        )
    ]


def _check_runtime(parsed: Any, target: Target) -> list[Obstacle]:
    """Compare the oldest runtime that the converter wrote down with that of the target."""
    newest = NEWEST.get(target.runtime)
    for entry in parsed.metadata or ():
        if newest is None or entry.name != b"min_runtime_version":
            continue
        text = bytes(parsed.buffers[entry.buffer].data).rstrip(b"\0").decode(errors="replace")
        numbers = tuple(int(part) for part in text.split(".")[:2] if part.isdigit())
        if numbers > newest:
            wanted = ".".join(map(str, newest))
            return [
                Obstacle(
                    "model",
                    "runtime",
                    f"needs TensorFlow Lite {text}; {target.runtime} on {target.name} is {wanted}",
                    "replace the newest layers, or run ai-edge-litert there",
                )
            ]
    return []
