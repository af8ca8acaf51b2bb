"""Giving accuracy back in closed form: `RECOVERIES`, from name to function, in rising cost."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import keras
import numpy as np

from edgeprune.recovery.alignment import leave_out_constants
from edgeprune.recovery.folds import fold
from edgeprune.recovery.heads import refit_head
from edgeprune.recovery.image_copies import augment, is_image
from edgeprune.recovery.recalibration import recalibrate
from edgeprune.recovery.refitting import refit
from edgeprune.scoring.sums import Statistics
from edgeprune.surgery.plan import Plan
from edgeprune.tracing.groups import Groups

COPIES = 4
CONTENDERS = ("least_squares", "refit", "refit_augmented", "refit_head")
"""What `auto` chooses from, see `list_contenders`: none of the others beats all of these."""
REFITS = frozenset({"refit", "refit_augmented", "refit_head"})
"""Those that bring what lands behind BatchNorm to the original's, and need no recalibration."""


@dataclass(frozen=True)
class RecoveryContext:
    """What was taken away, and what is known about it.

    Attributes:
        smaller: `remove_channels(model, plan)`.
        groups: of the original, which is in their graph.
        plan: what was kept.
        statistics: of the original on calibration data.
        inputs: `(n, ...)` preprocessed calibration samples.
        seed: of the choice of positions.
        mirrors: whether mirrored and shifted copies of images say something.
    """

    smaller: keras.Model
    groups: Groups
    plan: Plan
    statistics: Statistics
    inputs: np.ndarray
    seed: int = 0
    mirrors: bool = True

    @cached_property
    def folded(self) -> keras.Model:
        """The pruned model after the least-squares fold: where refits start."""
        return fold(self.smaller, self.groups, self.plan, self.statistics, "least_squares")

    @cached_property
    def refitted(self) -> keras.Model:
        """The pruned model after fold and refit: where the refit of the head starts."""
        return self._refit(self.inputs)

    @cached_property
    def augmented(self) -> keras.Model:
        """The same, refitted on mirrored and shifted images as well."""
        if not (self.mirrors and is_image(self.inputs)):
            return self.refitted
        return self._refit(augment(self.inputs, COPIES, seed=self.seed))

    def _refit(self, inputs: np.ndarray) -> keras.Model:
        start = leave_out_constants(self.folded, self.groups, self.plan)
        return refit(start, self.groups, self.plan, inputs, seed=self.seed)


Recovery = Callable[[RecoveryContext], keras.Model]


def keep_as_cut(context: RecoveryContext) -> keras.Model:
    """Do nothing: the pruned model as surgery left it."""
    return context.smaller


def fold_means(context: RecoveryContext) -> keras.Model:
    """Replace every removed channel by its mean."""
    return fold(context.smaller, context.groups, context.plan, context.statistics, "mean")


def fold_correlated(context: RecoveryContext) -> keras.Model:
    """Replace every removed channel by the kept one that goes along with it best."""
    return fold(context.smaller, context.groups, context.plan, context.statistics, "correlated")


def fold_affine(context: RecoveryContext) -> keras.Model:
    """Replace every removed channel by the best affine function of one kept channel."""
    return fold(context.smaller, context.groups, context.plan, context.statistics, "affine")


def fold_least_squares(context: RecoveryContext) -> keras.Model:
    """Replace every removed channel by the best affine combination of the kept ones."""
    return context.folded


def refit_kernels(context: RecoveryContext) -> keras.Model:
    """Fold by least squares, then solve the consumers' kernels again, front to back."""
    return context.refitted


def refit_on_augmented_images(context: RecoveryContext) -> keras.Model:
    """Fold and refit with mirrored and shifted images beside the samples."""
    return context.augmented


def refit_kernels_and_head(context: RecoveryContext) -> keras.Model:
    """Refit on augmented images, then the head on the kept classes' logits."""
    return refit_head(context.augmented, context.groups, context.plan, context.inputs)


RECOVERIES: dict[str, Recovery] = {
    "none": keep_as_cut,
    "mean": fold_means,
    "correlated": fold_correlated,
    "affine": fold_affine,
    "least_squares": fold_least_squares,
    "refit": refit_kernels,
    "refit_augmented": refit_on_augmented_images,
    "refit_head": refit_kernels_and_head,
}


def list_contenders(mirrors: bool) -> tuple[str, ...]:
    """Return what `auto` tries: one of the two refits, which cost the most.

    Args:
        mirrors: as in `RecoveryContext`.
    """
    left_out = "refit" if mirrors else "refit_augmented"
    return tuple(name for name in CONTENDERS if name != left_out)


__all__ = [
    "CONTENDERS",
    "RECOVERIES",
    "REFITS",
    "Recovery",
    "RecoveryContext",
    "list_contenders",
    "recalibrate",
]
