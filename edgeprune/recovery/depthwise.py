"""Refit of depthwise kernels: one small least-squares problem per channel, all solved at once."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
from keras import layers, ops

from edgeprune.scoring.destinations import Destination, DestinationFinder
from edgeprune.support.linear_algebra import Definite
from edgeprune.tracing.graph import Call
from edgeprune.tracing.groups import Axis, Groups

ROUNDS = 4


@dataclass(frozen=True)
class Depthwise:
    """A depthwise convolution with one output per channel that is called once.

    Attributes:
        call: of the original.
        axis: the axis of its kernel that holds the channels.
        destination: where its output ends up.
    """

    call: Call
    axis: Axis
    destination: Destination

    @property
    def path(self) -> str:
        """Path of the layer."""
        return self.call.path

    @property
    def layer(self) -> Any:
        """The layer of the model the groups were traced on."""
        return self.call.operation


def find_depthwise(groups: Groups) -> tuple[Depthwise, ...]:
    """Return the depthwise convolutions that can be refitted, in call order.

    Args:
        groups: of the model.
    """
    times = Counter(call.path for call in groups.graph.calls)
    axes = {(axis.layer, axis.weight, axis.axis): axis for axis in groups.axes}
    destinations = DestinationFinder(groups.graph)
    found = []
    for call in groups.graph.calls:
        layer = call.operation
        if type(layer) not in {layers.DepthwiseConv1D, layers.DepthwiseConv2D}:
            continue
        axis = axes.get((call.path, 0, len(layer.kernel.shape) - 2))
        if layer.depth_multiplier == 1 and times[call.path] == 1 and axis is not None:
            found.append(Depthwise(call, axis, destinations.find(call)))
    return tuple(found)


def fit_depthwise(
    original: Any,
    smaller: Any,
    before: np.ndarray,
    after: np.ndarray,
    kept: np.ndarray,
    scale: np.ndarray,
    shift: np.ndarray,
    *,
    ridge: float,
    rectified: bool,
) -> np.ndarray:
    """Return what to add to a pruned depthwise kernel and to its constant.

    Args:
        original: the layer of the original, C channels.
        smaller: the same layer of the pruned model, K channels.
        before: `(n, taps * C)` patches of the original.
        after: `(n, taps * K)` patches of the pruned model at the same places.
        kept: `(K,)` channels of the original that stay.
        scale: `(K,)` of the BatchNormalization that follows; 1 if none does.
        shift: `(K,)` likewise; 0 if none does.
        ridge: pull towards the kernel as it is, as a fraction of the mean diagonal.
        rectified: whether a ReLU follows, so that negative values need not be matched.

    Returns:
        `(taps + 1, K)`: taps, then the constant.
    """
    kernel, bias = _taps(original)
    seen = before.reshape(len(before), len(kernel), -1)[:, :, kept]
    target = (np.einsum("ntc,tc->nc", seen, kernel[:, kept]) + bias[kept]) * scale + shift
    current, constant = _taps(smaller)
    x = np.moveaxis(after.reshape(len(after), len(current), -1), 2, 0)
    x = np.pad(x, ((0, 0), (0, 0), (0, 1)), constant_values=1)
    start = np.vstack([current, constant])
    base = np.einsum("cnt,tc->nc", x, start) * scale + shift
    normal = np.matmul(x.transpose(0, 2, 1), x).astype(np.float64)
    diagonal = np.einsum("cii->ci", normal)
    tiny = float(np.finfo(np.float32).tiny)
    diagonal[:, :-1] += np.maximum(ridge * diagonal[:, :-1].mean(axis=1, keepdims=True), tiny)
    diagonal[:, -1] += tiny
    matrices = [Definite(matrix) for matrix in normal]
    change = np.zeros_like(start, dtype=np.float64)
    for _ in range(ROUNDS if rectified else 1):
        goal = target
        if rectified:
            found = base + np.einsum("cnt,tc->nc", x, change.astype(np.float32)) * scale
            goal = np.where(target > 0, target, np.minimum(found, 0))
        rest = ((goal - base) / scale).T[:, :, None]
        moment = np.matmul(x.transpose(0, 2, 1), rest).astype(np.float64)
        change = np.hstack([m.solve(right) for m, right in zip(matrices, moment, strict=True)])
    return change


def _taps(layer: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return kernel `(taps, channels)` and bias `(channels,)` of a depthwise layer."""
    kernel = np.asarray(ops.convert_to_numpy(layer.kernel), dtype=np.float32)
    kernel = kernel.reshape(-1, kernel.shape[-2])
    if layer.use_bias:
        return kernel, np.asarray(ops.convert_to_numpy(layer.bias), dtype=np.float32)
    return kernel, np.zeros(kernel.shape[1], np.float32)
