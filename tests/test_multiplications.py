"""Every layer of Keras with weights: its multiplications by the textbook, or said to be unknown."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import keras
import networks
import numpy as np
import pytest
from keras import layers as L

from edgeprune.cost.cost_model import CostModel
from edgeprune.cost.multiplications import is_counted
from edgeprune.tracing.groups import find_groups
from edgeprune.tracing.keras_internals import PACKAGE

IMAGE, SERIES, VOLUME, FILM = (7, 9, 3), (7, 3), (4, 5, 6, 3), (5, 7, 9, 3)
RNN = L.RNN

# A layer, the shape of a sample, and the multiplications with weights for that sample.
COUNTED: list[tuple[Callable[[], Any], tuple[int, ...], int]] = [
    (lambda: L.Dense(4), (3,), 3 * 4),
    (lambda: L.Dense(4), SERIES, 7 * 3 * 4),
    (lambda: L.EinsumDense("abc,cd->abd", (7, 4)), SERIES, 7 * 3 * 4),
    (lambda: L.Conv1D(4, 3), SERIES, 5 * 3 * 3 * 4),
    (lambda: L.Conv2D(4, 3), IMAGE, 5 * 7 * 9 * 3 * 4),
    (lambda: L.Conv2D(6, 3, groups=3), IMAGE, 5 * 7 * 9 * 6),
    (lambda: L.Conv3D(4, 3), VOLUME, 2 * 3 * 4 * 27 * 3 * 4),
    (lambda: L.Conv1DTranspose(4, 3, 2), SERIES, 7 * 3 * 3 * 4),
    (lambda: L.Conv2DTranspose(4, 3, 2), IMAGE, 7 * 9 * 9 * 3 * 4),
    (lambda: L.Conv3DTranspose(4, 3, 2), VOLUME, 4 * 5 * 6 * 27 * 3 * 4),
    (lambda: L.DepthwiseConv1D(3, depth_multiplier=2), SERIES, 5 * 3 * 3 * 2),
    (lambda: L.DepthwiseConv2D(3, depth_multiplier=2), IMAGE, 5 * 7 * 9 * 3 * 2),
    (lambda: L.SeparableConv1D(4, 3), SERIES, 5 * (3 * 3 + 3 * 4)),
    (lambda: L.SeparableConv2D(4, 3), IMAGE, 5 * 7 * (9 * 3 + 3 * 4)),
    (lambda: L.SimpleRNN(4), SERIES, 7 * (3 + 4) * 4),
    (lambda: L.GRU(4), SERIES, 7 * (3 + 4) * 12),
    (lambda: L.LSTM(4, return_sequences=True), SERIES, 7 * (3 + 4) * 16),
    (lambda: RNN(L.LSTMCell(4)), SERIES, 7 * (3 + 4) * 16),
    (lambda: RNN(L.SimpleRNNCell(4)), SERIES, 7 * (3 + 4) * 4),
    (lambda: RNN([L.GRUCell(4), L.GRUCell(5)]), SERIES, 7 * ((3 + 4) * 12 + (4 + 5) * 15)),
    (lambda: L.ConvLSTM1D(4, 3), IMAGE, 7 * 7 * (3 * 3 + 3 * 4) * 16),
    (lambda: L.ConvLSTM2D(4, 3), FILM, 5 * 5 * 7 * (9 * 3 + 9 * 4) * 16),
    (lambda: L.ConvLSTM3D(4, 3), (2, 4, 5, 6, 3), 2 * 2 * 3 * 4 * 27 * (3 + 4) * 16),
    (lambda: L.Bidirectional(L.LSTM(4)), SERIES, 2 * 7 * (3 + 4) * 16),
    (lambda: L.Bidirectional(L.GRU(4, return_sequences=True), "sum"), SERIES, 2 * 7 * 7 * 12),
    (lambda: L.Bidirectional(RNN(L.LSTMCell(4))), SERIES, 2 * 7 * (3 + 4) * 16),
    (lambda: L.TimeDistributed(L.Dense(4)), SERIES, 7 * 3 * 4),
    (lambda: L.TimeDistributed(L.Conv2D(4, 3)), FILM, 5 * 5 * 7 * 9 * 3 * 4),
    (lambda: L.TimeDistributed(L.Bidirectional(L.LSTM(4))), IMAGE, 7 * 2 * 9 * (3 + 4) * 16),
    (lambda: L.TimeDistributed(L.TimeDistributed(L.Conv1D(4, 3))), FILM, 5 * 7 * 7 * 9 * 4),
    (lambda: L.SpectralNormalization(L.Conv2D(4, 3)), IMAGE, 5 * 7 * 9 * 3 * 4),
    (lambda: Attending(L.MultiHeadAttention(2, 5, 6)), SERIES,
     7 * 3 * 2 * (5 + 5 + 6) + 7 * 12 * 3 + 7 * 7 * 2 * (5 + 6)),
    (lambda: Attending(L.GroupQueryAttention(5, 4, 2)), SERIES,
     7 * 3 * 5 * (4 + 2 + 2) + 7 * 20 * 3 + 7 * 7 * 4 * (5 + 5)),
    (lambda: L.Embedding(9, 4), (7,), 0),
    (lambda: L.BatchNormalization(), IMAGE, 0),
    (lambda: L.LayerNormalization(axis=[1, 2]), IMAGE, 0),
    (lambda: L.RMSNormalization(), IMAGE, 0),
    (lambda: L.GroupNormalization(3), IMAGE, 0),
    (lambda: L.Normalization(axis=(1, 3)), IMAGE, 0),
    (lambda: L.PReLU(), IMAGE, 0),
    (lambda: L.STFTSpectrogram(frame_length=8, frame_step=4, fft_length=8), (40, 1),
     9 * 2 * 8 * 5),
]  # fmt: skip

NOT_CALLED_ALONE = {  # abstract, or around something that is not a layer of Keras
    "FlaxLayer", "JaxLayer", "TFSMLayer", "TorchModuleWrapper", "Layer", "Wrapper",
    "SimpleRNNCell", "GRUCell", "LSTMCell", "StackedRNNCells", "ReversibleEmbedding",
}  # fmt: skip
WEIGHTLESS = {"Attention", "AdditiveAttention"}  # a scale at most, no matrix


class Attending(keras.Model):
    """Self-attention, as a model that is opened."""

    def __init__(self, attention: Any) -> None:
        super().__init__()
        self.attention = attention

    def call(self, x: Any) -> Any:
        return self.attention(x, x)


class Mine(L.Layer):
    """A layer of the user's own, with a matrix."""

    def build(self, shape: Any) -> None:
        self.matrix = self.add_weight(shape=(shape[-1], 4))

    def call(self, x: Any) -> Any:
        return x @ self.matrix

    def compute_output_shape(self, shape: Any) -> Any:
        return (*shape[:-1], 4)


