"""What a model costs at given group widths, without building it.

Every cost is a sum of products of axis sizes, and every axis size is linear in the widths of the
groups, so a thousand candidate widths cost a millisecond each. MACs are multiply-accumulates of one
inference (one sample); additions, activations and normalisation are not counted.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from keras import layers as L

from edgeprune.errors import ModelError
from edgeprune.graph import Call, Shape
from edgeprune.groups import Groups

Widths = Mapping[str, int]


@dataclass(frozen=True)
class Cost:
    """Counted cost of one inference and of storage.

    Attributes:
        macs: multiply-accumulates per sample.
        params: numbers in the weights, BatchNorm statistics included.
    """

    macs: int
    params: int


def _positions(shape: Shape, layer: Any) -> float:
    """Spatial positions of a tensor with batch axis; NaN where they are not fixed."""
    first = getattr(layer, "data_format", None) == "channels_first"
    spatial = shape[2:] if first else shape[1:-1]
    return math.nan if None in spatial else float(math.prod(size or 0 for size in spatial))


def _at_outputs(*weights: str) -> Callable[[Call], list[tuple[Any, float]]]:
    def count(call: Call) -> list[tuple[Any, float]]:
        layer = call.operation
        positions = _positions(call.outputs[0].shape, layer)
        return [(getattr(layer, name), positions) for name in weights]

    return count


# Layer type -> for each weight that multiplies: how often each of its numbers is used per sample.
MULTIPLICATIONS: dict[type, Callable[[Call], list[tuple[Any, float]]]] = {
    L.Conv1D: _at_outputs("kernel"),
    L.Conv2D: _at_outputs("kernel"),
    L.Conv3D: _at_outputs("kernel"),
    L.DepthwiseConv1D: _at_outputs("kernel"),
    L.DepthwiseConv2D: _at_outputs("kernel"),
    L.SeparableConv1D: _at_outputs("depthwise_kernel", "pointwise_kernel"),
    L.SeparableConv2D: _at_outputs("depthwise_kernel", "pointwise_kernel"),
    L.Dense: _at_outputs("kernel"),
}


class CostModel:
    """Costs of a model as a function of its group widths.

    Example:
        >>> import keras
        >>> from edgeprune.groups import find_groups
        >>> model = keras.Sequential([
        ...     keras.Input((4,)), keras.layers.Dense(8, name="hidden"), keras.layers.Dense(2)])
        >>> costs = CostModel(find_groups(model))
        >>> costs.full.macs, costs.count({"hidden": 3}).macs
        (48, 18)
    """

    def __init__(self, groups: Groups) -> None:
        """Collect the terms of the sums.

        Args:
            groups: of the model to count.
        """
        self.groups = groups
        self._widths = np.array([group.width for group in groups], dtype=float)
        rows: list[np.ndarray] = []
        constants: list[float] = []
        row_of: dict[tuple[str, int, int], int] = {}
        for axis in groups.axes:
            row = np.zeros(len(groups))
            held, counts = np.unique(axis.group, return_counts=True)
            for number, count in zip(held.tolist(), counts.tolist(), strict=True):
                if number >= 0:
                    row[number] = count / groups.groups[number].width
            row_of[axis.layer, axis.weight, axis.axis] = len(rows)
            rows.append(row)
            constants.append(float((axis.group < 0).sum()))
        self._rows = np.array(rows).reshape(-1, len(groups))
        self._constants = np.array(constants)
        self._macs: list[tuple[float, list[int]]] = []
        self._params: list[tuple[float, list[int]]] = []
        counted: set[str] = set()
        for call in groups.graph.calls:
            weights = getattr(call.operation, "weights", [])
            factors: dict[int, tuple[float, list[int]]] = {}
            for index, weight in enumerate(weights):
                constant, found = 1.0, []
                for axis, size in enumerate(weight.shape):
                    row = row_of.get((call.path, index, axis))
                    if row is None:
                        constant *= size
                    else:
                        found.append(row)
                factors[id(weight)] = (constant, found)
            if call.path not in counted:
                counted.add(call.path)
                self._params += factors.values()
            for weight, positions in MULTIPLICATIONS.get(type(call.operation), lambda _: [])(call):
                constant, found = factors[id(weight)]
                self._macs.append((constant * positions, found))

    def _sum(self, terms: list[tuple[float, list[int]]], sizes: np.ndarray) -> float:
        return float(sum(constant * math.prod(sizes[rows].tolist()) for constant, rows in terms))

    def count(self, widths: Widths) -> Cost:
        """Count the cost when groups have these widths; groups that are not named keep theirs.

        Raises:
            ModelError: the model's input has no fixed height and width.
        """
        chosen = self._widths.copy()
        for name, width in widths.items():
            chosen[self.groups.index[name]] = width
        sizes = self._rows @ chosen + self._constants
        macs = self._sum(self._macs, sizes)
        if math.isnan(macs):
            raise ModelError(
                "MACs cannot be counted: the model's input has no fixed height and width "
                f"({[ref.shape for ref in self.groups.graph.inputs]}). Build it with a fixed "
                "keras.Input(shape)."
            )
        return Cost(round(macs), round(self._sum(self._params, sizes)))

    @cached_property
    def full(self) -> Cost:
        """The cost of the model as it is."""
        return self.count({})
