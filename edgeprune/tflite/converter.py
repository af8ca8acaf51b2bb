"""Keras to `.tflite`, for one sample at a time, in the number format the board is good at."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeprune.data.preprocessing import Preprocess, parse_preprocess
from edgeprune.support.files import replace_on_success
from edgeprune.tflite.attachments import describe_model
from edgeprune.tflite.content import finish
from edgeprune.tflite.conversion_checks import (
    CALIBRATED,
    INT8,
    Samples,
    check_choices,
    check_input,
    check_labels,
    check_targets,
    read_calibration,
)
from edgeprune.tflite.convertible import Convertible, FloatForm
from edgeprune.tflite.fallback import Fallback
from edgeprune.tflite.layer_errors import LayerError
from edgeprune.tflite.post_training import measure_error
from edgeprune.tflite.quantization import DEFAULT, Quantization
from edgeprune.tflite.tensorflow_lite import explaining

if TYPE_CHECKING:
    import keras

    from edgeprune.tflite.qat.quantized_training import Trained


MOST_ERROR = 0.5
"""Above which a model does not follow the one that it was made of."""


@dataclass(frozen=True, eq=False)
class Conversion:
    """A `.tflite` and what is known about its loss.

    Attributes:
        content: of the file.
        scheme: its number format.
        model: the Keras model it was made from: with trained weights after int8-qat.
        ranges: how the ranges of int8 were found, a name in `RANGES`; `None` for other schemes.
        layers: what each layer of an int8 model lost, in the order of computation.
        loss: share of answers that changed on the calibration samples, or with targets the
            accuracy lost there; `None` where there are no layers.
        trained: what the training of int8-qat did.
        error: of the outputs of an integer model on calibration samples: root mean square of the
            difference to Keras, relative to how much the outputs vary; of outputs that are
            integers themselves the share that differs. `None` for other schemes.
    """

    content: bytes = field(repr=False)
    scheme: str
    model: keras.Model = field(repr=False)
    ranges: str | None = None
    layers: tuple[LayerError, ...] = field(default=(), repr=False)
    loss: float | None = None
    trained: Trained | None = None
    error: float | None = None

    @property
    def warning(self) -> str | None:
        """One line where the integers do not follow the float model."""
        if self.error is None or self.error <= MOST_ERROR:
            return None
        spoilt = [layer for layer in self.layers if (layer.error or 0) > MOST_ERROR]
        others = "--quantize int8, dynamic or float16"
        if self.scheme != "int16x8":
            others = "--fallback 1%, or --quantize int16x8, dynamic or float16"
        where = f"; the first layer that is spoilt is '{spoilt[0].layer}'" if spoilt else ""
        return (
            f"The {self.scheme} model does not follow the float model: on calibration samples its "
            f"outputs are off by {self.error:.0%} of how much they vary{where}. Try {others}."
        )

    @property
    def float_layers(self) -> tuple[str, ...]:
        """Names of the layers that the fallback left in float."""
        return tuple(dict.fromkeys(layer.layer for layer in self.layers if layer.in_float))


def convert(
    model: keras.Model,
    *,
    scheme: str = "int8",
    calibration: Samples | None = None,
    labels: Sequence[str] | None = None,
    io: str = "float32",
    input: str | None = None,
    preprocess: str | Preprocess | None = None,
    provenance: Mapping[str, Any] | None = None,
    quantization: Quantization = DEFAULT,
    path: str | os.PathLike[str] | None = None,
) -> bytes:
    """Convert a Keras model for TensorFlow Lite with a fixed batch of one.

    Boards run one sample at a time and accelerators accept static shapes only. The names of the
    signature are those that `tf.lite.TFLiteConverter.from_keras_model` would give. A model in
    mixed precision is converted in float32.

    Args:
        model: Functional or Sequential; it is not changed.
        scheme: one of `edgeprune.tflite.SCHEMES`.
        calibration: preprocessed samples for the value ranges of integers, and for the training of
            int8-qat, `(n, ...)`; with several inputs a sequence in their order, or a mapping by
            input name. About 100 are enough for ranges.
        labels: class names in the order of the output; they travel inside the file as `labels.txt`.
        io: what goes in and out of an int8 model: "float32" (quantized inside), "int8" or "uint8".
        input: "uint8" puts the scaling of `preprocess` inside the model, which then takes stored
            values, 0 to 255, in every scheme but int16x8; by default the input is as `io` says and
            scaled outside.
        preprocess: how stored values become inputs: raw, unit, symmetric or
            'standardize:mean=..;std=..'; written into the file for whoever prepares the samples.
        provenance: how the model came about, written into the file as JSON.
        quantization: how ranges are found, what may stay in float, how long to train.
        path: where to write the model as well; an existing file is replaced only by a complete one.

    Returns:
        The content of the `.tflite` file.

    Raises:
        ConversionError: the model, the samples or the labels do not fit, or TensorFlow Lite has no
            form for an operator. What the converter wrote is in the notes of the exception.

    Warns:
        UserWarning: integers do not follow the float model on the calibration samples.

    Example:
        >>> import keras                                                     # doctest: +SKIP
        >>> model = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten(),
        ...                           keras.layers.Dense(3)])                # doctest: +SKIP
        >>> content = convert(model, scheme="float32", labels=["cat", "dog", "fox"],
        ...                   path="model.tflite")                           # doctest: +SKIP
    """
    made = convert_in_detail(
        model,
        scheme=scheme,
        calibration=calibration,
        labels=labels,
        io=io,
        input=input,
        preprocess=preprocess,
        provenance=provenance,
        quantization=quantization,
    )
    if path is not None:
        with replace_on_success(path) as temporary:
            Path(temporary).write_bytes(made.content)
    if made.warning:
        warnings.warn(made.warning, stacklevel=2)
    return made.content


def convert_in_detail(
    model: keras.Model | Convertible,
    *,
    scheme: str = "int8",
    calibration: Samples | None = None,
    targets: np.ndarray | None = None,
    labels: Sequence[str] | None = None,
    io: str = "float32",
    input: str | None = None,
    preprocess: str | Preprocess | None = None,
    provenance: Mapping[str, Any] | None = None,
    quantization: Quantization = DEFAULT,
) -> Conversion:
    """Convert as `convert` does, and say what every layer lost.

    Args:
        model: Functional or Sequential; it is not changed. As a `Convertible`, of which several
            files are made, it becomes one in floats only once.
        scheme: one of `edgeprune.tflite.SCHEMES`.
        calibration: samples for ranges and training, as for `convert`.
        targets: true classes of the calibration samples `(n,)`: losses are then accuracy.
        labels: class names in the order of the output.
        io: what goes in and out of an int8 model.
        input: "uint8" puts the scaling inside, as for `convert`.
        preprocess: how stored values become inputs.
        provenance: how the model came about.
        quantization: how ranges are found, what may stay in float, how long to train.

    Returns:
        The content and the losses.

    Raises:
        ConversionError: as `convert`, and: the limit of the fallback cannot be met.
    """
    from edgeprune.tflite.raw_input import take_bytes

    check_choices(scheme, io)
    quantization.check(scheme)
    given = None if preprocess is None else parse_preprocess(preprocess)
    start = Convertible.of(model)
    model, names = start.model, start.names
    inside = check_input(input, given, model, scheme)
    samples = read_calibration(calibration, model, scheme) if scheme in CALIBRATED else None
    check_targets(targets, samples)
    if labels is not None:
        check_labels(labels, model)
    types = (input or io, io)
    quantized, trained = None, None
    with explaining(model, scheme):
        if scheme == "int8-qat" and samples is not None:
            check_operators(start, scheme, fallback=quantization.fallback)
            from edgeprune.tflite.qat.quantized_training import train_for_int8

            trained = train_for_int8(start.source, samples, targets, quantization.training)
            start = Convertible(trained.model)
        source, final = start.source, start.form(scheme)
        raw = None if inside is None else take_bytes(final.model, inside, scheme, samples)
        stored = samples
        if raw is not None:
            final = final if raw.model is final.model else FloatForm(raw.model, names)
            stored = raw.samples
        if stored is None:
            content = final.convert(scheme)
        elif scheme in INT8:
            quantized = final.quantizable(scheme).quantize(
                stored, quantization, io=types, targets=targets
            )
            content = quantized.content
        else:
            content = final.quantizable(scheme).quantize_to_int16(stored)
        attachments = describe_model(model, labels, given, inside is not None, provenance)
        content = finish(content, model.name, list(names.values()), attachments, raw)
        error = None if samples is None else measure_error(source, content, samples, inside)
    return Conversion(
        content,
        scheme,
        model=model if trained is None else source,
        ranges=None if quantized is None else quantized.ranges,
        layers=() if quantized is None else quantized.layers,
        loss=None if quantized is None else quantized.loss,
        trained=trained,
        error=error,
    )


def draft(model: keras.Model) -> bytes:
    """Convert a model to int8 with ranges made up, to look at its operators; its answers are wrong.

    What has no form in int8 stays in float.

    Args:
        model: Functional or Sequential, with inputs of fixed size; it is not changed.

    Raises:
        ConversionError: TensorFlow Lite has no form at all for an operator.
    """
    start = Convertible(model)
    with explaining(start.model, "int8"):
        return start.form("int8").quantizable("int8").draft


def check_operators(
    model: keras.Model | Convertible, scheme: str, *, fallback: Fallback | None = None
) -> None:
    """Refuse what a scheme cannot express, by a trial conversion that takes seconds.

    Args:
        model: Functional or Sequential; it is not changed.
        scheme: one of `edgeprune.tflite.SCHEMES`.
        fallback: with one, operators may stay in float.

    Raises:
        ConversionError: names the operators.
    """
    if scheme not in CALIBRATED:
        return
    start = Convertible.of(model)
    with explaining(start.model, scheme):
        form = start.form(scheme)
        if fallback is None:
            form.quantizable(scheme).check_operators(scheme)
