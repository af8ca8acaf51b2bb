"""Criteria on how strongly channels answer to the samples."""

from __future__ import annotations

import numpy as np

from edgeprune.criteria.deadness import dead_last
from edgeprune.criteria.evidence import Evidence
from edgeprune.criteria.norms import score_l1
from edgeprune.groups import Group


@dead_last
def score_class_response(evidence: Evidence, group: Group) -> np.ndarray:
    """Mean response of each channel to the class that it answers most to.

    After Guo and Potkonjak, "Pruning ConvNets Online for Efficient Specialist Models" (2017). Only
    classes that will be kept count; the responses that several readers see are added up.

    Args:
        evidence: statistics by class.
        group: whose channels are scored.

    Returns:
        `(width,)`, higher = keep; the L1 norm where no reader has statistics.
    """
    found = evidence.class_means(group)
    if not found:
        return score_l1(evidence, group)
    return np.sum([means.max(axis=0) for means in found], axis=0)
