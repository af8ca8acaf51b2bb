"""Criteria that look at the size of weights alone."""

from __future__ import annotations

import numpy as np
from keras import layers as L

from edgeprune.scoring.context import PruningContext
from edgeprune.scoring.deadness import dead_last
from edgeprune.tracing.groups import Group


def filters_of(context: PruningContext, group: Group) -> list[np.ndarray]:
    """Return the filters that write each channel, for each writer of a group.

    Args:
        context: weights of the model.
        group: whose writers are looked at.

    Returns:
        `(width, weights)` per writer; where a writer makes a channel several times, its filters
        are added up.
    """
    found = []
    for member in group.members:
        weight = context.weights[member.layer][member.weight]
        if member.role != "writes" or weight.ndim < 2:
            continue
        rows = np.moveaxis(weight, member.axis, 0).reshape(len(member.channels), -1)
        held = member.channels >= 0
        filters = np.zeros((group.width, rows.shape[1]))
        np.add.at(filters, member.channels[held], rows[held])
        found.append(filters)
    return found


@dead_last
def score_l1(context: PruningContext, group: Group) -> np.ndarray:
    """Sum of absolute kernel weights that write each channel, summed over the group's writers.

    After Li et al., "Pruning Filters for Efficient ConvNets" (2017).

    Args:
        context: weights of the model.
        group: whose channels are scored.

    Returns:
        `(width,)`, higher = keep.
    """
    return sum_norms(context, group)


@dead_last
def score_l2(context: PruningContext, group: Group) -> np.ndarray:
    """Euclidean norm of the kernel weights that write each channel, over all writers together.

    After Li et al. (2017), who compare it with the L1 norm.

    Args:
        context: weights of the model.
        group: whose channels are scored.

    Returns:
        `(width,)`, higher = keep.
    """
    squares = [np.square(filters).sum(axis=1) for filters in filters_of(context, group)]
    return np.sqrt(np.sum([np.zeros(group.width), *squares], axis=0))


@dead_last
def score_bn_scale(context: PruningContext, group: Group) -> np.ndarray:
    """Absolute scale of the BatchNormalization behind each channel, summed over all of them.

    After Liu et al., "Learning Efficient Convolutional Networks through Network Slimming" (2017).

    Args:
        context: weights of the model.
        group: whose channels are scored.

    Returns:
        `(width,)`, higher = keep; the L1 norm where no BatchNormalization has a scale.
    """
    scores, known = np.zeros(group.width), False
    for member in group.members:
        layer = context.layers[member.layer]
        if not isinstance(layer, L.BatchNormalization) or layer.gamma is None:
            continue
        if layer.weights[member.weight] is layer.gamma:
            known = True
            held = member.channels >= 0
            gamma = context.weights[member.layer][member.weight]
            np.add.at(scores, member.channels[held], np.abs(gamma)[held])
    return scores if known else sum_norms(context, group)


def sum_norms(context: PruningContext, group: Group) -> np.ndarray:
    """Return the L1 norms that `score_l1` is made of, dead channels where they are.

    Args:
        context: weights of the model.
        group: whose channels are looked at.
    """
    scores = np.zeros(group.width)
    for member in group.members:
        weight = context.weights[member.layer][member.weight]
        if member.role != "writes" or weight.ndim < 2:
            continue
        others = tuple(axis for axis in range(weight.ndim) if axis != member.axis)
        held = member.channels >= 0
        np.add.at(scores, member.channels[held], np.abs(weight).sum(axis=others)[held])
    return scores
