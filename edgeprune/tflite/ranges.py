"""Which values an integer activation can hold: the range of each tensor, from samples.

A range decides how large an integer step is. The smallest and largest value ever seen waste steps
on outliers; ranges that leave the outliers out clip them. Which is better depends on the tensor,
so there are three ways, and `auto` (see `edgeprune.tflite.integers`) tries all.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from edgeprune.support.progress import stage
from edgeprune.tflite.flatbuffer import operator_kind
from edgeprune.tflite.flatbuffer_edits import activations
from edgeprune.tflite.runtime import find_runtime

Range = tuple[float, float]
KEPT_VALUES = 2048
"""Of a tensor and sample, drawn at random: enough for percentiles, and bounded in memory."""
ENDLESS = 1e9
"""From where on a value is a quotient by zero, and no range needs to hold it."""
BINS = 2048
LEVELS = 255
SHRINKAGES = np.geomspace(1.0, 0.2, 24)
PERCENTILE = 99.99


@dataclass(frozen=True, eq=False)
class Activations:
    """What one pass over samples showed of the tensors of a float `.tflite`.

    Attributes:
        limits: smallest and largest value by tensor index.
        values: a random share of the values by tensor index.
    """

    limits: Mapping[int, Range]
    values: Mapping[int, np.ndarray] = field(repr=False)


class Watcher:
    """A `.tflite` whose every tensor can be looked at after each sample.

    Args:
        content: of a `.tflite` with a batch of one.
    """

    def __init__(self, content: bytes) -> None:
        import warnings

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that this is for debugging only
            self._interpreter = find_runtime().interpreter(
                model_content=content, experimental_preserve_all_tensors=True, num_threads=1
            )
            self._interpreter.allocate_tensors()
        self.tensors = {
            int(details["index"]): details for details in self._interpreter.get_tensor_details()
        }
        self._inputs = [entry["index"] for entry in self._interpreter.get_input_details()]

    def run(self, sample: Sequence[np.ndarray]) -> None:
        """Compute all tensors for one sample: its inputs in the order of the file, batch of one."""
        for index, array in zip(self._inputs, sample, strict=True):
            self._interpreter.set_tensor(index, array)
        self._interpreter.invoke()

    def look(self, index: int) -> np.ndarray:
        """Return a tensor's values; integers as the real numbers they stand for."""
        stored: np.ndarray = self._interpreter.get_tensor(index)
        scale, zero_point = self.tensors[index]["quantization"]
        if not scale:
            return stored
        return (stored.astype(np.float32) - zero_point) * np.float32(scale)


def observe(
    content: bytes,
    parsed: Any,
    samples: Iterable[Sequence[np.ndarray]],
    *,
    total: int | None = None,
    seed: int = 0,
) -> Activations:
    """Run samples through a float `.tflite` and remember what its tensors held.

    Args:
        content: of the `.tflite`.
        parsed: its `ModelT`.
        samples: the inputs of each, in the order of the file, with a batch of one.
        total: how many there are, for the progress.
        seed: of the values that are kept.
    """
    watcher = Watcher(content)
    indices = list(activations(parsed))
    generator = np.random.default_rng(seed)
    kept: dict[int, list[np.ndarray]] = {index: [] for index in indices}
    limits: dict[int, Range] = {}
    with stage("calibration", total) as advance:
        for sample in samples:
            watcher.run(sample)
            for index in indices:
                values = watcher.look(index).reshape(-1)
                values = np.where(np.abs(values) < ENDLESS, values, 0)
                low, high = limits.get(index, (0.0, 0.0))
                limits[index] = min(low, float(values.min())), max(high, float(values.max()))
                if values.size > KEPT_VALUES:
                    values = values[generator.integers(0, values.size, KEPT_VALUES)]
                kept[index].append(values.copy())
            advance()
    return Activations(limits, {index: np.concatenate(found) for index, found in kept.items()})


def span_limits(limits: Range, values: np.ndarray) -> Range:
    """Return the smallest and the largest value."""
    return limits


def span_percentile(limits: Range, values: np.ndarray) -> Range:
    """Return a range without the outermost 0.01 % of the values on each side.

    Example:
        >>> values = np.append(np.linspace(0, 1, 20_001), [100.0])
        >>> low, high = span_percentile((0.0, 100.0), values)
        >>> round(high, 2)
        1.0
    """
    low, high = np.percentile(values, [100 - PERCENTILE, PERCENTILE])
    return max(limits[0], min(float(low), 0.0)), min(limits[1], max(float(high), 0.0))


