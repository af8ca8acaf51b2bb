"""Post-training quantization in steps: observe, choose ranges, find losses, fall back."""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeprune.tflite.conversion_checks import INT8
from edgeprune.tflite.equalization import equalize
from edgeprune.tflite.fallback import choose_float_layers, measure_loss
from edgeprune.tflite.flatbuffer import parse_model, type_name
from edgeprune.tflite.flatbuffer_edits import activations, list_float_operators, order_tensors, pack
from edgeprune.tflite.layer_errors import LayerError, compare_layers
from edgeprune.tflite.operator_rewrites import PICKING, rewrite_operators, separate_readers
from edgeprune.tflite.quantization import Quantization
from edgeprune.tflite.quantizer import to_int8, to_int16
from edgeprune.tflite.ranges import (
    RANGES,
    SAME_SCALE,
    Activations,
    Range,
    choose_ranges,
    observe,
    widen_sums,
)
from edgeprune.tflite.runtime import TFLiteModel
from edgeprune.tflite.tensorflow_lite import check_integer

if TYPE_CHECKING:
    import keras

    from edgeprune.data.preprocessing import Scaling

COMPARED_SAMPLES = 32
POOR = 1e-3
"""Relative squared error of the outputs from which equalization is tried: 3 % of their size."""


@dataclass(frozen=True, eq=False)
class Quantized:
    """An int8 model and how it came about.

    Attributes:
        content: of the `.tflite`.
        ranges: the way its ranges were found, a name in `RANGES`.
        layers: what every layer lost.
        loss: on the calibration samples, as `Fallback.limit` counts it.
    """

    content: bytes
    ranges: str
    layers: tuple[LayerError, ...]
    loss: float


