"""The one activation whose formula changed: Keras 2 clips 0.2 x + 0.5, Keras 3 clips x / 6 + 0.5.

The old function of x is the new one of 1.2 x, so 1.2 goes into the weights in front of it.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from edgeprune.errors import ModelError

FACTOR = 1.2
_GATES = {"LSTM": "ifco", "GRU": "zrh", "ConvLSTM1D": "ifco", "ConvLSTM2D": "ifco"}
_GATED = "ifozr"


def needs_scaling(layer: keras.Layer) -> bool:
    """Say whether a layer that Keras 2 described applies a hard sigmoid to its own sums.

    Raises:
        ModelError: the hard sigmoid is where no weight can carry the factor.
    """
    inside = _is_hard(getattr(layer, "activation", None)) and not isinstance(
        layer, keras.layers.Activation
    )
    gates = _is_hard(getattr(layer, "recurrent_activation", None))
    if inside and not hasattr(layer, "kernel_size") and not isinstance(layer, keras.layers.Dense):
        raise ModelError(
            f"Layer '{layer.name}' ({type(layer).__name__}) uses the hard sigmoid of Keras 2, "
            "which Keras 3 replaced by another function. Rebuild the layer and save the model "
            "again."
        )
    return inside or gates


def scale(layer: keras.Layer, arrays: list[np.ndarray]) -> list[np.ndarray]:
    """Return the weights with which the hard sigmoid of Keras 3 gives that of Keras 2."""
    gates = _GATES.get(type(layer).__name__)
    if gates is not None:
        per_gate = [FACTOR if gate in _GATED else 1.0 for gate in gates]
        return [array * np.repeat(per_gate, array.shape[-1] // len(gates)) for array in arrays]
    if type(layer).__name__.startswith("Separable"):
        return [arrays[0], *(array * FACTOR for array in arrays[1:])]
    return [array * FACTOR for array in arrays]


def layer_before(name: str) -> keras.Layer:
    """Make the layer that stands before an Activation layer, where there are no weights."""
    return keras.layers.Rescaling(FACTOR, name=f"{name}_scale")


def is_activation_layer(entry: dict[str, Any]) -> bool:
    """Say whether an entry is an Activation layer with the hard sigmoid."""
    activation = entry["config"].get("activation") if entry["class_name"] == "Activation" else None
    return "hard_sigmoid" in (activation, isinstance(activation, dict) and activation.get("config"))


def _is_hard(function: Any) -> bool:
    return function is keras.activations.hard_sigmoid