class Cell(L.Layer):
    """A recurrent cell of the user's own."""

    state_size = output_size = 4

    def build(self, shape: Any) -> None:
        self.matrix = self.add_weight(shape=(shape[-1], 4))

    def call(self, x: Any, states: Any) -> Any:
        made = x @ self.matrix + states[0]
        return made, [made]


def build(make: Callable[[], Any], shape: tuple[int, ...]) -> keras.Model:
    inputs = keras.Input(shape)
    return keras.Model(inputs, make()(inputs))


@pytest.mark.parametrize(("make", "shape", "expected"), COUNTED)
def test_multiplications_are_those_of_the_textbook(make: Any, shape: Any, expected: int) -> None:
    costs = CostModel(find_groups(build(make, shape)))
    assert costs.full.macs == expected
    assert not costs.caveat


def test_every_layer_of_keras_with_weights_is_counted() -> None:
    met = set(NOT_CALLED_ALONE | WEIGHTLESS)
    for make, shape, _ in COUNTED:
        model = build(make, shape)
        parts = model._flatten_layers(include_self=False)
        met |= {type(part).__name__ for part in parts}
    for name, kind in vars(L).items():
        owners = kind.__mro__ if inspect.isclass(kind) else ()
        parts = [one for one in owners if one.__module__.startswith(PACKAGE + "layers")]
        parts = [one for one in parts if one is not L.Layer]
        if any("add_weight(" in inspect.getsource(one) for one in parts):
            assert kind.__name__ in met, f"no count of {name}"


def test_an_embedding_that_is_asked_backwards_is_a_matrix() -> None:
    words = keras.Input((7,), dtype="int32")
    layer = L.ReversibleEmbedding(9, 4)
    model = keras.Model(words, layer(layer(words), reverse=True))
    assert CostModel(find_groups(model)).full.macs == 7 * 4 * 9


@pytest.mark.parametrize("make", [Mine, lambda: RNN(Cell()), lambda: L.TimeDistributed(Mine())])
def test_what_cannot_be_counted_is_said(make: Any) -> None:
    costs = CostModel(find_groups(build(make, SERIES)))
    assert len(costs.uncounted) == 1
    assert f"how much layer '{costs.uncounted[0]}' multiplies" in costs.caveat


def test_layers_with_lora_or_quantized_weights_do_not_stop_the_count() -> None:
    inputs = keras.Input((3,))
    adapted, quantized = L.Dense(4, name="adapted"), L.Dense(5, name="quantized")
    model = keras.Model(inputs, quantized(adapted(inputs)))
    adapted.enable_lora(2)
    quantized.quantize("int8")
    costs = CostModel(find_groups(model))
    assert costs.full.macs >= 3 * 4 + 4 * 5
    for call in costs.groups.graph.calls:
        is_counted(call, call.operation)


def test_inside_a_time_distributed_every_step_counts() -> None:
    """The same work, written out step by step, is the oracle."""
    entrance = keras.Input((9, 9, 3))
    x = L.Conv2D(4, 3, padding="same")(entrance)
    x = L.BatchNormalization()(L.DepthwiseConv2D(3, activation="relu")(x))
    inner = keras.Model(entrance, L.Dense(5)(L.GlobalAveragePooling2D()(x)))
    inputs = keras.Input((6, 9, 9, 3))
    whole = keras.Model(inputs, L.TimeDistributed(inner)(inputs))
    steps = [inner(inputs[:, step]) for step in range(6)]
    written_out = keras.Model(inputs, keras.ops.stack(steps, axis=1))
    x = np.ones((2, 6, 9, 9, 3), np.float32)
    networks.randomize(inner)
    np.testing.assert_allclose(whole(x), written_out(x), atol=1e-5)
    assert CostModel(find_groups(whole)).full == CostModel(find_groups(written_out)).full