def span_least_squares(limits: Range, values: np.ndarray) -> Range:
    """Return the range whose 8-bit integers stand for the values with the least squared error.

    After Sung, Shin and Hwang (2015), "Resiliency of Deep Neural Networks under Quantization":
    clipping and rounding are weighed on a histogram; each side is shrunk in turn.

    Example:
        >>> values = np.append(np.random.default_rng(0).normal(size=2_000_000), [1000.0])
        >>> low, high = span_least_squares((-4.0, 1000.0), values)
        >>> high < 1000
        True
    """
    low, high = limits
    if high - low <= 0:
        return limits
    counts, edges = np.histogram(values, BINS, (low, high))
    filled = counts > 0
    counts, centres = counts[filled], ((edges[1:] + edges[:-1]) / 2)[filled]

    def error(candidate: Range) -> float:
        step = (candidate[1] - candidate[0]) / LEVELS
        if step <= 0:
            return float("inf")
        zero = np.rint(-candidate[0] / step)
        integers = np.clip(np.rint(centres / step) + zero, 0, LEVELS)
        return float(counts @ np.square((integers - zero) * step - centres))

    best = min(((low, high * float(share)) for share in SHRINKAGES), key=error)
    return min(((low * float(share), best[1]) for share in SHRINKAGES), key=error)


RANGES: dict[str, Callable[[Range, np.ndarray], Range]] = {
    "limits": span_limits,
    "least_squares": span_least_squares,
    "percentile": span_percentile,
}
"""Ways to a range, by name."""


SAME_SCALE = frozenset(
    "AVERAGE_POOL_2D BATCH_TO_SPACE_ND BROADCAST_TO CONCATENATION DEPTH_TO_SPACE EXPAND_DIMS "
    "GATHER GATHER_ND MAXIMUM MAX_POOL_2D MINIMUM MIRROR_PAD PACK PAD PADV2 REDUCE_MAX REDUCE_MIN "
    "RESHAPE RESIZE_BILINEAR RESIZE_NEAREST_NEIGHBOR REVERSE_V2 SELECT SELECT_V2 SLICE "
    "SPACE_TO_BATCH_ND SPACE_TO_DEPTH SPLIT SPLIT_V SQUEEZE STRIDED_SLICE TILE TOPK_V2 "
    "TRANSPOSE UNPACK".split()
)
"""Operators whose output the quantizer gives the scale of their input, or the other way round."""


def choose_ranges(seen: Activations, way: str, parsed: Any) -> dict[int, Range]:
    """Return the range of each tensor.

    Where others read the input of an operator of `SAME_SCALE` too, its output gets a range that
    holds that of the input: TensorFlow would narrow the input for all of them.

    Args:
        seen: what `observe` found.
        way: name in `RANGES`.
        parsed: `ModelT` of the float model.
    """
    span = RANGES[way]
    ranges = {index: span(seen.limits[index], seen.values[index]) for index in seen.limits}
    subgraph = parsed.subgraphs[0]
    readers = Counter(int(i) for operator in subgraph.operators for i in set(operator.inputs))
    readers.update(map(int, subgraph.outputs))
    shared = {index for index in ranges if readers[index] > 1}
    for operator in subgraph.operators:
        inputs = shared.intersection(map(int, operator.inputs))
        if not inputs or operator_kind(parsed, operator) not in SAME_SCALE:
            continue
        for output in ranges.keys() & set(map(int, operator.outputs)):
            lows, highs = zip(*(ranges[index] for index in (output, *inputs)), strict=True)
            ranges[output] = min(lows), max(highs)
            shared.add(output)
    return ranges


def widen_sums(limits: Mapping[int, Range], parsed: Any) -> dict[int, Range]:
    """Return ranges of summands that hold their sums too: 16 bits give both one scale.

    Args:
        limits: range of each tensor.
        parsed: `ModelT` of the float model.
    """
    ranges = dict(limits)
    for operator in reversed(parsed.subgraphs[0].operators):
        summand, total = int(operator.inputs[0]), int(operator.outputs[0])
        if operator_kind(parsed, operator) == "SUM" and {summand, total} <= ranges.keys():
            lows, highs = zip(ranges[summand], ranges[total], strict=True)
            ranges[summand] = min(lows), max(highs)
    return ranges
