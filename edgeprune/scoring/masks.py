"""Criteria that draw: random scores, and random masks whose loss is measured.

What is drawn follows the channels in the order of their L1 norms, so that the result does not
depend on how the channels of a model happen to be arranged.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from zlib import crc32

import numpy as np
from keras import ops

from edgeprune.scoring.consumers import find_consumers
from edgeprune.scoring.context import PruningContext
from edgeprune.scoring.filters import score_l1
from edgeprune.scoring.gates import GatedModel
from edgeprune.tracing.groups import Group

TIE = 1e-5
"""Share of the range of coefficients that the rounding of losses reaches."""
PENALTIES = np.logspace(-3, 3, 13)


def score_random(context: PruningContext, group: Group) -> np.ndarray:
    """Score at random, with a seed: what any criterion has to beat."""
    scores = np.empty(group.width)
    scores[_arrange(context, group)] = _generator(context, group).random(group.width)
    return scores


def score_best_mask(context: PruningContext, group: Group) -> np.ndarray:
    """Keep the channels of the best of N random masks.

    After Anwar and Sung, "Coarse Pruning of Convolutional Neural Networks with Random Masks"
    (2017). Each mask keeps as many channels as the group will probably have, half by default. Ours:
    among the channels of the best mask, and among the others, those come first whose masks were
    better on average; silenced channels show their mean.
    """
    trial = _Trial.of(context, group)
    if trial is None:
        return score_l1(context, group)
    off = group.width - context.width_of(group)
    masks = _draw_masks(context, group, off, _generator(context, group))
    losses = np.array([trial.loss(mask) for mask in masks])
    better = -_average_by_channel(masks, losses)
    within = (better - better.min()) / max(float(np.ptp(better)), 1e-12)
    return 0.9 * within + masks[int(np.argmin(losses))]


def score_ensemble(context: PruningContext, group: Group) -> np.ndarray:
    """Importance of each channel in a linear model of the loss under random masks.

    After Sandor, Pavel, Csato, "Pruning CNN's with linear filter ensembles" (2020): silence random
    channels, measure the loss, fit loss = b0 + sum of b_i over silenced channels i by ridge
    regression. Removal goes in rounds: the worst channels of a round stay silent while the others
    are sampled again. Ours: masks in which all channels are silenced equally often, one group at a
    time on cached inputs, silenced channels show their mean (which every recovery restores), the
    penalty by generalised cross-validation.
    """
    trial = _Trial.of(context, group)
    if trial is None:
        return score_l1(context, group)
    generator, rounds = _generator(context, group), max(context.settings.mask_rounds, 1)
    keep = context.width_of(group)
    present = np.ones(group.width, bool)
    scores, norms = np.zeros(group.width), score_l1(context, group)
    for number in range(rounds):
        coefficient = measure_importance(context, group, trial.loss, present, generator)
        left = np.nonzero(present)[0]
        rank = _rank(coefficient[left], norms[left])
        scores[left] = number + rank / len(left)
        wanted = round(group.width - (group.width - keep) * (number + 1) / rounds)
        present[left[rank < len(left) - max(wanted, 1)]] = False
    return scores


def measure_importance(
    context: PruningContext,
    group: Group,
    loss: Any,
    present: np.ndarray,
    generator: np.random.Generator,
) -> np.ndarray:
    """Return by how much silencing each channel raises the loss, in a linear model of it.

    Args:
        context: `settings` say how many masks, and how many channels each silences.
        group: whose channels are silenced.
        loss: mask `(width,)` -> loss.
        present: `(width,)` channels that are still there; the others are silent in every mask.
        generator: of the masks.

    Returns:
        `(width,)`, 0 for channels that are not present.
    """
    from sklearn.linear_model import RidgeCV

    off = max(1, round(context.settings.off_probability * int(present.sum())))
    masks = _draw_masks(context, group, off, generator, present)
    losses = np.array([loss(mask) for mask in masks])
    silenced = 1.0 - masks[:, present]
    finite = np.isfinite(losses)
    coefficient = np.zeros(group.width)
    if finite.sum() > 2:
        model = RidgeCV(alphas=PENALTIES).fit(silenced[finite], losses[finite])
        coefficient[present] = model.coef_
    return coefficient


def _rank(coefficient: np.ndarray, norms: np.ndarray) -> np.ndarray:
    """Rank channels from 0, the worst; those that differ by rounding only, by their norms.

    Channels that were silenced in the same masks have one coefficient.
    """
    order = np.argsort(coefficient)
    level = np.zeros(len(order), int)
    level[order[1:]] = np.cumsum(np.diff(coefficient[order]) > TIE * np.ptp(coefficient))
    return np.argsort(np.lexsort((norms, level)))


@dataclass(frozen=True, eq=False)
class _Trial:
    """Measures masks of one group on fixed samples; what comes before the group is computed once.

    Attributes:
        context: with the samples.
        group: whose channels are silenced.
        rest: of the model, from the first consumer of the group.
        inputs: of the rest.
        fills: means, by consumer.
    """

    context: PruningContext
    group: Group
    rest: GatedModel
    inputs: list[Any]
    fills: dict[str, np.ndarray]

    @classmethod
    def of(cls, context: PruningContext, group: Group) -> _Trial | None:
        """Prepare; `None` if no known layer reads the group."""
        few = context.samples.subset(context.settings.mask_samples)
        if group.name not in few.gated.gated:
            return None
        rest, inputs = few.gated.after(group.name, [few.inputs])
        return cls(context, group, rest, inputs, mean_fills(context))

    def loss(self, mask: np.ndarray) -> float:
        """Return the mean loss with some channels silenced."""
        few = self.context.samples.subset(self.context.settings.mask_samples)
        outputs = self.rest.run(self.inputs, {self.group.name: mask}, self.fills)
        losses = few.objective.losses(outputs, 0, len(few.inputs))
        return float(ops.convert_to_numpy(losses).mean())


def mean_fills(context: PruningContext) -> dict[str, np.ndarray]:
    """Return for each consumer the mean at every position of its reading axis."""
    found = {}
    for consumer in find_consumers(context.groups):
        moments = context.statistics.moments.get(consumer.path)
        if moments is None:
            continue
        mean = np.zeros(consumer.axis.group.size, np.float32)
        mean[consumer.slots] = np.nan_to_num(moments.mean)
        found[consumer.path] = mean
    return found


def _draw_masks(
    context: PruningContext,
    group: Group,
    off: int,
    generator: np.random.Generator,
    present: np.ndarray | None = None,
) -> np.ndarray:
    """Draw masks that silence `off` of the present channels each, all channels equally often.

    Returns:
        `(masks, width)` of 0 and 1.
    """
    arranged = _arrange(context, group)
    if present is not None:
        arranged = arranged[present[arranged]]
    count = max(2, round(context.settings.masks_per_channel * len(arranged)))
    repeats = -(-count * off // len(arranged))
    stream = np.concatenate([generator.permutation(arranged) for _ in range(repeats + 1)])
    masks = np.ones((count, group.width))
    if present is not None:
        masks[:, ~present] = 0
    start = 0
    for mask in masks:
        mask[stream[start : start + off]] = 0
        start += off
    return masks


def _average_by_channel(masks: np.ndarray, losses: np.ndarray) -> np.ndarray:
    """Return the mean loss of the masks that keep each channel."""
    often = masks.sum(axis=0)
    mean = losses @ masks / np.maximum(often, 1)
    return np.where(often > 0, mean, losses.max())


def _arrange(context: PruningContext, group: Group) -> np.ndarray:
    """Return the channels in an order that depends on their weights only."""
    return np.argsort(score_l1(context, group), kind="stable")


def _generator(context: PruningContext, group: Group) -> np.random.Generator:
    return np.random.default_rng((context.seed, crc32(group.name.encode())))