class FloatModel:
    """A float `.tflite` about to be quantized.

    Args:
        content: of the `.tflite`.
        name: of the Keras model, for messages.
        inputs: signature names in the order of the Keras model.
        layers: names of the Keras model's layers.
        scheme: what it will be quantized to.
    """

    def __init__(
        self,
        content: bytes,
        name: str,
        inputs: Sequence[str],
        layers: Collection[str],
        scheme: str = "int8",
    ) -> None:
        self.parsed = parse_model(content)
        rewrite_operators(self.parsed, scheme)
        separate_readers(self.parsed, PICKING)
        if self.parsed.signatureDefs:
            order_tensors(self.parsed, list(inputs))
        if list_float_operators(parse_model(self.draft)):
            separate_readers(self.parsed, SAME_SCALE)
            del self.draft
        self.content = pack(self.parsed)
        subgraph = self.parsed.subgraphs[0]
        self.types = [type_name(subgraph.tensors[index]) for index in subgraph.inputs]
        self.name = name
        self.layers = layers

    def check_operators(self, scheme: str) -> None:
        """Refuse operators without a form in integers, found by a trial with made-up ranges.

        Raises:
            FloatOperatorsError: lists them.
        """
        made_up = dict.fromkeys(activations(self.parsed), (-1.0, 1.0))
        draft = self.draft if scheme in INT8 else to_int16(self.parsed, made_up)
        check_integer(parse_model(draft))

    @cached_property
    def draft(self) -> bytes:
        """The model in int8 with made-up ranges; what has no form in integers stays in float."""
        return to_int8(self.parsed, dict.fromkeys(activations(self.parsed), (-1.0, 1.0)))

    def quantize_to_int16(self, samples: Mapping[str, np.ndarray]) -> bytes:
        """Quantize to 16-bit activations and 8-bit weights; the ranges hold all that was seen.

        Args:
            samples: by input name in the order of the Keras model, each `(n, ...)`.

        Raises:
            FloatOperatorsError: operators have no such form.
        """
        limits = self._observe(self._read(samples)).limits
        content = to_int16(self.parsed, widen_sums(limits, self.parsed))
        check_integer(parse_model(content))
        return content

    def _observe(self, arrays: Sequence[np.ndarray]) -> Activations:
        return observe(self.content, self.parsed, _one_by_one(arrays), total=len(arrays[0]))

    def _read(self, samples: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        return [a.astype(kind) for a, kind in zip(samples.values(), self.types, strict=True)]

    def quantize(
        self,
        samples: Mapping[str, np.ndarray],
        settings: Quantization,
        *,
        io: tuple[str, str],
        targets: np.ndarray | None = None,
    ) -> Quantized:
        """Quantize to int8.

        Args:
            samples: by input name in the order of the Keras model, each `(n, ...)`.
            settings: how ranges are found, and what may stay in float.
            io: type of the inputs, and of the outputs.
            targets: true classes of the samples, for the loss.

        Raises:
            ConversionError: the limit cannot be met.
            FloatOperatorsError: there is no limit, and operators have no form in integers.
        """
        fallback = settings.fallback
        if fallback is None:
            self.check_operators("int8")
        arrays = self._read(samples)
        exact = _predict(self.content, arrays)
        source, choice = self, self._choose(settings.ranges, exact, arrays)
        if choice.lost > POOR and (other := self._equalize(arrays)) is not None:
            found = other._choose(settings.ranges, exact, arrays)
            if found.lost < choice.lost:
                source, choice = other, found

        @cache
        def quantize(kept: tuple[int, ...]) -> tuple[bytes, list[np.ndarray]]:
            """Return a model in integers but for some tensors, and its answers."""
            if not kept:
                return choice.content, choice.answers
            content = to_int8(source.parsed, choice.ranges, keep_float=kept)
            return content, _predict(content, arrays)

        def compare(kept: tuple[int, ...]) -> tuple[LayerError, ...]:
            return compare_layers(
                source.content,
                source.parsed,
                quantize(kept)[0],
                choice.ranges,
                _one_by_one([array[:COMPARED_SAMPLES] for array in arrays]),
                layers=self.layers,
                keep_float=kept,
            )

        def loss_with(kept: Sequence[int]) -> float:
            return measure_loss(exact, quantize(tuple(kept))[1], targets)

        kept: tuple[int, ...] = ()
        layers, loss = compare(kept), loss_with(kept)
        if fallback is None:
            check_integer(parse_model(choice.content))
        elif loss > fallback.limit:
            kept = choose_float_layers(layers, loss_with, fallback.limit)
            layers, loss = compare(kept), loss_with(kept)
        content = quantize(kept)[0]
        if io != ("float32", "float32"):
            content = to_int8(source.parsed, choice.ranges, io=io, keep_float=kept)
        return Quantized(content, choice.way, layers, loss)

    def _equalize(self, arrays: Sequence[np.ndarray]) -> FloatModel | None:
        """Return an equal model whose channels have like ranges, where that may help."""
        parsed = equalize(self.content, _one_by_one(arrays))
        if parsed is None:
            return None
        made = copy.copy(self)
        made.parsed, made.content = parsed, pack(parsed)
        return made

    def _choose(
        self, way: str, exact: Sequence[np.ndarray], arrays: Sequence[np.ndarray]
    ) -> _Choice:
        """Return what the best way to ranges makes of the model; each ranges are tried once."""
        seen = self._observe(arrays)

        @cache
        def quantize(ranges: tuple[tuple[int, Range], ...]) -> tuple[bytes, list[np.ndarray]]:
            content = to_int8(self.parsed, dict(ranges))
            return content, _predict(content, arrays)

        def choose(way: str) -> _Choice:
            ranges = choose_ranges(seen, way, self.parsed)
            content, answers = quantize(tuple(ranges.items()))
            lost = sum(
                float(np.square(one - other).mean() / max(np.square(one).mean(), 1e-12))
                for one, other in zip(exact, answers, strict=True)
            )
            return _Choice(lost, way, ranges, content, answers)

        tried = map(choose, RANGES if way == "auto" else (way,))
        return min(tried, key=lambda choice: choice.lost)


@dataclass(frozen=True, eq=False)
class _Choice:
    """A model in integers with the ranges of one way.

    Attributes:
        lost: error of the outputs, relative and squared.
        way: name in `RANGES`.
        ranges: by tensor.
        content: the file.
        answers: on the calibration samples.
    """

    lost: float
    way: str
    ranges: dict[int, Range]
    content: bytes
    answers: list[np.ndarray]


def _one_by_one(arrays: Sequence[np.ndarray]) -> Iterator[list[np.ndarray]]:
    for index in range(len(arrays[0])):
        yield [array[index : index + 1] for array in arrays]


def _predict(content: bytes, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
    found: Any = TFLiteModel(content).predict(list(arrays) if len(arrays) > 1 else arrays[0])
    return list(found.values()) if isinstance(found, dict) else [found]


def measure_error(
    model: keras.Model,
    content: bytes,
    samples: Mapping[str, np.ndarray],
    inside: Scaling | None = None,
) -> float:
    """Return how far a `.tflite` is off its Keras model, see `Conversion.error`.

    Outputs that hardly vary are held against their size: a hundredth of it is no error.

    Args:
        model: in float32.
        content: of the `.tflite`.
        samples: by input name, each `(n, ...)`, preprocessed.
        inside: the scaling that the file does itself.
    """
    import keras

    from edgeprune.tracing.opening import functional_form

    arrays = [array[:COMPARED_SAMPLES] for array in samples.values()]
    kinds = [tensor.dtype for tensor in model.inputs]
    size = model.inputs[0].shape[0] or len(arrays[0])
    batches = []
    for start in range(0, len(arrays[0]), size):
        flat = [a[start : start + size].astype(k) for a, k in zip(arrays, kinds, strict=True)]
        given = keras.tree.pack_sequence_as(functional_form(model).input, flat)
        batches.append([np.asarray(y) for y in keras.tree.flatten(model(given, training=False))])
    expected = [np.concatenate(parts) for parts in zip(*batches, strict=True)]
    found = _predict(content, arrays if inside is None else [inside.invert(arrays[0])])
    pairs = zip(expected, found, strict=True)  # an output without samples has no error
    return max(
        (_relative_error(*pair) for pair in pairs if pair[0].size == pair[1].size), default=0
    )


def _relative_error(expected: np.ndarray, found: np.ndarray) -> float:
    if expected.dtype.kind != "f":
        return float((expected != found.reshape(expected.shape)).mean())
    exact = expected.astype(np.float64)
    variation = np.sqrt(np.square(exact - exact.mean(axis=0)).mean())
    size = np.sqrt(np.square(exact).mean())
    off = np.sqrt(np.square(exact - found.reshape(exact.shape)).mean())
    return float(off / max(variation, 0.02 * size, 1e-12))
