"""Find out what an unknown operation without weights does to channels, by running it.

Inputs are changed in the channels whose number has a certain bit set, then in those that have it
clear. An output position that answers to exactly one of the two for every bit depends on one
channel, and the answers spell its number: all channels are told apart in `2 log2(C)` runs. What
answers to both mixes channels, and locks them. In the end some channels are taken away for real,
and the operation must still compute the same for the others.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import keras
import numpy as np

from edgeprune.tracing.graph import fill_in
from edgeprune.tracing.labels import NO_LABEL, LabelSpace, shorten, varying_axes
from edgeprune.tracing.rules.movement import UNKNOWN_SIZE, without_batch
from edgeprune.tracing.rules.registry import BATCH, Labels, Tracing

LARGEST = 2**23
"""Numbers in the input tensors of an operation that is still run."""
SMALL = 6
"""Size of axes without channels at which an operation is tried first."""
MIN_DRAWS, MAX_DRAWS = 3, 12
SCALES = (1.0, 0.3, 3.0, 30.0)
RANDOM_REMOVALS = 6


class _RefusalError(Exception):
    """Why an operation cannot be followed."""


def probe(tracing: Tracing, labels: Sequence[Labels]) -> list[Labels]:
    """Return the labels of the outputs of an operation without weights and without a rule."""
    path = tracing.call.path
    shapes = {ref.number: tracing.example_shape(ref) for ref in tracing.call.inputs}
    if None in shapes.values():
        return tracing.opaque(f"'{path}' needs {UNKNOWN_SIZE}", labels)
    for most in (SMALL, None):
        trial = _Probe(tracing, labels, most)
        try:
            if trial.size > LARGEST:
                raise _RefusalError(f"'{path}' is too large to be tried out")
            found = trial.run()
        except _RefusalError as refusal:
            if most is None or not trial.is_smaller:
                return tracing.opaque(str(refusal), labels)
        else:
            if not trial.is_smaller or trial.fits(found):
                return trial.report(found)
    raise AssertionError("the second trial always returns")


@dataclass
class _Answers:
    """Which bits of channel numbers an output position answered to, set and clear."""

    when_set: np.ndarray
    when_clear: np.ndarray

    def add(self, bit: int, is_set: bool, changed: np.ndarray) -> None:
        target = self.when_set if is_set else self.when_clear
        target |= changed.astype(np.int64) << bit

    def undecided(self, bits: int) -> bool:
        both, either = self.when_set & self.when_clear, self.when_set | self.when_clear
        return bool(((both == 0) & (either != 0) & (either != (1 << bits) - 1)).any())

    @property
    def mixed(self) -> bool:
        return bool((self.when_set & self.when_clear).any())

    @property
    def channel(self) -> np.ndarray:
        """Number of the one channel of each position, `NO_LABEL` for none or several."""
        none = (self.when_set | self.when_clear) == 0
        return np.where(none | ((self.when_set & self.when_clear) != 0), NO_LABEL, self.when_set)


class _Probe:
    """One operation, with its channels numbered from 0 in a label space of their own."""

    def __init__(self, tracing: Tracing, labels: Sequence[Labels], most: int | None) -> None:
        """Number the channels, and choose shapes.

        Args:
            tracing: the call.
            labels: of its inputs.
            most: size to which axes without channels are cut; an operation that needs the real
                size fails and is tried again. `None` leaves them.
        """
        self.tracing = tracing
        self.path = tracing.call.path
        self.generator = np.random.default_rng(0)
        self.space = LabelSpace()
        self.table = np.empty(0, np.int64)
        self.given: dict[int, Labels] = {}
        self.shapes: dict[int, tuple[int, ...]] = {}
        self.types: dict[int, str] = {}
        self.is_smaller = False
        for ref, found in zip(tracing.call.inputs, labels, strict=True):
            if ref.number in self.given:
                continue
            numbers, named = _number(tracing.space.channels(found), found, len(self.space))
            self.given[ref.number] = numbers
            self.space.fresh(len(named))
            self.table = np.append(self.table, named)
            shape = tracing.example_shape(ref) or ()
            self.shapes[ref.number] = shape if most is None else _shrink(shape, found, most)
            self.is_smaller |= self.shapes[ref.number] != shape
            self.types[ref.number] = ref.dtype

    @property
    def size(self) -> int:
        """Numbers in all inputs."""
        return sum(math.prod(shape) for shape in self.shapes.values())

    def run(self) -> list[Labels]:
        """Return the labels of the outputs, in the numbers of this trial."""
        if not len(self.space):
            ranks = [len(shape) for shape in self.tracing.output_shapes]
            return [np.full((1,) * rank, NO_LABEL) for rank in ranks]
        answers = self._ask()
        made = [self._read(found) for found in answers]
        self._remove(made)
        return made

    def fits(self, made: list[Labels]) -> bool:
        """Whether labels found on smaller tensors fit the real ones."""
        return all(
            size in (1, real)
            for found, shape in zip(made, self.tracing.output_shapes, strict=True)
            for size, real in zip(found.shape, shape, strict=True)
        )

    def report(self, made: list[Labels]) -> list[Labels]:
        """Tie and lock in the space of the model, and return its labels."""
        self.tracing.space.adopt(self.space, self.table)
        table = np.append(self.table, NO_LABEL)
        reason = f"made by '{self.path}', which mixes channels"
        return [
            self.tracing.locked_output(index, reason) if (found == NO_LABEL).all() else table[found]
            for index, found in enumerate(made)
        ]

    def _call(self, values: Mapping[int, np.ndarray]) -> list[np.ndarray]:
        tensors = {
            number: keras.ops.convert_to_tensor(value, dtype=self.types[number])
            for number, value in values.items()
        }
        args, kwargs = fill_in(self.tracing.call, tensors)
        try:
            results = keras.tree.flatten(self.tracing.call.operation(*args, **kwargs))
            return [keras.ops.convert_to_numpy(result) for result in results]
        except Exception as error:  # somebody's operation, on random numbers
            raise _RefusalError(
                f"'{self.path}' could not be tried out ({_first_line(error)})"
            ) from error

    def _draw(self, scale: float) -> dict[int, np.ndarray]:
        values: dict[int, np.ndarray] = {}
        for number, shape in self.shapes.items():
            value: np.ndarray = self.generator.normal(0, scale, shape).astype(np.float32)
            if self.types[number] == "bool":
                value = value > 0
            elif "int" in self.types[number]:
                value = (value > 0).astype(np.int64)
            values[number] = value
        return values

    def _changed(self, value: np.ndarray, where: np.ndarray, draw: int) -> np.ndarray:
        """Change numbers so that no usual function hides it: sign and size, or all to one value."""
        if value.dtype.kind == "f":
            return np.where(where, value * (-1.5 if draw % 2 == 0 else 2.5), value)
        other = (1 - value, 0, 1)[draw % 3] if value.dtype.kind == "i" else (~value, 0, 1)[draw % 3]
        return np.where(where, other, value).astype(value.dtype)

    def _ask(self) -> list[dict[int, _Answers]]:
        """Return for each output and each input with channels how positions answered."""
        bits = max(1, int(len(self.space) - 1).bit_length())
        answers: list[dict[int, _Answers]] = []
        asked = [number for number, found in self.given.items() if (found != NO_LABEL).any()]
        for draw in range(MAX_DRAWS):
            base = self._draw(SCALES[draw % len(SCALES)])
            expected = self._call(base)
            if draw == 0:
                self._check_outputs(expected)
                answers = [
                    {
                        n: _Answers(np.zeros(e.shape, np.int64), np.zeros(e.shape, np.int64))
                        for n in asked
                    }
                    for e in expected
                ]
                if not all(map(_equal, expected, self._call(base))):
                    raise _RefusalError(f"'{self.path}' is random")
            for number in asked:
                found = self.given[number]
                for bit in range(bits):
                    for is_set in (True, False):
                        where = (found != NO_LABEL) & (((found >> bit) & 1) == int(is_set))
                        if not where.any():
                            continue
                        spread = np.broadcast_to(where, self.shapes[number])
                        changed = self._changed(base[number], spread, draw)
                        results = self._call({**base, number: changed})
                        for index, (one, other) in enumerate(zip(results, expected, strict=True)):
                            answers[index][number].add(bit, is_set, _differs(one, other))
            undecided = any(a.undecided(bits) for found in answers for a in found.values())
            if draw + 1 >= MIN_DRAWS and not undecided:
                return answers
        raise _RefusalError(f"'{self.path}' answers to changed channels in no clear way")

    def _check_outputs(self, outputs: list[np.ndarray]) -> None:
        for ref, output in zip(self.tracing.call.outputs, outputs, strict=True):
            if output.ndim != len(ref.shape):
                raise _RefusalError(f"'{self.path}' returns tensors of another rank than it says")
            if not self.is_smaller:
                self.tracing.record_shape(ref, output.shape)
            elif output.shape[0] != (ref.shape[0] or BATCH):
                raise _RefusalError(f"'{self.path}' moves positions into the batch")

    def _read(self, answers: dict[int, _Answers]) -> Labels:
        """Return the labels of one output; tie what meets there, lock what mixes."""
        found = []
        for number, answer in answers.items():
            if answer.mixed:
                self.space.lock(self.given[number], f"mixed with other channels by '{self.path}'")
            local = Tracing(self.space, self.tracing.call)
            labels = shorten(without_batch(local, answer.channel))
            if (labels != NO_LABEL).any():
                found.append(self.space.rectangular(labels))
        if not found:
            return np.full((1,) * (len(next(iter(answers.values())).when_set.shape) - 1), NO_LABEL)
        return self.space.rectangular(self.space.merge(found, [one.shape for one in found]))

    def _remove(self, made: list[Labels]) -> None:
        """Check on fewer channels that the others are computed as before, or find what to tie."""
        if self._survives(made):
            return
        held = [found for found in self.given.values() if (found != NO_LABEL).all()]
        sizes = {len(np.unique(found)) for found in held}
        for size in sizes if len(sizes) == 1 else ():
            for groups in range(2, size):
                for ties in _rectangles(size, groups) if size % groups == 0 else ():
                    if self._survives(made, ties):
                        self._tie(self.space, ties)
                        return
        self.space.lock(
            np.arange(len(self.space)),
            f"'{self.path}' depends on the number or the position of channels",
        )

    def _tie(self, space: LabelSpace, ties: np.ndarray) -> None:
        for found in self.given.values():
            if (found != NO_LABEL).all():
                space.tie(found.min() + np.arange(len(ties)), found.min() + ties)

    def _survives(self, made: list[Labels], ties: np.ndarray | None = None) -> bool:
        trial = LabelSpace()
        trial.fresh(len(self.space))
        trial.adopt(self.space, np.arange(len(self.space)))
        if ties is not None:
            self._tie(trial, ties)
        channels = trial.channels(np.arange(len(self.space)))
        free = np.setdiff1d(channels, list(trial.locked()))
        removals = [free[:1], free[1:], free[-1:], free[:-1]]
        removals += [free[self.generator.random(len(free)) < 0.5] for _ in range(RANDOM_REMOVALS)]
        return all(self._survives_removal(made, channels, removed) for removed in removals)

    def _survives_removal(
        self, made: list[Labels], channels: np.ndarray, removed: np.ndarray
    ) -> bool:
        stays = np.append(~np.isin(channels, removed), True)
        for found in [*self.given.values(), *made]:
            if not stays[found].any():
                stays[:-1] |= channels == channels[found.ravel()[0]]
        if stays.all():
            return True
        base = self._draw(1.0)
        expected = self._call(base)
        fewer = {n: _take(value, self.given[n], stays) for n, value in base.items()}
        try:
            found_outputs = self._call(fewer)
        except _RefusalError:
            return False
        return all(
            one.shape == _take(other, labels, stays).shape
            and np.allclose(one, _take(other, labels, stays), 1e-4, 1e-5, equal_nan=True)
            for one, other, labels in zip(found_outputs, expected, made, strict=True)
        )


def _number(channels: Labels, labels: Labels, start: int) -> tuple[Labels, np.ndarray]:
    """Number channels by first appearance from `start`; return also one label for each."""
    named = labels != NO_LABEL
    numbers = np.full(labels.shape, NO_LABEL)
    if not named.any():
        return numbers, np.empty(0, np.int64)
    _, first, inverse = np.unique(channels[named], return_index=True, return_inverse=True)
    order = np.argsort(first)
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    numbers[named] = start + rank[inverse.reshape(-1)]
    return numbers, labels[named][first[order]]


def _first_line(error: Exception) -> str:
    """Return the first line of an error that is not Keras' own frame around it."""
    lines = [line.strip() for line in re.sub(r"\x1b\[\d*m", "", str(error)).splitlines()]
    told = [line for line in lines if line and not line.startswith("Exception encountered")]
    return told[0] if told else type(error).__name__


def _shrink(shape: tuple[int, ...], labels: Labels, most: int) -> tuple[int, ...]:
    """Return a shape with small axes in place of those that hold neither batch nor channels."""
    kept = varying_axes(shorten(labels)) or (labels.ndim - 1,)
    sizes = (size if axis in kept else min(size, most) for axis, size in enumerate(shape[1:]))
    return (*shape[:1], *sizes)


def _rectangles(size: int, groups: int) -> tuple[np.ndarray, np.ndarray]:
    """Return for `size` channels with whom each goes: equal ranks of groups, or whole groups."""
    numbers = np.arange(size)
    return numbers % (size // groups), numbers - numbers % groups


def _differs(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    if one.shape != other.shape:
        return np.ones(other.shape, bool)
    differs = one != other
    if one.dtype.kind == "f":
        differs &= ~(np.isnan(one) & np.isnan(other))
    return differs


def _equal(one: np.ndarray, other: np.ndarray) -> bool:
    return not _differs(one, other).any()


def _take(values: np.ndarray, labels: Labels, stays: np.ndarray) -> np.ndarray:
    for axis in varying_axes(labels):
        kept = np.nonzero(stays[labels.reshape(-1)])[0]
        values = np.take(values, kept, axis=axis + 1)
    return values
