"""What a pruned model is trained towards: the original's answers, labels, and attention maps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import ops

from edgeprune.surgery.precision import in_float32
from edgeprune.tracing.graph import layer_outputs
from edgeprune.tracing.opening import functional_form
from edgeprune.tracing.outputs import Kind
from edgeprune.tracing.replica import replace_softmax

LossFunction = Callable[[Any, Any], Any]


@dataclass(frozen=True)
class Objective:
    """What one output of a pruned model is compared by.

    Attributes:
        kind: `classes` exclude each other and are compared as distributions, `independent` ones
            each by itself, `values` by their squared error.
        labelled: whether labels follow the original's answer in what the loss is given.
    """

    kind: Kind
    labelled: bool = False

    def make_loss(self, *, share: float, temperature: float, scale: float = 1.0) -> LossFunction:
        """Return a Keras loss.

        Args:
            share: of the original's answers in the loss, where there are labels.
            temperature: of class distributions.
            scale: by which squared errors are divided.
        """
        if self.kind == "values":
            return lambda wanted, found: ops.mean(ops.square(found - wanted)) / scale
        if self.kind == "independent":
            return lambda wanted, found: ops.mean(
                ops.maximum(found, 0)
                - found * ops.sigmoid(wanted)
                + ops.log1p(ops.exp(-ops.abs(found)))
            )

        def distill(wanted: Any, found: Any) -> Any:
            count = found.shape[-1]
            answer = ops.log_softmax(wanted[..., :count] / temperature, axis=-1)
            reply = ops.log_softmax(found / temperature, axis=-1)
            divergence = ops.sum(ops.exp(answer) * (answer - reply), axis=-1)
            loss = temperature**2 * ops.mean(divergence)
            if not self.labelled:
                return loss
            surprise = -ops.sum(wanted[..., count:] * ops.log_softmax(found, axis=-1), axis=-1)
            return share * loss + (1 - share) * ops.mean(surprise)

        return distill


def find_block_ends(model: keras.Model, other: keras.Model) -> list[str]:
    """Return layers at which two models can be compared by attention: the last of each map size.

    Args:
        model: with one input.
        other: a model whose layers have the same names.
    """
    names = layer_outputs(other).keys()
    last: dict[tuple[int, ...], str] = {}
    for name, tensor in layer_outputs(model).items():
        shape = tensor.shape
        is_map = len(shape) == 4 and None not in shape[1:3] and min(shape[1:3]) > 1
        if is_map and name in names:
            last[tuple(shape[1:3])] = name
    return list(last.values())


def attend(features: Any) -> Any:
    """Return where a layer is active, whatever its width: `(batch, height * width)`, of length 1.

    Attention transfer after Zagoruyko and Komodakis (2017): mean square over channels.
    """
    maps = ops.mean(ops.square(features), axis=-1)
    flat = ops.reshape(maps, (-1, int(np.prod(maps.shape[1:]))))
    return flat / (ops.sqrt(ops.sum(ops.square(flat), axis=-1, keepdims=True)) + 1e-6)


def make_comparable(model: keras.Model, block_ends: list[str]) -> tuple[keras.Model, keras.Model]:
    """Return a float32 copy that ends in logits, and the same with attention maps as more outputs.

    Args:
        model: the original or the pruned model; it is not changed.
        block_ends: names of layers; none makes both results the same model.
    """
    copy = in_float32(replace_softmax(model))
    if not block_ends:
        return copy, copy
    form, made = functional_form(copy), layer_outputs(copy)
    maps = [attend(made[name]) for name in block_ends]
    return copy, keras.Model(form.inputs, [*form.outputs, *maps])
