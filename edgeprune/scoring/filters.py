"""Criteria that look at weights alone: the size of filters, and the distances between them."""

from __future__ import annotations

import numpy as np
from keras import layers as L
from scipy.spatial.distance import cdist

from edgeprune.scoring.context import PruningContext
from edgeprune.tracing.groups import Group

ROUNDS = 200
PRECISION = 1e-9


def filters_of(context: PruningContext, group: Group) -> list[np.ndarray]:
    """Return the filters that write each channel, for each writer of a group.

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


def score_l1(context: PruningContext, group: Group) -> np.ndarray:
    """Sum of absolute kernel weights that write each channel, summed over the group's writers.

    After Li et al., "Pruning Filters for Efficient ConvNets" (2017).
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


def score_l2(context: PruningContext, group: Group) -> np.ndarray:
    """Euclidean norm of the kernel weights that write each channel, over all writers together.

    After Li et al. (2017), who compare it with the L1 norm.
    """
    squares = [np.square(filters).sum(axis=1) for filters in filters_of(context, group)]
    return np.sqrt(np.sum([np.zeros(group.width), *squares], axis=0))


def score_bn_scale(context: PruningContext, group: Group) -> np.ndarray:
    """Absolute scale of the BatchNormalization behind each channel, summed over all of them.

    After Liu et al., "Learning Efficient Convolutional Networks through Network Slimming" (2017).
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
    return scores if known else score_l1(context, group)


def score_fpgm(context: PruningContext, group: Group) -> np.ndarray:
    """Sum of the distances from each filter to all others, summed over the group's writers.

    After He et al., "Filter Pruning via Geometric Median" (2019).
    """
    distances = [cdist(filters, filters).sum(axis=1) for filters in filters_of(context, group)]
    return np.sum([np.zeros(group.width), *distances], axis=0)


def score_fermat(context: PruningContext, group: Group) -> np.ndarray:
    """Distance from each filter to the Fermat point of all, summed over the group's writers.

    The Fermat point, or geometric median, has the smallest sum of distances to the filters. After
    He et al., "Blending Pruning Criteria for CNNs" (2021), which names it among its criteria; ours
    in how it is found, by Weiszfeld's iteration.
    """
    scores = np.zeros(group.width)
    for filters in filters_of(context, group):
        scores += np.linalg.norm(filters - find_fermat_point(filters), axis=1)
    return scores


def find_fermat_point(points: np.ndarray) -> np.ndarray:
    """Return the point with the smallest sum of distances to given points.

    Weiszfeld's iteration, with the step of Vardi and Zhang (2000) where it meets one of the points.

    Args:
        points: `(n, d)`, at least one.

    Returns:
        `(d,)`.

    Example:
        >>> find_fermat_point(np.array([[0.0, 0], [4, 0], [0, 0], [0, 9]])).round(6).tolist()
        [0.0, 0.0]
    """
    scale = max(float(np.abs(points - points.mean(axis=0)).max()), np.finfo(float).tiny)
    median = points.mean(axis=0)
    for _ in range(ROUNDS):
        offset = points - median
        distance = np.linalg.norm(offset, axis=1)
        away = distance > PRECISION * scale
        if not away.any():
            return median
        weight = 1 / distance[away]
        pull = weight @ offset[away]
        here, strength = int((~away).sum()), float(np.linalg.norm(pull))
        if here >= strength:  # the point that was met is the median
            return median
        step = (1 - here / strength) * pull / weight.sum()
        median = median + step
        if np.abs(step).max() <= PRECISION * scale:
            break
    return median
