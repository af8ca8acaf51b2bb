"""Folds: what a removed channel carried is carried by kept ones, through the readers' kernels.

With x_p ~ sum_k T[k, p] x_k + b_p for every removed channel p, a reader's kernel becomes
W'_k = W_k + sum_p T[k, p] W_p, and a constant takes the b_p. Exact for any padding as far as the
replacement is exact, except for the constant, which is the best single one.
"""

from __future__ import annotations

from typing import Literal

import keras
import numpy as np

from edgeprune.graph import build_graph
from edgeprune.groups import Groups
from edgeprune.plan import Plan
from edgeprune.readers import Reader, find_readers, kernel_matrix, tap_coverage
from edgeprune.recovery.intercepts import add_constant, give_biases
from edgeprune.replica import operations_by_path
from edgeprune.statistics import Moments, Statistics
from edgeprune.surgery import channel_ranks, kept_positions

Replacement = Literal["mean", "least_squares"]
RIDGE = 1e-4


def fold(
    smaller: keras.Model,
    groups: Groups,
    plan: Plan,
    statistics: Statistics,
    replacement: Replacement = "least_squares",
) -> keras.Model:
    """Return the slim model with removed channels folded into the readers of the kept ones.

    Args:
        smaller: `slim(model, plan)`; not changed.
        groups: of the original, which is in their graph.
        plan: what was kept.
        statistics: of the original on calibration data.
        replacement: `mean` replaces a channel by its mean (after Guo and Potkonjak, "Pruning
            ConvNets Online for Efficient Specialist Models", 2017); `least_squares` by the best
            affine combination of all kept channels that the reader sees (interpolative
            decomposition, after Zhang et al., CHaPR, 2020).

    Returns:
        A new model of the same size; a reader without bias and BatchNorm behind it has one more.
    """
    result = give_biases(smaller, groups)
    operations = operations_by_path(result)
    graph = build_graph(result)
    ranks = channel_ranks(groups, plan)
    for reader in find_readers(groups):
        moments = statistics.moments.get(reader.path)
        kept, outputs = kept_channels(reader, ranks), kept_outputs(reader, groups, ranks)
        if moments is None or kept.all():
            continue
        transfer, offset = replace_channels(moments, kept, replacement)
        kernel = kernel_matrix(reader.layer, reader.kind)[:, :, outputs]
        full = np.zeros((len(kept), kept.sum()))
        full[kept] = np.eye(kept.sum())
        full[~kept] = transfer
        layer = operations[reader.path]
        by_slot = kernel[:, reader.slots]  # taps, slots, channels, outputs
        folded = np.einsum("tsco,ck->tsko", by_slot, full)
        variable = getattr(layer, reader.kind.kernel)
        new = np.empty((kernel.shape[0], reader.slots.shape[0] * kept.sum(), len(outputs)))
        new[:, _kept_slots(reader, kept)] = folded
        variable.assign(new.reshape(variable.shape))
        constant = np.einsum(
            "t,tsco,c->o", _shares(reader), by_slot[:, :, ~kept], offset
        )
        add_constant(graph, reader.path, layer, constant)
    return result


def replace_channels(
    moments: Moments, kept: np.ndarray, replacement: Replacement
) -> tuple[np.ndarray, np.ndarray]:
    """Return how removed channels are written with kept ones: `T` `(removed, kept)`, `b` `(removed,)`."""
    mean = moments.mean
    if replacement == "mean":
        return np.zeros(((~kept).sum(), kept.sum())), mean[~kept]
    covariance = moments.covariance
    inner = covariance[np.ix_(kept, kept)]
    ridge = RIDGE * max(float(np.diag(inner).mean()), np.finfo(float).tiny)
    cross = covariance[np.ix_(kept, ~kept)]
    transfer = np.linalg.solve(inner + ridge * np.eye(len(inner)), cross).T
    return transfer, mean[~kept] - transfer @ mean[kept]


def kept_channels(reader: Reader, ranks: list[np.ndarray]) -> np.ndarray:
    """Return a mask `(C,)` over the reader's distinct channels (see `Reader.slots`)."""
    positions = reader.slots[0]
    group, channel = reader.axis.group[positions], reader.axis.channel[positions]
    return np.array(
        [g < 0 or ranks[g][c] >= 0 for g, c in zip(group.tolist(), channel.tolist(), strict=True)]
    )


def _kept_slots(reader: Reader, kept: np.ndarray) -> np.ndarray:
    """Return the slots of the kept channels in the slim kernel, `(m, kept)`."""
    stays = np.zeros(len(reader.axis.group), bool)
    stays[reader.slots[:, kept].ravel()] = True
    renumbered = np.cumsum(stays) - 1
    return np.asarray(renumbered[reader.slots[:, kept]])


def kept_outputs(reader: Reader, groups: Groups, ranks: list[np.ndarray]) -> np.ndarray:
    """Return the kept outputs of a reader's kernel, in the order of the slim model."""
    index = [id(w) for w in reader.layer.weights].index(id(getattr(reader.layer, reader.kind.kernel)))
    last = len(reader.layer.weights[index].shape) - 1
    for axis in groups.axes:
        if (axis.layer, axis.weight, axis.axis) == (reader.path, index, last):
            return kept_positions(axis, ranks)
    return np.arange(reader.layer.weights[index].shape[-1])


def _shares(reader: Reader) -> np.ndarray:
    """Return for each tap of the kernel how often it is on the map.

    Under `same` padding the border sees zeros, not the mean; the average over all positions is the
    best single constant.
    """
    layer = reader.layer
    if type(layer) is not keras.layers.Conv2D:
        return np.ones(kernel_matrix(layer, reader.kind).shape[0])
    first = layer.data_format == "channels_first"
    shape = reader.call.inputs[0].shape
    return tap_coverage(layer, shape[2:] if first else shape[1:3])
