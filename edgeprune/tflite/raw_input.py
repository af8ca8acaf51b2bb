"""Scaling and standardisation inside the model, so that a board feeds the bytes of its camera.

In an integer model most scalings cost nothing: real = (byte - mean) / std is how TensorFlow Lite
describes a quantized input, with mean as its zero point and 1 / std as its scale. A zero point is
one whole number for all channels. Where channels differ, the scaling goes into the first
convolution if that pads nothing (what it pads must be zero *after* the scaling, which a bias cannot
give), and else into a layer in front: a depthwise 1x1 convolution for images, which accelerators
have, a product and a sum for other inputs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from edgeprune.data.preprocessing import Scaling
from edgeprune.tflite.integers import set_input_range
from edgeprune.tracing.graph import build_graph
from edgeprune.tracing.replica import operations_by_path, rebuild, replicate, set_weights

INTEGER_SCHEMES = ("int8", "int8-qat")
_FOLDABLE = (keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.Conv3D)


@dataclass(frozen=True, eq=False)
class RawInput:
    """A model that is converted in place of the user's, and what its stored input means.

    Attributes:
        model: takes bytes, or inputs as before where the range of the input says it all.
        samples: calibration samples for that model, by input name.
        scale: real = (byte - zero_point) * scale; `None` where the input is not quantized.
        zero_point: see scale.
        where: how the scaling was put in, for the report.
    """

    model: keras.Model
    samples: dict[str, np.ndarray] | None
    scale: float | None
    zero_point: int
    where: str

    def describe(self, parsed: Any) -> None:
        """Write the meaning of the input into a model of the TFLite schema, in place."""
        if self.scale is not None:
            set_input_range(parsed, self.scale, self.zero_point)


def take_bytes(
    model: keras.Model,
    scaling: Scaling,
    scheme: str,
    samples: dict[str, np.ndarray] | None,
) -> RawInput:
    """Return what to convert so that the `.tflite` takes bytes.

    Args:
        model: with one input; it is not changed.
        scaling: from bytes to inputs.
        scheme: number format.
        samples: preprocessed calibration samples, by input name.

    Raises:
        DataError: the scaling has another number of channels.
    """
    mean, std = scaling.for_channels(model.inputs[0].shape[-1])
    if scheme not in INTEGER_SCHEMES:
        layer = keras.layers.Rescaling((1 / std).tolist(), (-mean / std).tolist(), name="scaling")
        return RawInput(_in_front(layer, model, "uint8"), samples, None, 0, "layer in front")
    if scaling.is_uniform and 0 <= round(mean[0]) <= 255:
        where = "range of the input"
        return RawInput(model, samples, float(1 / std[0]), round(mean[0]), where)
    stored = {name: scaling.invert(array) for name, array in (samples or {}).items()}
    folded = _fold(model, mean, std)
    if folded is not None:
        return RawInput(folded, stored, 1.0, 0, "first convolution")
    scaled = _in_front(_affine_layer(model, mean, std), model, "float32")
    return RawInput(scaled, stored, 1.0, 0, "layer in front")


def _in_front(layer: keras.Layer, model: keras.Model, dtype: str) -> keras.Model:
    """Return a model that applies a layer to its input, then the given model."""
    given = model.inputs[0]
    stored = keras.Input(given.shape[1:], dtype=dtype, name=given.name)
    return keras.Model(stored, model(layer(stored)), name=model.name)


def _affine_layer(model: keras.Model, mean: np.ndarray, std: np.ndarray) -> keras.Layer:
    shape = model.inputs[0].shape
    if len(shape) != 4:
        return keras.layers.Rescaling((1 / std).tolist(), (-mean / std).tolist(), name="scaling")
    layer = keras.layers.DepthwiseConv2D(1, name="scaling")
    layer.build(shape)
    layer.set_weights([(1 / std).reshape(1, 1, -1, 1), -mean / std])
    return layer


def _fold(model: keras.Model, mean: np.ndarray, std: np.ndarray) -> keras.Model | None:
    """Return a copy whose first convolution takes bytes; `None` where that is not exact."""
    graph = build_graph(model)
    consumers = graph.consumers().get(graph.inputs[0].number, [])
    if len(consumers) != 1 or not _pads_nothing(consumers[0].operation):
        return None
    first = consumers[0].operation
    calls = [call for call in graph.calls if call.operation is first]
    if len(calls) != 1:
        return None
    path = calls[0].path

    def make(place: str, operation: keras.Operation) -> keras.Operation:
        change = _with_bias if place == path else None
        return rebuild(place, operation, change)

    copy, made = replicate(model, make)
    for place, operation in operations_by_path(model).items():
        if isinstance(operation, keras.Layer) and operation.weights and place != path:
            set_weights(made[place], operation.get_weights())
    kernel, *bias = first.get_weights()
    shift = (kernel * (mean / std)[:, None]).sum(axis=tuple(range(kernel.ndim - 1)))
    made[path].set_weights([kernel / std[:, None], (bias[0] if bias else 0) - shift])
    return copy


def _pads_nothing(layer: Any) -> bool:
    if type(layer) not in _FOLDABLE or layer.groups != 1:
        return False
    return layer.padding == "valid" or set(layer.kernel_size) == {1}


def _with_bias(config: dict[str, Any]) -> None:
    config["use_bias"] = True
