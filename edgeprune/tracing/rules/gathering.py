"""Channel gathers: what they hand on may go, what they take from may not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

from edgeprune.tracing.labels import Keep
from edgeprune.tracing.rules.registry import Labels, Tracing, place, rule
from edgeprune.tracing.rules.slicing import holding_axis

GATHERED = "read through a channel gather"


class ChannelGather(keras.layers.Layer):
    """Hands on some channels of the last axis; what it hands on is a group of its own.

    Stands in a model only while its channels are being chosen (`edgeprune.surgery.gathers`).

    Example:
        >>> ChannelGather([2, 0])(keras.ops.array([[5.0, 6.0, 7.0]])).shape[-1]
        2
    """

    def __init__(self, positions: Sequence[int], **options: Any) -> None:
        """Remember which channels.

        Args:
            positions: of the channels that are handed on.
            options: of a Keras layer.
        """
        super().__init__(**options)
        self.positions = [int(position) for position in positions]

    def call(self, x: Any) -> Any:
        """Return the channels."""
        return keras.ops.take(x, self.positions, axis=-1)

    def compute_output_shape(self, shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """Return the shape of the output."""
        return (*shape[:-1], len(self.positions))

    def get_config(self) -> dict[str, Any]:
        """Return the arguments."""
        return {**super().get_config(), "positions": list(self.positions)}


@rule(ChannelGather)
def gather_channels(tracing: Tracing, layer: Any, x: Labels) -> Labels:
    """Hand on channels of a group of their own."""
    held = holding_axis(tracing, x)
    if held is None:
        return x
    axis, along = held
    tracing.space.lock(along, GATHERED)
    made = tracing.space.fresh(len(layer.positions))

    def change(config: dict[str, Any], keep: Keep) -> None:
        config["positions"] = [layer.positions[position] for position in keep(made)]

    tracing.change_config(change)
    return place(made, axis, x.ndim)
