"""What TensorFlow Lite will have to do for a model, as a function of its group widths.

The model is not built and not converted: the calls of the graph are turned into the operators that
the converter makes of them, BatchNorm folded and ReLU fused where it does so. Every size of every
operator is linear in the widths, so the work at many candidate widths is two matrix products.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from edgeprune.cost.steps import Step, list_steps
from edgeprune.errors import ModelError
from edgeprune.latency.operators import Workload
from edgeprune.tracing.graph import TensorRef
from edgeprune.tracing.groups import Axis, Groups
from edgeprune.tracing.vanishing import find_handed_on

Widths = Mapping[str, int]
IN_PLACE = ("ADD", "SUB", "MUL", "SOFTMAX")
"""Operators that write over what they read where nobody else reads it."""


@dataclass(frozen=True)
class _Linear:
    """Sizes that are linear in the widths: `rows @ widths + constants`."""

    rows: np.ndarray
    constants: np.ndarray

    def at(self, widths: np.ndarray) -> np.ndarray:
        return widths @ self.rows.T + self.constants


def emptied(widths: Widths) -> frozenset[str]:
    """Return the names of the groups that keep no channel."""
    return frozenset(name for name, width in widths.items() if width == 0)


def linear_size(groups: Groups, axis: Axis) -> tuple[np.ndarray, float]:
    """Return the size of an axis as `row @ widths + constant`, the row `(groups,)`."""
    row = np.zeros(len(groups))
    held, counts = np.unique(axis.group, return_counts=True)
    for number, count in zip(held.tolist(), counts.tolist(), strict=True):
        if number >= 0:
            row[number] = count / groups.groups[number].width
    return row, float((axis.group < 0).sum())


class WorkloadModel:
    """The operators of a model at any widths.

    Example:
        >>> import keras
        >>> from edgeprune.tracing.groups import find_groups
        >>> model = keras.Sequential([
        ...     keras.Input((4,)), keras.layers.Dense(8, name="hidden"), keras.layers.Dense(2)])
        >>> work = WorkloadModel(find_groups(model))
        >>> work.at({"hidden": 3}).macs.sum(), work.at({}).kinds
        (np.float64(18.0), ('fully_connected', 'fully_connected'))
    """

    def __init__(self, groups: Groups, *, float_ends: bool = False) -> None:
        """List the operators.

        Args:
            groups: of the model.
            float_ends: whether inputs are quantized and outputs widened inside the model.

        Raises:
            ModelError: the model's input has no fixed size.
        """
        open_sizes = [ref.shape for ref in groups.graph.inputs if None in ref.shape[1:]]
        if open_sizes:
            raise ModelError(
                f"Latency, energy and memory need a model with a fixed input; found {open_sizes}. "
                "Build it with a fixed keras.Input(shape)."
            )
        self.groups = groups
        self.full = np.array([group.width for group in groups], dtype=float)
        graph = groups.graph
        self.steps = list_steps(graph)
        self._tensors, self._live, self._roles = self._lifetimes(self.steps)
        if float_ends:
            self.steps = [
                *(Step("elementwise", (ref,), (ref,), name="QUANTIZE") for ref in graph.inputs),
                *self.steps,
                *(Step("elementwise", (ref,), (ref,), name="DEQUANTIZE") for ref in graph.outputs),
            ]
        self._channels = self._stack([self._channels_of(step) for step in self.steps])
        self._depth = self._stack([self._depth_of(step) for step in self.steps])
        self._read = self._stack([self._sum(step.reads) for step in self.steps])
        self._written = self._stack([self._sum(step.writes) for step in self.steps])

    def _stack(self, parts: list[tuple[np.ndarray, float]]) -> _Linear:
        rows = np.array([row for row, _ in parts]).reshape(len(parts), len(self.groups))
        return _Linear(rows, np.array([constant for _, constant in parts]))

    def _elements(self, ref: TensorRef) -> tuple[np.ndarray, float]:
        """Return the number of elements of a tensor as a row and a constant."""
        row, constant, count = self._held(ref)
        volume = ref.times * math.prod(size or 1 for size in ref.shape[1:])
        return row * volume / count, constant * volume / count

    def _channel_axis(self, ref: TensorRef, axis: int) -> tuple[np.ndarray, float]:
        """Return the number of channels of a tensor."""
        row, constant, count = self._held(ref)
        if count == 1:
            last = ref.shape[axis] if len(ref.shape) > 1 else 1
            return row * (last or 1), constant * (last or 1)
        return row, constant

    def _held(self, ref: TensorRef) -> tuple[np.ndarray, float, int]:
        axis = self.groups.tensors[ref.number]
        return *linear_size(self.groups, axis), max(len(axis.group), 1)

    def _sum(self, refs: tuple[TensorRef, ...]) -> tuple[np.ndarray, float]:
        rows, constants = np.zeros(len(self.groups)), 0.0
        for ref in refs:
            row, constant = self._elements(ref)
            rows, constants = rows + row, constants + constant
        return rows, constants

    def _channels_of(self, step: Step) -> tuple[np.ndarray, float]:
        if step.fixed is not None:
            return np.zeros(len(self.groups)), step.fixed[0]
        if step.kind in ("elementwise", "movement") or not step.writes:
            return np.zeros(len(self.groups)), 0.0
        return self._channel_axis(step.writes[0], step.axis)

    def _depth_of(self, step: Step) -> tuple[np.ndarray, float]:
        if step.fixed is not None:
            return np.zeros(len(self.groups)), step.fixed[1]
        if step.kind in ("elementwise", "movement"):
            return np.zeros(len(self.groups)), 0.0
        if step.kind == "depthwise":
            return np.zeros(len(self.groups)), float(step.taps)
        row, constant = self._channel_axis(step.reads[0], step.axis)
        return row * step.taps / step.divisions, constant * step.taps / step.divisions

    def _lifetimes(self, steps: list[Step]) -> tuple[_Linear, np.ndarray, np.ndarray]:
        """Return the sizes of the activations, when each is alive, and which of them are ends.

        The first moment is before the first step and the last one after the last: what is given and
        what is answered has a type of its own there, and stays beside what is computed with.
        """
        given, answered = self.groups.graph.inputs, self.groups.graph.outputs
        tensors: dict[int, TensorRef] = {ref.number: ref for ref in given}
        first = dict.fromkeys(tensors, 0)
        last = dict.fromkeys(tensors, 0)
        same: dict[int, int] = {}  # what is only looked at in another shape, as what it was
        readers = Counter(ref.number for step in steps for ref in step.reads)
        ends = {ref.number for ref in (*given, *answered)}
        for index, step in enumerate(steps, start=1):
            if step.name in IN_PLACE and (written := step.writes[0]).number not in ends:
                for ref in step.reads:
                    alone = readers[ref.number] == 1 and ref.number not in ends
                    if alone and ref.shape == written.shape and ref.number != written.number:
                        same[written.number] = same.get(ref.number, ref.number)
                        break
            if step.kind == "movement":
                origin = same.get(step.reads[0].number, step.reads[0].number)
                same.update(dict.fromkeys((ref.number for ref in step.writes), origin))
                last[origin] = index
                continue
            for ref in step.writes:
                number = same.get(ref.number, ref.number)
                tensors.setdefault(number, ref)
                first.setdefault(number, index)
                last[number] = index
            for ref in step.reads:
                last[same.get(ref.number, ref.number)] = index
        end = len(steps) + 1
        last.update(dict.fromkeys((same.get(ref.number, ref.number) for ref in answered), end))
        spans = [(first[number], last[number]) for number in tensors]
        spans += [(0, end)] * len(given) + [(end, end)] * len(answered)
        live = np.zeros((end + 1, len(spans)))
        for column, (start, stop) in enumerate(spans):
            live[start : stop + 1, column] = 1
        refs = [*tensors.values(), *given, *answered]
        roles = np.array([0] * len(tensors) + [1] * len(given) + [2] * len(answered))
        roles[: len(given)] = -1  # the inputs as they are computed with
        return self._stack([self._elements(ref) for ref in refs]), live, roles

    def chosen(self, widths: Widths) -> np.ndarray:
        """Return the width of every group, `(groups,)`; those not named keep theirs.

        What goes along with groups of width 0 has none either.
        """
        found = self.full.copy()
        vanished = self.groups.vanishing.close(emptied(widths))
        for name, width in {**widths, **dict.fromkeys(vanished.groups, 0)}.items():
            found[self.groups.index[name]] = width
        return found

    def at(self, widths: Widths | np.ndarray) -> Workload:
        """Return the operators at some widths.

        Args:
            widths: by group name, or `(..., groups)` for many candidates at once, which must have
                the same groups of width 0.
        """
        chosen = widths if isinstance(widths, np.ndarray) else self.chosen(widths)
        left = self._find_steps(chosen)
        steps = [self.steps[index] for index in left]
        parts = (self._channels, self._depth, self._read, self._written)
        return Workload(
            tuple(step.kind for step in steps),
            tuple(step.name for step in steps),
            np.array([step.positions for step in steps], dtype=float),
            np.array([step.taps for step in steps], dtype=float),
            *(part.at(chosen)[..., left] for part in parts),
        )

    def _find_steps(self, chosen: np.ndarray) -> list[int]:
        """Return the operators that are left where groups have width 0, by index."""
        gone = np.nonzero(chosen.reshape(-1, len(self.groups))[0] == 0)[0].tolist()
        if not gone:
            return list(range(len(self.steps)))
        names = frozenset(self.groups.groups[number].name for number in gone)
        vanished = self.groups.vanishing.close(names)
        graph = self.groups.graph
        handed = find_handed_on(graph, vanished)
        made = vanished.computed - handed
        return [
            index
            for index, step in enumerate(self.steps)
            if any(ref.number in made for ref in step.writes)
        ]

    def peak_bytes(
        self,
        widths: Widths | np.ndarray,
        item: int = 1,
        ends: tuple[int | None, int | None] = (None, None),
    ) -> np.ndarray:
        """Return the most that activations take at once.

        Args:
            widths: as for `at`.
            item: bytes of a value inside the model.
            ends: bytes of a value that goes in, and of one that comes out, where it is converted;
                `None` where it is not.
        """
        chosen = widths if isinstance(widths, np.ndarray) else self.chosen(widths)
        given, answered = ends
        sizes = {-1: 0 if given is None else item, 0: item, 1: given or item, 2: answered or 0}
        weights = np.array([sizes[role] for role in self._roles.tolist()])
        return ((self._tensors.at(chosen) * weights) @ self._live.T).max(axis=-1)
