"""Criteria on gradients: how the loss changes, to first order, when a channel's gate closes."""

from __future__ import annotations

import numpy as np

from edgeprune.scoring.context import PruningContext
from edgeprune.scoring.filters import score_l1
from edgeprune.tracing.groups import Group


def score_taylor_2016(context: PruningContext, group: Group) -> np.ndarray:
    """Mean over samples of |sum over positions of activation times gradient|.

    After Molchanov et al., "Pruning Convolutional Neural Networks for Resource Efficient
    Inference" (2016), whose mean over positions differs by a constant. One gate stands for all
    consumers of a group, so their products are summed before the absolute value.
    """
    gradients = context.samples.gate_gradients(group)
    return score_l1(context, group) if gradients is None else np.abs(gradients).mean(axis=0)


def score_taylor_2019(context: PruningContext, group: Group) -> np.ndarray:
    """Mean over samples of the squared sum over positions of activation times gradient.

    After Molchanov et al., "Importance Estimation for Neural Network Pruning" (2019): the square of
    the gradient by a gate behind BatchNorm and activation. One gate stands for all consumers.
    """
    gradients = context.samples.gate_gradients(group)
    return score_l1(context, group) if gradients is None else np.square(gradients).mean(axis=0)
