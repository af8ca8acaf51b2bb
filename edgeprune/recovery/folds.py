"""Folds: what a removed channel carried is carried by kept ones, through the consumers' kernels.

With x_p ~ sum_k T[k, p] x_k + b_p for every removed channel p, a consumer's kernel becomes
W'_k = W_k + sum_p T[k, p] W_p, and a constant takes the b_p. Exact for any padding as far as the
replacement is exact, except for the constant, which is the best single one.
"""

from __future__ import annotations

from typing import Literal

import keras
import numpy as np

from edgeprune.recovery.intercepts import add_constant, give_biases
from edgeprune.scoring.consumer_kinds import assign_kernel, kernel_matrix, tap_coverage
from edgeprune.scoring.consumers import Consumer, find_consumers
from edgeprune.scoring.sums import Moments, Statistics
from edgeprune.support.linear_algebra import Definite
from edgeprune.surgery.channel_removal import channel_ranks, kept_positions, write_constants
from edgeprune.surgery.plan import Plan
from edgeprune.tracing.groups import Groups
from edgeprune.tracing.replica import operations_by_path

Replacement = Literal["mean", "correlated", "affine", "least_squares"]
RIDGE = 1e-4
LEAST_VARIANCE = 1e-9
TINY = float(np.finfo(float).tiny)


def fold(
    smaller: keras.Model,
    groups: Groups,
    plan: Plan,
    statistics: Statistics,
    replacement: Replacement = "least_squares",
) -> keras.Model:
    """Return the pruned model with removed channels folded into the consumers of the kept ones.

    Args:
        smaller: `remove_channels(model, plan)`; not changed.
        groups: of the original, which is in their graph.
        plan: what was kept.
        statistics: of the original on calibration data.
        replacement: `mean` replaces a channel by its mean, `correlated` by the kept channel that
            goes along with it best, moved to its mean (both after Guo and Potkonjak, "Pruning
            ConvNets Online for Efficient Specialist Models", 2017; ours: the correlation keeps its
            sign); `affine` by the best affine function of one kept channel, never worse than these
            two on the calibration data; `least_squares` by the best affine combination of all kept
            channels that the consumer sees (interpolative decomposition, after Zhang et al., CHaPR,
            2020).

    Returns:
        A new model of the same size; a consumer without bias and BatchNorm behind it has one more.

    Example:
        >>> from edgeprune.tracing.groups import find_groups
        >>> from edgeprune.scoring.collection import collect_statistics
        >>> from edgeprune.surgery.channel_removal import remove_channels
        >>> model = keras.Sequential([
        ...     keras.Input((2,)), keras.layers.Dense(4, name="hidden"), keras.layers.Dense(1)])
        >>> groups, plan = find_groups(model), Plan({"hidden": (0, 3)})
        >>> inputs = np.random.default_rng(0).normal(size=(50, 2)).astype("float32")
        >>> statistics = collect_statistics(groups, inputs)
        >>> folded = fold(remove_channels(model, plan), groups, plan, statistics)
        >>> bool(np.abs(folded(inputs) - model(inputs)).max() < 1e-2)  # two of four dimensions
        True
    """
    ranks = channel_ranks(groups, plan)
    affected = [
        consumer
        for consumer in find_consumers(groups)
        if consumer.path in statistics.moments and not consumer.keeps(ranks).all()
    ]
    there = operations_by_path(smaller)
    consumers = [consumer for consumer in affected if consumer.path in there]
    result = give_biases(smaller, consumers)
    operations = operations_by_path(result)
    if plan.emptied:
        means = {
            consumer.path: _mean_output(consumer, statistics.moments[consumer.path])
            for consumer in affected
            if consumer.path not in there
        }
        vanished = groups.vanishing.close(plan.emptied)
        write_constants(operations, groups, vanished, ranks, means)
    for consumer in consumers:
        kept = consumer.keeps(ranks)
        transfer, offset = replace_channels(statistics.moments[consumer.path], kept, replacement)
        full = np.zeros((kept.sum(), len(kept)))
        full[:, kept] = np.eye(kept.sum())
        full[:, ~kept] = transfer
        kernel = kernel_matrix(consumer.layer)[:, :, kept_positions(consumer.outputs, ranks)]
        by_slot = kernel[:, consumer.slots]  # taps, slots, channels, outputs
        slots = _kept_slots(consumer, kept)
        folded = np.empty((len(kernel), slots.size, kernel.shape[-1]))
        folded[:, slots] = full @ by_slot
        assign_kernel(operations[consumer.path], folded)
        shares = tap_coverage(consumer.layer, consumer.call.inputs[0].shape)
        constant = np.einsum("t,tsco,sc->o", shares, by_slot[:, :, ~kept], offset)
        add_constant(operations, consumer, constant)
    return result


def _mean_output(consumer: Consumer, moments: Moments) -> np.ndarray:
    """Return what a consumer adds to its bias on average, `(outputs,)`."""
    shares = tap_coverage(consumer.layer, consumer.call.inputs[0].shape)
    by_slot = kernel_matrix(consumer.layer)[:, consumer.slots]
    return np.asarray(np.einsum("t,tsco,sc->o", shares, by_slot, moments.mean))


def replace_channels(
    moments: Moments, kept: np.ndarray, replacement: Replacement
) -> tuple[np.ndarray, np.ndarray]:
    """Return how removed channels are written with kept ones.

    Args:
        moments: of the consumer that sees them.
        kept: `(C,)` mask.
        replacement: see `fold`.

    Returns:
        T `(kept, removed)` and b `(m, removed)`, one for each slot (see `Consumer.slots`).
    """
    mean = moments.mean
    transfer = _transfer(moments.covariance, kept, replacement)
    return transfer, mean[:, ~kept] - mean[:, kept] @ transfer


def _transfer(covariance: np.ndarray, kept: np.ndarray, replacement: Replacement) -> np.ndarray:
    """Return `(kept, removed)` coefficients of the kept channels."""
    cross = covariance[np.ix_(kept, ~kept)]
    if replacement == "mean":
        return np.zeros_like(cross)
    inner = covariance[np.ix_(kept, kept)]
    if replacement == "least_squares":
        ridge = RIDGE * max(float(np.diag(inner).mean()), TINY)
        return Definite(inner + ridge * np.eye(len(inner))).solve(cross)
    own, of_removed = np.diag(inner)[:, None], np.diag(covariance)[~kept]
    alive = own > LEAST_VARIANCE * max(float(own.max()), TINY)
    slope = np.where(alive, cross / np.where(alive, own, 1), 0)
    if replacement == "affine":
        gain, slope_of = slope * cross, slope
    else:
        size = np.sqrt(np.maximum(own * of_removed, 0))
        usable = alive & (size > TINY)
        gain, slope_of = np.where(usable, cross / np.where(usable, size, 1), 0), np.ones_like(cross)
    transfer = np.zeros_like(cross)
    best, column = gain.argmax(axis=0), np.arange(cross.shape[1])
    chosen = gain[best, column] > 0
    transfer[best[chosen], column[chosen]] = slope_of[best, column][chosen]
    return transfer


def _kept_slots(consumer: Consumer, kept: np.ndarray) -> np.ndarray:
    """Return the slots of the kept channels in the pruned kernel, `(m, kept)`."""
    stays = np.zeros(consumer.axis.group.size, bool)
    stays[consumer.slots[:, kept].ravel()] = True
    renumbered = np.cumsum(stays) - 1
    return np.asarray(renumbered[consumer.slots[:, kept]])
