"""Where a constant goes that a recovery wants to add to a consumer's output."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

import keras
import numpy as np

from edgeprune.scoring.destinations import Destination
from edgeprune.tracing.replica import operations_by_path, rebuild, replicate, reproduce, set_weights


class Receiver(Protocol):
    """A layer whose output a recovery shifts."""

    @property
    def path(self) -> str:
        """Path of the layer."""
        ...

    @property
    def destination(self) -> Destination:
        """Where its output ends up."""
        ...


def give_biases(smaller: keras.Model, consumers: Iterable[Receiver]) -> keras.Model:
    """Return a copy in which consumers can take a constant.

    A consumer without a bias gets one, at zero, unless a BatchNormalization follows: Keras
    subtracts that layer's moving mean, so the constant goes there and the layer stays as the user
    built it.

    Args:
        smaller: a pruned model; not changed.
        consumers: of the original, those that need to take a constant.
    """
    operations: Mapping[str, Any] = operations_by_path(smaller)
    without = {
        consumer.path
        for consumer in consumers
        if not operations[consumer.path].use_bias and consumer.destination.normalization is None
    }

    def make(path: str, operation: keras.Operation) -> keras.Operation:
        if path in without:
            return rebuild(path, operation, lambda config: config.update(use_bias=True))
        return reproduce(path, operation)

    copy, made = replicate(smaller, make)
    for path, operation in operations.items():
        weights = operation.get_weights() if isinstance(operation, keras.Layer) else []
        if path in without:
            weights = [*weights, np.zeros(made[path].bias.shape)]
        if weights:
            set_weights(made[path], weights)
    return copy


def add_constant(operations: Mapping[str, Any], consumer: Receiver, constant: np.ndarray) -> None:
    """Add a constant to what a consumer of a pruned model gives, in its bias or the next BatchNorm.

    Args:
        operations: of the model that `give_biases` returned, by path; changed in place.
        consumer: of the original.
        constant: `(kept outputs,)`.
    """
    layer, normalization = operations[consumer.path], consumer.destination.normalization
    if layer.use_bias:
        layer.bias.assign(keras.ops.convert_to_numpy(layer.bias) + constant)
    elif normalization is not None:
        mean = operations[normalization.path].moving_mean
        mean.assign(keras.ops.convert_to_numpy(mean) - constant)
