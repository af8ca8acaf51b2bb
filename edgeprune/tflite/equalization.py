"""Channels that share one integer scale are brought to like ranges, where that changes nothing.

After Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction" (2019):
what writes a channel divides it by a factor, and what reads it multiplies. Ours: the factors are
powers of two, so that floats stay the same to the last bit; they go through whatever keeps factors
(ReLU, pooling, sums and differences), and the ranges are those of samples.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from edgeprune.tflite.flatbuffer import find_schema, operator_kind, parse_model, type_name
from edgeprune.tflite.ranges import Watcher

LEAST_SPREAD, MOST_SPREAD = 3, 20
"""Doublings between factors from which they help, and that stay far from the limits of floats."""
WEIGHTED = {"CONV_2D": (0, 3), "DEPTHWISE_CONV_2D": (3, 3), "FULLY_CONNECTED": (0, 1)}
"""Axis of the weights that writes, and that reads."""
KEEPING = frozenset(
    "ABS ADD AVERAGE_POOL_2D LEAKY_RELU MAXIMUM MAX_POOL_2D MEAN MINIMUM PAD REDUCE_MAX REDUCE_MIN "
    "RELU RESHAPE RESIZE_BILINEAR RESIZE_NEAREST_NEIGHBOR SLICE SUB SUM".split()
)
"""Operators through which a factor of each channel passes, with the channels on the last axis."""

Place = tuple[int, int]
"""Number of a buffer, and the axis of its numbers that the channels are on."""


@dataclass
class _Channels:
    """Tensors whose channels have one factor each.

    Attributes:
        tensors: their numbers.
        written: where what they are made with is stored.
        read: likewise, what they are multiplied with.
        free: whether nothing else depends on them.
    """

    tensors: set[int] = field(default_factory=set)
    written: set[Place] = field(default_factory=set)
    read: set[Place] = field(default_factory=set)
    free: bool = True

    def take_over(self, other: _Channels) -> None:
        self.tensors |= other.tensors
        self.written |= other.written
        self.read |= other.read
        self.free &= other.free


def equalize(content: bytes, samples: Iterable[Sequence[np.ndarray]]) -> Any:
    """Return the `ModelT` of an equal model whose channels have like ranges.

    Args:
        content: of a float model.
        samples: the inputs of each, in the order of the file, with a batch of one.

    Returns:
        The same but for the numbers in its constants; `None` where there is nothing to gain.
    """
    parsed = parse_model(content)
    found = [one for one in _Finder(parsed).find() if one.free and one.written and one.read]
    if not found:
        return None
    ranges = _observe(content, {index for one in found for index in one.tensors}, samples)
    changed = False
    for one in found:
        doublings = _choose_doublings(parsed, one, ranges)
        if np.ptp(doublings) < LEAST_SPREAD:
            continue
        for places, sign in ((one.written, -1), (one.read, 1)):
            for buffer, axis in places:
                _scale(parsed, buffer, axis, np.exp2(sign * doublings))
        changed = True
    return parsed if changed else None


def _observe(
    content: bytes, indices: set[int], samples: Iterable[Sequence[np.ndarray]]
) -> dict[int, np.ndarray]:
    """Return the largest size of each channel of some tensors."""
    watcher = Watcher(content)
    largest: dict[int, np.ndarray] = {}
    for sample in samples:
        watcher.run(sample)
        for index in indices:
            values = np.abs(watcher.look(index))
            seen = values.reshape(-1, values.shape[-1]).max(axis=0)
            largest[index] = np.maximum(largest.get(index, 0), seen)
    return largest


def _choose_doublings(
    parsed: Any, channels: _Channels, ranges: dict[int, np.ndarray]
) -> np.ndarray:
    """Return the logarithm of each factor: half on the tensors, half on the weights that read."""
    size = np.max([ranges[index] for index in channels.tensors], axis=0)
    read = np.zeros_like(size)
    for buffer, axis in channels.read:
        values = np.moveaxis(np.abs(_values(parsed, buffer)), axis, 0)
        each = values.reshape(len(values), -1).max(axis=1)
        read = np.maximum(read, each / max(float(each.max()), 1e-30))
    alive = (size > 0) & np.isfinite(size)
    doublings = np.zeros(len(size))
    doublings[alive] = 0.5 * np.log2(size[alive] / np.maximum(read[alive], 2.0**-MOST_SPREAD))
    doublings[alive] -= np.median(doublings[alive]) if alive.any() else 0
    return np.clip(np.rint(doublings), -MOST_SPREAD, MOST_SPREAD)


def _tensor_of(parsed: Any, buffer: int) -> Any:
    tensors = parsed.subgraphs[0].tensors
    return next(tensor for tensor in tensors if tensor.buffer == buffer)


def _values(parsed: Any, buffer: int) -> np.ndarray:
    data = np.asarray(parsed.buffers[buffer].data, np.uint8).tobytes()
    return np.frombuffer(data, np.float32).reshape(_tensor_of(parsed, buffer).shape)


def _scale(parsed: Any, buffer: int, axis: int, factors: np.ndarray) -> None:
    values = _values(parsed, buffer)
    shape = [1] * values.ndim
    shape[axis] = -1
    scaled = (values * factors.reshape(shape)).astype(np.float32)
    parsed.buffers[buffer].data = np.frombuffer(scaled.tobytes(), np.uint8)


class _Finder:
    """Follows factors of channels through a graph."""

    def __init__(self, parsed: Any) -> None:
        self.parsed, self.subgraph = parsed, parsed.subgraphs[0]
        self.channels: dict[int, _Channels] = {}
        self.holders: dict[tuple[Place, bool], int] = {}
        self.fixed: set[int] = set()
        computed = {int(i) for operator in self.subgraph.operators for i in operator.outputs}
        self.computed = computed | set(map(int, self.subgraph.inputs))

    def find(self) -> list[_Channels]:
        """Return all tensors that are computed, those of one factor together."""
        for operator in self.subgraph.operators:
            kind = operator_kind(self.parsed, operator)
            inputs = [int(i) for i in operator.inputs if i >= 0]
            given = [i for i in inputs if i in self.computed]
            constants = [i for i in inputs if i not in self.computed]
            made = [int(i) for i in operator.outputs]
            if not self._follow(kind, operator, given, constants, made):
                self._hold([*given, *made])
                self.fixed |= {self.subgraph.tensors[i].buffer for i in constants}
        self._hold([*map(int, self.subgraph.inputs), *map(int, self.subgraph.outputs)])
        for other in self.parsed.subgraphs[1:]:
            self.fixed |= {tensor.buffer for tensor in other.tensors}
        shapes: dict[int, list[int]] = {}
        for index, tensor in enumerate(self.subgraph.tensors):
            if shapes.setdefault(tensor.buffer, self._sizes(index)) != self._sizes(index):
                self.fixed.add(tensor.buffer)
        found = {id(one): one for one in self.channels.values()}.values()
        for one in found:
            one.free &= not self.fixed & {buffer for buffer, _ in one.written | one.read}
        return list(found)

    def _follow(
        self, kind: str, operator: Any, given: list[int], constants: list[int], made: list[int]
    ) -> bool:
        """Note what an operator does to factors; whether that is known."""
        none, relu = (getattr(find_schema().ActivationFunctionType, it) for it in ("NONE", "RELU"))
        fused = getattr(operator.builtinOptions, "fusedActivationFunction", none)
        if fused not in (none, relu) or len(made) != 1 or not given:
            return False
        (y,), x, sizes = made, given[0], [self._sizes(i) for i in constants]
        width = (self._sizes(y) or [0])[-1]
        floats = [i for i in constants if type_name(self.subgraph.tensors[i]) == "float32"]
        if any(self.parsed.buffers[self.subgraph.tensors[i].buffer].data is None for i in floats):
            return False
        if kind in WEIGHTED:
            writes, reads = WEIGHTED[kind]
            if len(given) != 1 or not floats or sizes[0][reads] != self._sizes(x)[-1]:
                return False
            self._note(floats[0], writes, y, writing=True)
            self._note(floats[0], reads, x, writing=False)
            for bias in floats[1:]:
                self._note(bias, 0, y, writing=True)
            return True
        if any(self._sizes(i)[-1:] != [width] for i in given):
            return False
        vectors = [i for i in floats if self._sizes(i)[-1:] == [np.prod(self._sizes(i))] == [width]]
        if kind == "MUL" and len(vectors) == len(given) == 1:
            self._note(vectors[0], len(self._sizes(vectors[0])) - 1, y, writing=True)
            self._note(vectors[0], len(self._sizes(vectors[0])) - 1, x, writing=False)
            return True
        if kind not in KEEPING or len(vectors) != len(floats) or self._reduces(kind, x, constants):
            return False
        for other in given:
            self._join(other, y)
        for vector in vectors:
            self._note(vector, len(self._sizes(vector)) - 1, y, writing=True)
        return True

    def _reduces(self, kind: str, x: int, constants: list[int]) -> bool:
        """Whether an operator reduces over the channels."""
        if kind not in ("MEAN", "SUM", "REDUCE_MAX", "REDUCE_MIN"):
            return False
        buffer = self.parsed.buffers[self.subgraph.tensors[constants[0]].buffer]
        axes = np.frombuffer(np.asarray(buffer.data, np.uint8).tobytes(), np.int32)
        rank = len(self._sizes(x))
        return rank - 1 in [int(axis) % rank for axis in axes]

    def _sizes(self, index: int) -> list[int]:
        shape = self.subgraph.tensors[index].shape
        return [] if shape is None else [int(size) for size in shape]

    def _of(self, index: int) -> _Channels:
        if index not in self.channels:
            self.channels[index] = _Channels({index})
        return self.channels[index]

    def _join(self, first: int, second: int) -> None:
        one, other = self._of(first), self._of(second)
        if one is not other:
            one.take_over(other)
            self.channels |= dict.fromkeys(other.tensors, one)

    def _note(self, constant: int, axis: int, index: int, *, writing: bool) -> None:
        """Note numbers that make a tensor, or that it is multiplied with, the same in all calls."""
        place = (int(self.subgraph.tensors[constant].buffer), axis)
        if not _values(self.parsed, place[0]).any():
            return  # layers without a bias share one of zeros
        self._join(self.holders.setdefault((place, writing), index), index)
        one = self._of(index)
        (one.written if writing else one.read).add(place)

    def _hold(self, indices: list[int]) -> None:
        for index in indices:
            self._of(index).free = False
