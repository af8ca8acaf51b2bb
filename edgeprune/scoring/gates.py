"""A model with one gate per channel of a group, wherever a known layer reads it.

At 1 a gate lets its channel through, at 0 the consumers see nothing of it, exactly as in
`mask_channels`. Gates may be numbers of the user or tensors that gradients are taken by.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from keras import ops

from edgeprune.scoring.consumers import Consumer, find_consumers
from edgeprune.tracing.graph import Call, Graph, run
from edgeprune.tracing.groups import Groups

Tensor = Any


@dataclass(frozen=True)
class GatedModel:
    """A model whose groups can be gated.

    Attributes:
        groups: of the model, which is in their graph.
        graph: what is executed: the whole model, or the rest of it (see `after`).

    Example:
        >>> import keras
        >>> from edgeprune.tracing.groups import find_groups
        >>> model = keras.Sequential([
        ...     keras.Input((2,)), keras.layers.Dense(3, name="hidden"), keras.layers.Dense(1)])
        >>> gated = GatedModel.of(find_groups(model))
        >>> gated.gated
        ('hidden',)
        >>> (silent,) = gated.run([np.ones((4, 2), np.float32)], {"hidden": np.zeros(3)})
        >>> float(np.abs(silent).max())  # the last layer's bias
        0.0
    """

    groups: Groups
    graph: Graph

    @classmethod
    def of(cls, groups: Groups) -> GatedModel:
        """Return the whole model of some groups."""
        return cls(groups, groups.graph)

    @cached_property
    def _consumers(self) -> dict[str, Consumer]:
        return {consumer.path: consumer for consumer in find_consumers(self.groups)}

    @cached_property
    def gated(self) -> tuple[str, ...]:
        """Names of the removable groups that a known layer reads: those that can be gated."""
        read = {
            number
            for consumer in self._consumers.values()
            for number in np.unique(consumer.axis.group).tolist()
        }
        return tuple(
            group.name for group in self.groups.removable if self.groups.index[group.name] in read
        )

    def run(
        self,
        inputs: Sequence[Tensor],
        gates: Mapping[str, Tensor],
        fills: Mapping[str, np.ndarray] | None = None,
    ) -> list[Tensor]:
        """Execute the model.

        Args:
            inputs: one tensor per input of the graph.
            gates: group name -> `(width,)`, or `(batch, width)` for gates of each sample; groups
                that are not named are open.
            fills: path of a consumer -> `(positions of its reading axis,)` what it sees in place of
                a closed channel; 0 by default.

        Returns:
            One tensor per output.
        """
        tensors = [ops.convert_to_tensor(value) for value in inputs]
        closable = {
            name: ops.cast(ops.convert_to_tensor(g), "float32") for name, g in gates.items()
        }
        constants = {} if fills is None else fills

        def on_call(call: Call, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            consumer = self._consumers.get(call.path)
            if consumer is not None:
                seen = _apply(self.groups, consumer, args[0], closable, constants.get(call.path))
                args = (seen, *args[1:])
            return call.operation(*args, **kwargs)

        return run(self.graph, tensors, on_call)

    def after(
        self, name: str, inputs: Sequence[Tensor], gates: Mapping[str, Tensor] | None = None
    ) -> tuple[GatedModel, list[Tensor]]:
        """Run up to the first layer that reads a group, so that the rest can be run many times.

        Args:
            name: of a group that can be gated.
            inputs: one tensor per input of the model.
            gates: of groups that are read before.

        Returns:
            The rest of the model, and what its inputs are on these samples.
        """
        number = self.groups.index[name]
        calls = self.graph.calls
        start = next(
            index
            for index, call in enumerate(calls)
            if call.path in self._consumers
            and (self._consumers[call.path].axis.group == number).any()
        )
        made = {ref.number for ref in self.graph.inputs}
        made |= {ref.number for call in calls[:start] for ref in call.outputs}
        needed = {
            ref.number: ref
            for ref in (*(r for call in calls[start:] for r in call.inputs), *self.graph.outputs)
            if ref.number in made
        }
        border = tuple(needed.values())
        before = replace(self, graph=replace(self.graph, calls=calls[:start], outputs=border))
        rest = replace(self, graph=replace(self.graph, calls=calls[start:], inputs=border))
        return rest, before.run(inputs, gates or {})


def input_positions(consumer: Consumer, channels: int) -> np.ndarray:
    """Return for each channel of a consumer's input the position of its reading axis.

    Args:
        consumer: whose kernel's axis may be longer (a depth multiplier in a separable convolution)
            or shorter (channel groups of a convolution) than its input.
        channels: of its input.
    """
    size = consumer.axis.group.size
    if channels < size:
        return np.arange(0, size, size // channels)
    return np.tile(np.arange(size), channels // size)


def _apply(
    groups: Groups,
    consumer: Consumer,
    x: Tensor,
    gates: Mapping[str, Tensor],
    fill: np.ndarray | None,
) -> Tensor:
    """Multiply what a consumer takes with the gates of its channels."""
    numbers = [groups.index[name] for name in gates]
    if not np.isin(consumer.axis.group, numbers).any():
        return x
    first = getattr(consumer.layer, "data_format", None) == "channels_first"
    axis = 1 if first else len(x.shape) - 1
    positions = input_positions(consumer, int(x.shape[axis]))
    index = np.zeros(len(positions), np.int32)  # an open gate stands in front of all
    start = 1
    for number, name in zip(numbers, gates, strict=True):
        held = consumer.axis.group[positions] == number
        index[held] = start + consumer.axis.channel[positions][held]
        start += groups[name].width
    given = list(gates.values())
    each = [g for g in given if len(g.shape) == 2]
    if each:
        batch = ops.shape(each[0])[0]
        given = [
            g if len(g.shape) == 2 else ops.broadcast_to(g, (batch, g.shape[0])) for g in given
        ]
        given.insert(0, ops.ones((batch, 1), "float32"))
    else:
        given.insert(0, ops.ones((1,), "float32"))
    gate = ops.take(ops.concatenate(given, axis=-1), index, axis=-1)
    if each and x.shape[0] != gate.shape[0]:  # steps of sequences, one sample after the other
        gate = ops.repeat(gate, int(x.shape[0]) // int(gate.shape[0]), axis=0)
    shape = [1] * len(x.shape)
    shape[0], shape[axis] = (-1 if each else 1), len(positions)
    gate = ops.cast(ops.reshape(gate, shape), x.dtype)
    if fill is None:
        return x * gate
    there = np.zeros(shape[1:], np.float32) + fill[positions].reshape(
        [len(positions) if a == axis else 1 for a in range(1, len(x.shape))]
    )
    return x * gate + (1 - gate) * ops.cast(ops.convert_to_tensor(there), x.dtype)
