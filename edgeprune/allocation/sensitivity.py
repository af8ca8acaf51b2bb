"""Sensitivity: how much is lost when one group alone gets narrower, measured and kept in a file."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from edgeprune.allocation.problem import Problem
from edgeprune.allocation.strategies import allocate_by_gain
from edgeprune.allocation.widths import Ranking
from edgeprune.errors import PlanError
from edgeprune.support.files import MOST_JSON_BYTES, check_regular, replace_on_success
from edgeprune.support.fingerprints import say_new_start
from edgeprune.support.progress import stage

MOST_WIDTHS = 4
VERSION = 1


@dataclass(frozen=True)
class Sensitivity:
    """How good a model is with one group at a time narrowed, the others whole.

    Attributes:
        fingerprint: of the model (see `Groups.fingerprint`), and how it was scored.
        full: how good the whole model is.
        scores: group -> width -> how good it is then; larger is better.
    """

    fingerprint: str
    full: float
    scores: Mapping[str, Mapping[int, float]]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write it as JSON; the file appears only when complete."""
        content = {
            "version": VERSION,
            "fingerprint": self.fingerprint,
            "full": self.full,
            "scores": {name: dict(found) for name, found in self.scores.items()},
        }
        with replace_on_success(path) as temporary:
            temporary.write_text(json.dumps(content, indent=1))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Sensitivity:
        """Read what `save` wrote.

        Raises:
            PlanError: the file is missing or holds something else.
        """
        check_regular(path, PlanError, MOST_JSON_BYTES)
        try:
            content = json.loads(Path(path).read_text())
            scores = {
                str(name): {int(width): float(score) for width, score in found.items()}
                for name, found in content["scores"].items()
            }
            return cls(str(content["fingerprint"]), float(content["full"]), scores)
        except (OSError, UnicodeDecodeError, ValueError, KeyError, TypeError, AttributeError) as e:
            raise PlanError(
                f"Cannot read the sensitivity '{path}': {e}. Expected the JSON that an earlier "
                "measurement wrote; delete the file to measure again."
            ) from e

    def plot(self, path: str | os.PathLike[str]) -> None:
        """Draw one line per group over the share of its channels that is kept.

        Args:
            path: of the picture, `.png`, `.svg` or `.pdf`. Needs matplotlib.
        """
        from matplotlib.figure import Figure

        figure = Figure(figsize=(8, 5), layout="constrained")
        axes = figure.subplots()
        for name, found in self.scores.items():
            widths = sorted(found)
            shares = [100 * width / widths[-1] for width in widths]
            axes.plot(shares, [found[w] for w in widths], marker="o", markersize=3, label=name)
        axes.axhline(self.full, color="black", linewidth=0.8, linestyle=":")
        axes.set_xlabel("channels kept in one group, the others whole (%)")
        axes.set_ylabel("score on validation samples (larger is better)")
        axes.legend(fontsize="x-small", ncols=2)
        with replace_on_success(path) as temporary:
            figure.savefig(temporary, format=Path(path).suffix.lstrip(".") or "png")


def measure_sensitivity(
    problem: Problem,
    measure: Callable[[Mapping[str, int]], float],
    *,
    cache: str | os.PathLike[str] | None = None,
    settings: str = "",
) -> Sensitivity:
    """Narrow one group at a time and score the model, at up to `MOST_WIDTHS` widths each.

    Args:
        problem: names the groups and their allowed widths.
        measure: widths of the groups that are narrowed -> how good the model then is.
        cache: file that is written after every group; groups that it has are not measured again.
        settings: fingerprint of the model and of how it is scored; a file of other ones is not
            used but replaced, with a warning.

    Raises:
        PlanError: the file holds something else.
    """
    fingerprint = f"{problem.groups.fingerprint} {settings}".strip()
    known = Sensitivity(fingerprint, float("nan"), {})
    if cache is not None and Path(cache).exists():
        known = Sensitivity.load(cache)
        if known.fingerprint != fingerprint:
            say_new_start(cache, "The sensitivity")
            known = Sensitivity(fingerprint, float("nan"), {})
    full = known.full if known.scores else float(measure({}))
    scores = {name: dict(found) for name, found in known.scores.items()}
    with stage("sensitivity", len(problem.choices)) as advance:
        for name, widths in problem.choices.items():
            if name not in scores:
                some = np.linspace(0, len(widths) - 1, MOST_WIDTHS + 1).round().astype(int)
                tried = [widths[i] for i in np.unique(some)[:-1]]
                scores[name] = {width: float(measure({name: width})) for width in tried}
                scores[name][widths[-1]] = full
                if cache is not None:
                    Sensitivity(fingerprint, full, scores).save(cache)
            advance()
    return Sensitivity(fingerprint, full, scores)


def allocate_by_sensitivity(problem: Problem) -> dict[str, int]:
    """Choose widths by gain per cost, the loss of each width measured on validation samples.

    After Li et al., "Pruning Filters for Efficient ConvNets" (2017), who read widths off such
    curves by eye. Ours: the curves, made monotone and interpolated, take the place of the
    consumers' error in `allocate_by_gain`.
    """
    if problem.measure is None:
        raise ValueError("Sensitivity needs problem.measure, which scores widths. Got None.")
    problem.check()
    found = measure_sensitivity(problem, problem.measure)
    rankings = {
        name: _replace_error(ranking, found.scores[name], found.full)
        for name, ranking in problem.rankings.items()
    }
    return allocate_by_gain(replace(problem, rankings=rankings))


def _replace_error(ranking: Ranking, scores: Mapping[int, float], full: float) -> Ranking:
    """Return a ranking whose error is the measured loss."""
    widths = sorted(scores)
    lost = np.maximum(full - np.array([scores[width] for width in widths]), 0.0)
    worst = lost[np.isfinite(lost)].max(initial=0.0)
    lost = np.where(np.isfinite(lost), lost, 10 * worst + 1)
    falling = np.maximum.accumulate(lost[::-1])[::-1]
    error = np.interp(np.arange(len(ranking.error)), widths, falling)
    # Below the least measured width more is lost than there.
    below = np.arange(len(error)) < widths[0]
    error[below] += falling[0] * (widths[0] - np.arange(len(error))[below]) / widths[0]
    return replace(ranking, error=error)
