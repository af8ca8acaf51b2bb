"""Blended criteria: the opinions of a group's criteria, clustered and weighed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.stats import rankdata

from edgeprune.scoring.context import PruningContext, dead_last
from edgeprune.scoring.filters import score_bn_scale, score_fermat, score_fpgm, score_l1, score_l2
from edgeprune.scoring.responses import (
    score_activation_variance,
    score_class_response,
    score_entropy,
)
from edgeprune.scoring.subsets import score_greedy_least_squares, score_pivoted_qr
from edgeprune.scoring.taylor import score_taylor_2019
from edgeprune.tracing.groups import Group

BLENDED = {
    "l1": score_l1,
    "l2": score_l2,
    "bn_scale": score_bn_scale,
    "fpgm": score_fpgm,
    "fermat": score_fermat,
    "entropy": score_entropy,
    "taylor_2019": score_taylor_2019,
    "class_response": score_class_response,
    "activation_variance": score_activation_variance,
    "pivoted_qr": score_pivoted_qr,
    "greedy_least_squares": score_greedy_least_squares,
}
"""Criteria that take part. The first seven are those of the paper, as far as is known."""
MOST_CLUSTERS = 4
TIE = 1e-9


@dataclass(frozen=True)
class Opinions:
    """What the criteria say of one group.

    Attributes:
        shares: name of a criterion -> `(width,)` its scores as ranks between 0 and 1.
        clusters: names of criteria that rank alike, each in one cluster.
    """

    shares: Mapping[str, np.ndarray]
    clusters: tuple[tuple[str, ...], ...]

    def blend(self, weights: Mapping[str, float]) -> np.ndarray:
        """Return the weighted sum of opinions, `(width,)`.

        Args:
            weights: name of a criterion -> weight; those that are not named have none.
        """
        return np.sum([weight * self.shares[name] for name, weight in weights.items()], axis=0)

    @property
    def representatives(self) -> tuple[str, ...]:
        """For each cluster the criterion that agrees most with the rest of it."""
        found = []
        for cluster in self.clusters:
            mean = np.mean([self.shares[name] for name in cluster], axis=0)
            found.append(
                min(cluster, key=lambda name: float(np.abs(self.shares[name] - mean).sum()))
            )
        return tuple(found)


def score_blended(context: PruningContext, group: Group) -> np.ndarray:
    """Weighted sum of the opinions of several criteria, one of each cluster that ranks alike.

    After He et al., "Blending Pruning Criteria for CNNs" (2021). The method `blending` searches
    criteria and weights on validation; without a search every cluster counts the same. Ours: scores
    are normalised by their ranks in the group, and the data-driven criteria take part.
    """
    opinions = gather_opinions(context, group)
    return opinions.blend(dict.fromkeys(opinions.representatives, 1.0))


def gather_opinions(context: PruningContext, group: Group) -> Opinions:
    """Ask all criteria about a group and cluster them by rank correlation.

    Average linkage on one minus Spearman's correlation, into two to four clusters: as many as there
    are below half a correlation.
    """
    width = group.width
    shares = {
        name: rankdata(dead_last(criterion)(context, group)) / width
        for name, criterion in BLENDED.items()
    }
    distance = 1 - correlate_ranks(list(shares.values()))
    return Opinions(shares, cluster_criteria(tuple(shares), distance))


def correlate_ranks(shares: list[np.ndarray]) -> np.ndarray:
    """Return Spearman's correlation between rankings, 0 where one of them does not differ."""
    centred = np.array([ranks - ranks.mean() for ranks in shares])
    norm = np.linalg.norm(centred, axis=1)
    safe = np.where(norm > TIE, norm, 1)
    found = (centred / safe[:, None]) @ (centred / safe[:, None]).T
    np.fill_diagonal(found, 1)
    return np.clip(found, -1, 1)


def cluster_criteria(
    names: tuple[str, ...], distance: np.ndarray, *, threshold: float = 0.5
) -> tuple[tuple[str, ...], ...]:
    """Cluster by average linkage, into two to four clusters.

    Args:
        names: of what is clustered, at least two.
        distance: `(n, n)`, symmetric.
        threshold: distance above which clusters stay apart, as far as their number allows.

    Example:
        >>> distance = np.array([[0, 0.1, 1], [0.1, 0, 1], [1, 1, 0]])
        >>> cluster_criteria(("a", "b", "c"), distance)
        (('a', 'b'), ('c',))
    """
    upper = distance[np.triu_indices(len(names), 1)]
    tree = linkage(np.maximum(upper, 0), method="average")
    labels = fcluster(tree, threshold, "distance")
    count = int(np.clip(labels.max(), 2, MOST_CLUSTERS))
    if labels.max() != count:
        labels = fcluster(tree, count, "maxclust")
    return tuple(
        tuple(name for name, label in zip(names, labels, strict=True) if label == number)
        for number in sorted(set(labels.tolist()), key=labels.tolist().index)
    )
