"""Checks that cannot prove a mistake but can see one coming: wrong scaling, leaked samples."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from edgeprune.data.dataset import Dataset, Samples, read_samples
from edgeprune.data.preprocessing import FORMS, SCALINGS, Preprocess, parse_preprocess

SIGNIFICANCE = 0.001


def warn_near_chance(
    accuracy: float, num_classes: int, num_samples: int, *, largest_share: float = 0.0
) -> str | None:
    """Say so when guessing would score as much: mostly the scaling of the inputs is wrong then.

    The accuracy counts as chance when guessing reaches it with a probability above one in a
    thousand (binomial tail). Few samples therefore warn sooner than many. A wrong scaling that
    leaves a model half working is not seen here, but by `warn_better_scaling`.

    Args:
        accuracy: of the original model, 0 to 1.
        num_classes: that it chooses from.
        num_samples: that it was measured on.
        largest_share: of the most frequent class among them, 0 to 1: what always giving the same
            answer would score.

    Example:
        >>> print(warn_near_chance(0.86, 10, 500))
        None
        >>> warn_near_chance(0.106, 10, 2000)[:71]
        'The original model is right on 10.6 % of 2000 samples, and guessing wou'
    """
    from scipy.special import bdtrc

    chance = max(1 / num_classes, largest_share)
    num_right = round(accuracy * num_samples)
    probability = float(bdtrc(num_right - 1, num_samples, chance)) if num_right > 0 else 1.0
    if probability <= SIGNIFICANCE:
        return None
    return (
        f"The original model is right on {100 * accuracy:.1f} % of {num_samples} samples, and "
        f"guessing would be on {100 * chance:.1f} %. Most likely its inputs are scaled in "
        "another way than in its training, or the classes are in another order. "
        f"--preprocess is one of: {FORMS}."
    )


def warn_better_scaling(
    predict: Callable[[np.ndarray], np.ndarray],
    dataset: Dataset,
    indices: np.ndarray | Sequence[int],
    preprocess: Preprocess,
) -> str | None:
    """Try raw, unit and symmetric too, and say so when one is clearly better than the chosen one.

    Sees what chance cannot: a ResNet-20 that wants standardized inputs still scores 46 % with unit.
    "Clearly" is the exact sign test on the samples on which only one of the two is right, at one
    in a thousand. Costs up to three predictions of the samples.

    Args:
        predict: inputs (n, ...) to predicted classes (n,), as indices into `dataset.classes`.
        dataset: where the samples come from.
        indices: which to try; 200 are plenty.
        preprocess: the chosen one.
    """
    from scipy.special import bdtrc

    chosen = read_samples(dataset, indices, preprocess)
    right = predict(chosen.inputs) == chosen.targets
    best: tuple[int, str] | None = None
    for name in SCALINGS:
        if name == preprocess.name:
            continue
        other = read_samples(dataset, indices, parse_preprocess(name))
        other_right = predict(other.inputs) == other.targets
        only_other, only_chosen = (other_right & ~right).sum(), (right & ~other_right).sum()
        probability = bdtrc(only_other - 1, only_other + only_chosen, 0.5) if only_other else 1.0
        if probability <= SIGNIFICANCE and (best is None or other_right.sum() > best[0]):
            best = (int(other_right.sum()), name)
    if best is None:
        return None
    return (
        f"With --preprocess {best[1]} the original model is right on {best[0]} of {len(right)} "
        f"samples, with {preprocess.name} on {int(right.sum())}: it was trained with {best[1]}, or "
        "with something close to it."
    )


def warn_shared_samples(parts: Mapping[str, Samples]) -> str | None:
    """Say so when the same image lies in two parts: what is tested must not have been seen before.

    Compares hashes of the preprocessed inputs, so only exact copies are found.

    Args:
        parts: name of the part to its samples, the part that matters most last.

    Example:
        >>> a, b = np.zeros((2, 4, 4, 1), np.float32), np.ones((1, 4, 4, 1), np.float32)
        >>> parts = {"calibration": Samples(np.concatenate([a, b]), np.zeros(3, int)),
        ...          "test": Samples(b, np.zeros(1, int))}
        >>> print(warn_shared_samples(parts))
        1 of 1 test samples is also among the calibration samples: remove the copies from the data.
    """
    found: list[str] = []
    hashes = {name: [_hash(sample) for sample in samples.inputs] for name, samples in parts.items()}
    names = list(parts)
    for position, later in enumerate(names):
        for earlier in names[:position]:
            seen = set(hashes[earlier])
            number = sum(value in seen for value in hashes[later])
            if number:
                verb = "is" if number == 1 else "are"
                found.append(
                    f"{number} of {len(hashes[later])} {later} samples {verb} also among the "
                    f"{earlier} samples"
                )
    return f"{'; '.join(found)}: remove the copies from the data." if found else None


def _hash(sample: np.ndarray) -> bytes:
    return hashlib.blake2b(sample.tobytes(), digest_size=16).digest()
