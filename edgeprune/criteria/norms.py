"""Criteria that look at weights alone."""

from __future__ import annotations

import numpy as np

from edgeprune.criteria.deadness import dead_last
from edgeprune.criteria.evidence import Evidence
from edgeprune.groups import Group


@dead_last
def score_l1(evidence: Evidence, group: Group) -> np.ndarray:
    """Sum of absolute kernel weights that write each channel, summed over the group's writers.

    After Li et al., "Pruning Filters for Efficient ConvNets" (2017).

    Args:
        evidence: weights of the model.
        group: whose channels are scored.

    Returns:
        `(width,)`, higher = keep.
    """
    scores = np.zeros(group.width)
    for member in group.members:
        weight = evidence.weights[member.layer][member.weight]
        if member.role != "writes" or weight.ndim < 2:
            continue
        others = tuple(axis for axis in range(weight.ndim) if axis != member.axis)
        held = member.channels >= 0
        np.add.at(scores, member.channels[held], np.abs(weight).sum(axis=others)[held])
    return scores
