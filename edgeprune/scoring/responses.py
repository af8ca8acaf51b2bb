"""Criteria on how channels answer to the samples, summed over all consumers of a group."""

from __future__ import annotations

import numpy as np

from edgeprune.scoring.context import PruningContext
from edgeprune.scoring.filters import score_l1
from edgeprune.tracing.groups import Group

MOST_BINS = 100


def score_class_response(context: PruningContext, group: Group) -> np.ndarray:
    """Mean response of each channel to the class that it answers most to.

    After Guo and Potkonjak, "Pruning ConvNets Online for Efficient Specialist Models" (2017). Only
    classes that will be kept count; the responses that several consumers see are added up.
    """
    return _add(context, group, [means.max(axis=0) for means in context.class_means(group)])


def score_activation_mean(context: PruningContext, group: Group) -> np.ndarray:
    """Mean absolute activation of each channel.

    After Molchanov et al., "Pruning Convolutional Neural Networks for Resource Efficient
    Inference" (2017), which compares with it.
    """
    found = context.samples.responses(group)
    return _add(context, group, [responses.magnitude for responses in found])


def score_activation_variance(context: PruningContext, group: Group) -> np.ndarray:
    """Variance of each channel, weighted by how strongly the consumers use it.

    With the mean in place of a removed channel, this is what its consumers lose. Ours; it continues
    Guo and Potkonjak (2017), who replace channels by their mean.
    """
    views = context.views(group)
    return _add(context, group, [np.diag(v.covariance) * np.diag(v.metric) for v in views])


def score_apoz(context: PruningContext, group: Group) -> np.ndarray:
    """Share of positions at which a channel is not 0: one minus the average percentage of zeros.

    After Hu et al., "Network Trimming" (2016).
    """
    found = context.samples.responses(group)
    return _add(context, group, [responses.active for responses in found])


def score_entropy(context: PruningContext, group: Group) -> np.ndarray:
    """Entropy of each channel's pooled response, over the samples.

    After Luo and Wu, "An Entropy-based Pruning Method for CNN Compression" (2017). Ours: as many
    bins as the root of the number of samples, 100 at most, over each channel's own range.
    """
    found = context.samples.responses(group)
    return _add(context, group, [measure_entropy(responses.pooled) for responses in found])


def score_hrank(context: PruningContext, group: Group) -> np.ndarray:
    """Mean rank of each channel's map.

    After Lin et al., "HRank: Filter Pruning using High-Rank Feature Map" (2020). Where a map was
    pooled or flattened, only whether the channel answers at all can be told.
    """
    return _add(context, group, context.samples.ranks(group))


def measure_entropy(values: np.ndarray) -> np.ndarray:
    """Return the entropy of the histogram of each column, in nats.

    Args:
        values: `(n, columns)`.

    Example:
        >>> measure_entropy(np.array([[1.0, 3], [1, 4], [2, 4], [2, 4]])).round(3).tolist()
        [0.693, 0.562]
    """
    count = len(values)
    bins = min(MOST_BINS, max(2, round(np.sqrt(count))))
    low, span = values.min(axis=0), np.ptp(values, axis=0)
    place = ((values - low) / np.where(span > 0, span, 1) * bins).astype(np.int64)
    place = np.minimum(place, bins - 1)
    share = np.stack([(place == number).mean(axis=0) for number in range(bins)])
    return -np.sum(share * np.log(np.where(share > 0, share, 1)), axis=0)


def _add(context: PruningContext, group: Group, found: list[np.ndarray]) -> np.ndarray:
    return np.sum(found, axis=0) if found else score_l1(context, group)
