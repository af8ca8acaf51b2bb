"""Whether a `.tflite` runs on the Edge TPU, read from its operators before its compiler does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from edgeprune.tflite.edgetpu import edgetpu_operators as table
from edgeprune.tflite.edgetpu.edgetpu_operators import Node
from edgeprune.tflite.edgetpu.parameters import PARAMETER_MEMORY_BYTES, count_parameter_bytes
from edgeprune.tflite.flatbuffer import parse_model, type_name

INTEGERS = ("int8", "uint8")
ON_THE_TPU, ON_THE_CPU, AFTER_REFUSED = "Edge TPU", "CPU", "CPU, after a refused operator"


@dataclass(frozen=True)
class Obstacle:
    """Something that keeps operators off the Edge TPU.

    Attributes:
        operator: its name in the schema, or `input`.
        where: name of what it computes.
        problem: what the Edge TPU does not have.
        change: what to do about it.
    """

    operator: str
    where: str
    problem: str
    change: str


@dataclass(frozen=True)
class ChipCompatibility:
    """What the Edge TPU would do with a model; predicted from documented rules, not measured.

    Attributes:
        obstacles: in the order of the model.
        placement: operator -> where it runs -> how many.
        parameter_bytes: of the parameters that the chip must hold, counted.
        notes: what costs time but keeps nothing off.
    """

    obstacles: tuple[Obstacle, ...]
    placement: Mapping[str, Mapping[str, int]]
    parameter_bytes: int
    notes: tuple[str, ...]

    @property
    def fits(self) -> bool:
        """Whether every operator between input and output runs on the Edge TPU."""
        return not self.obstacles

    @property
    def on_chip(self) -> bool:
        """Whether the parameters stay in the chip's memory from one inference to the next."""
        return self.parameter_bytes <= PARAMETER_MEMORY_BYTES

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON types."""
        return asdict(self) | {"fits": self.fits, "on_chip": self.on_chip}


def examine(content: bytes, name: str = "the model") -> ChipCompatibility:
    """Look at every operator of a `.tflite`.

    Args:
        content: of the file; not compiled for the Edge TPU yet.
        name: how to call it in messages.

    Raises:
        ModelError: the file is damaged.
    """
    parsed = parse_model(content, name)
    subgraph = parsed.subgraphs[0]
    obstacles = _check_inputs(subgraph)
    notes = []
    placement: dict[str, dict[str, int]] = {}
    lost: set[int] = set()
    for operator in subgraph.operators:
        node = _node(parsed, operator)
        where = ON_THE_TPU
        edge = _is_edge(node, subgraph)
        problem, change = _judge_version(node)
        if not edge and not problem:
            problem, change = _judge(node)
        if edge and not problem:
            where = ON_THE_CPU
            notes.append(f"{node.kind} at the {edge} runs on the CPU; --io int8 leaves it out.")
        elif problem:
            where = ON_THE_CPU
            obstacles.append(Obstacle(node.kind, _name(node), problem, change))
        elif lost.intersection(operator.inputs):
            where = AFTER_REFUSED
        if where != ON_THE_TPU and edge != "input":
            lost.update(operator.outputs)
        counts = placement.setdefault(node.kind, {})
        counts[where] = counts.get(where, 0) + 1
    bytes_needed = count_parameter_bytes(parsed)
    if bytes_needed > PARAMETER_MEMORY_BYTES:
        notes.append(
            f"{bytes_needed:,} bytes of parameters are more than the "
            f"{PARAMETER_MEMORY_BYTES:,} that the chip holds: the rest is sent at every "
            "inference. `edgeprune build --budget fits=edgetpu` prunes until they fit."
        )
    return ChipCompatibility(tuple(obstacles), placement, bytes_needed, tuple(notes))


def _node(parsed: Any, operator: Any) -> Node:
    tensors = parsed.subgraphs[0].tensors

    def pick(indices: Any) -> tuple[Any, ...]:
        return tuple(tensors[index] for index in indices if index >= 0)

    return Node(parsed, operator, pick(operator.inputs), pick(operator.outputs))


def _check_inputs(subgraph: Any) -> list[Obstacle]:
    found = []
    for index in subgraph.inputs:
        tensor = subgraph.tensors[index]
        shape = [int(size) for size in tensor.shape]
        signature = tensor.shapeSignature
        name = tensor.name.decode(errors="replace")
        if signature is not None and -1 in signature:
            sizes = [int(size) for size in signature]
            found.append(
                Obstacle("input", name, f"shape {sizes} is open", "fix every size, the batch to 1")
            )
        elif len(shape) > 1 and shape[0] != 1:
            found.append(Obstacle("input", name, f"batch of {shape[0]}", "a batch of 1"))
    return found


def _is_edge(node: Node, subgraph: Any) -> str:
    """Say at which end of the model an operator only turns floats into integers or back."""
    if node.kind == "QUANTIZE" and node.operator.inputs[0] in subgraph.inputs:
        return "input" if type_name(node.inputs[0]) == "float32" else ""
    if node.kind == "DEQUANTIZE" and node.operator.outputs[0] in subgraph.outputs:
        return "output"
    return ""


def _judge_version(node: Node) -> tuple[str, str]:
    """Return what is wrong with the version of an operator, and what lowers it."""
    newest = table.NEWEST_VERSIONS.get(node.kind, node.version)
    if node.version <= newest:
        return "", ""
    return (
        f"version {node.version}; the compiler knows at most {newest} and refuses the file",
        table.CHANGE_OF_VERSION.get(node.kind, table.CHANGE_OF_VERSION_OTHERWISE),
    )


def _judge(node: Node) -> tuple[str, str]:
    """Return what is wrong with an operator and what to change; twice nothing if it is fine."""
    condition = table.SUPPORTED.get(node.kind)
    if condition is None:
        return "not supported", table.CHANGES.get(node.kind, table.CHANGE_OTHERWISE)
    for tensor in (*_activations(node), *node.outputs):
        kind = type_name(tensor)
        if kind not in INTEGERS:
            return f"computes in {kind}", table.CHANGE_OF_TYPE
        if any(size > 1 for size in tensor.shape[:-3]):
            shape = [int(size) for size in tensor.shape]
            return f"shape {shape} has more than 3 inner axes", table.CHANGE_OF_RANK
    problem = condition(node)
    return problem, table.CHANGE_OF_CONDITION.get(node.kind, table.CHANGE_OTHERWISE)


def _activations(node: Node) -> tuple[Any, ...]:
    buffers = node.parsed.buffers
    computed = (tensor for tensor in node.inputs if buffers[tensor.buffer].data is None)
    return tuple(computed)


def _name(node: Node) -> str:
    """Return the layer that an operator comes from, as far as the tensor's name tells."""
    name = node.outputs[0].name.decode(errors="replace").split(";")[0]
    parts = name.split("/")
    return "/".join(parts[:-1][-2:]) or name
