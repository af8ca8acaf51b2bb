"""Where a consumer's output ends up before the next nonlinearity."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from keras import layers as L

from edgeprune.tracing.graph import Call, Graph


@dataclass(frozen=True)
class Destination:
    """Where a consumer's output ends up.

    Attributes:
        tensor: number of the tensor in which it lands: the sum of a residual block, else the
            normalised output, else the output itself; `None` where the layer's own activation bends
            it first.
        rectified: whether a ReLU is all that follows, so that negative values do not matter.
        normalization: the BatchNormalization in between, if any; it and the consumer are called
            once, so that its moving mean can take a constant that is added to the consumer's
            output.
        added: numbers of the tensors that are added to it, in a residual block.
    """

    tensor: int | None
    rectified: bool = False
    normalization: Call | None = None
    added: tuple[int, ...] = ()


class DestinationFinder:
    """Follows outputs of consumers through one graph."""

    def __init__(self, graph: Graph) -> None:
        """Look once at who consumes what."""
        self._consumers = graph.consumers()
        self._outputs = {ref.number for ref in graph.outputs}
        self._times = Counter(call.path for call in graph.calls)

    def find(self, call: Call) -> Destination:
        """Follow the output of a call through a BatchNormalization and into a residual sum."""
        tensor, activation = call.outputs[0].number, _activation(call.operation)
        if activation != "linear":
            rectified = activation == "relu"
            return Destination(tensor if rectified else None, rectified)
        normalization: Call | None = None
        added: tuple[int, ...] = ()
        following = self._following(tensor)
        if following is not None and self._normalizes(following, call):
            normalization = following
            tensor = following.outputs[0].number
            following = self._following(tensor)
        if following is not None and _is_plain_sum(following):
            added = tuple(ref.number for ref in following.inputs if ref.number != tensor)
            tensor = following.outputs[0].number
            following = self._following(tensor)
        rectified = following is not None and _activation(following.operation) == "relu"
        return Destination(tensor, rectified, normalization, added)

    def _following(self, tensor: int) -> Call | None:
        """Return the only call that takes a tensor; `None` if the model gives it out as well."""
        found = self._consumers.get(tensor, [])
        return found[0] if len(found) == 1 and tensor not in self._outputs else None

    def _normalizes(self, following: Call, call: Call) -> bool:
        """Whether a call normalises the channels that another one makes, and nothing else."""
        layer = following.operation
        often = max(self._times[following.path], self._times[call.path])
        if type(layer) is not L.BatchNormalization or often > 1:
            return False
        rank = len(following.inputs[0].shape)
        first = getattr(call.operation, "data_format", None) == "channels_first"
        return bool(layer.axis % rank == (1 if first else rank - 1))


def _is_plain_sum(call: Call) -> bool:
    """Whether a call adds tensors of one shape, each once."""
    alike = len({ref.shape for ref in call.inputs}) == 1
    distinct = len({ref.number for ref in call.inputs}) == len(call.inputs)
    return type(call.operation) is L.Add and alike and distinct


def _activation(operation: Any) -> str:
    """Return `relu` for a plain rectifier, or the name of a layer's activation."""
    if type(operation) is L.ReLU:
        plain = not operation.negative_slope and not operation.threshold
        return "relu" if plain and operation.max_value is None else "other"
    activation = getattr(operation, "activation", None)
    return "linear" if activation is None else getattr(activation, "__name__", "other")
