"""Milliseconds per operator, from the times of a model that ends after its first ones."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgeprune.tflite.flatbuffer import operator_kind, parse_model

METHOD = (
    "The runtime's Python package times no operators: the model was timed as it ends after its "
    "first operator, its second and so on, and the differences are shown, each with its error."
)
AGREEMENT = 0.1
_WITH_WEIGHTS = re.compile(r"(convolution|depthwise|MatMul|Conv2D)\d*$")


@dataclass(frozen=True)
class OperatorTime:
    """What one operator adds to an inference.

    Attributes:
        layer: that it comes from, as far as the file tells.
        operator: its name in the schema.
        output: name of the first tensor that it makes.
        ms: milliseconds.
        error_ms: how far off they may be.
    """

    layer: str
    operator: str
    output: str
    ms: float
    error_ms: float


@dataclass(frozen=True)
class Profile:
    """Where the time of one inference goes.

    Attributes:
        operators: in the order of the file.
        whole_ms: of the model as it is, taken in turns with the parts, in the fastest round.
    """

    operators: tuple[OperatorTime, ...]
    whole_ms: float

    @property
    def sum_ms(self) -> float:
        """Sum over the operators."""
        return sum(entry.ms for entry in self.operators)

    @property
    def agrees(self) -> bool:
        """Whether the sum is within 10 % of the whole."""
        return abs(self.sum_ms - self.whole_ms) <= AGREEMENT * self.whole_ms

    def by_layer(self) -> dict[str, OperatorTime]:
        """Return the sums over the operators of each layer, the slowest first."""
        layers: dict[str, list[OperatorTime]] = {}
        for entry in self.operators:
            layers.setdefault(entry.layer, []).append(entry)
        sums = {
            layer: OperatorTime(
                layer,
                ", ".join(dict.fromkeys(entry.operator for entry in entries)),
                entries[-1].output,
                sum(entry.ms for entry in entries),
                float(np.hypot.reduce([entry.error_ms for entry in entries])),
            )
            for layer, entries in layers.items()
        }
        return dict(sorted(sums.items(), key=lambda item: -item[1].ms))

    def to_node_data(self) -> dict[str, Any]:
        """Return what Model Explorer shows over the graph of the file, as JSON types."""
        results = {entry.output: {"value": entry.ms} for entry in self.operators}
        colours = [{"stop": 0, "bgColor": "white"}, {"stop": 1, "bgColor": "red"}]
        return {"main": {"results": results, "gradient": colours}}


def read_profile(rounds: Sequence[Sequence[float]], path: str | os.PathLike[str]) -> Profile:
    """Turn times of the harness into times of operators.

    Args:
        rounds: milliseconds per round, of the first operators, one more each; then of the whole.
        path: of the model.

    Returns:
        Times that are not negative: where one more operator seems to take less, what is between is
        shared (isotonic regression). Others on the machine only ever slow it down, so the fastest
        round counts, and how much faster it is than the next is its error.
    """
    from scipy.optimize import isotonic_regression

    fastest, next_one = np.sort(rounds, axis=1)[:, :2].T
    until = isotonic_regression(fastest[:-1]).x
    uncertain = (next_one - fastest)[:-1]
    errors = np.hypot(uncertain, [0, *uncertain[:-1]])
    parsed = parse_model(Path(path).read_bytes(), f"'{os.fspath(path)}'")
    graph = parsed.subgraphs[0]
    names = [
        graph.tensors[operator.outputs[0]].name.decode(errors="replace")
        for operator in graph.operators
    ]
    return Profile(
        tuple(
            OperatorTime(name_layer(name), operator_kind(parsed, operator), name, float(ms), error)
            for operator, name, ms, error in zip(
                graph.operators, names, np.diff(until, prepend=0), errors.tolist(), strict=True
            )
        ),
        float(fastest[-1]),
    )


def name_layer(tensor: str) -> str:
    """Return the layer in a tensor's name; of fused layers the one with the weights.

    Example:
        >>> name_layer("net_1/relu_1/Relu6;net_1/conv_1_1/convolution1")
        'conv_1'
        >>> name_layer("MobilenetV1/Conv2d_1_depthwise/Relu6")
        'Conv2d_1_depthwise'
    """
    if tensor.startswith("StatefulPartitionedCall"):  # so the converter calls what goes out
        return "(output)"
    parts = [part for part in tensor.split(";") if part]
    part = next((part for part in parts if _WITH_WEIGHTS.search(part)), (parts or [tensor])[0])
    *above, layer = part.split("/")[:-1] or [part]
    traced = bool(above) and above[0].endswith("_1")  # tracing has numbered all of the names
    return layer.removesuffix("_1") if traced else layer


def compare_profiles(profiles: Mapping[str, Profile]) -> list[tuple[str, list[float | None]]]:
    """Return layer -> milliseconds in each of several models, the largest difference first."""
    sums = [profile.by_layer() for profile in profiles.values()]
    layers = dict.fromkeys(layer for found in sums for layer in found)
    rows: list[tuple[str, list[float | None]]] = [
        (layer, [found[layer].ms if layer in found else None for found in sums]) for layer in layers
    ]

    def spread(row: tuple[str, list[float | None]]) -> float:
        times = [ms or 0.0 for ms in row[1]]
        return max(times) - min(times) if len(times) > 1 else times[0]

    return sorted(rows, key=spread, reverse=True)
