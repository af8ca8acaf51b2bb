"""Named combinations of a criterion, an allocation and a recovery: `METHODS`.

The three are independent: any criterion works with any allocation and any recovery, and a name that
is given beside a method replaces the method's own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from edgeprune.scoring.method_settings import DEFAULT_SETTINGS, Settings

Recalibration = Literal["auto", "on", "off"]
RECALIBRATIONS: tuple[Recalibration, ...] = ("auto", "on", "off")


@dataclass(frozen=True)
class Method:
    """A combination with a name, and where it comes from.

    Attributes:
        summary: what it does, in one sentence.
        source: paper and year, and what is ours.
        criterion: name in `CRITERIA`.
        allocation: name in `ALLOCATIONS`.
        recovery: name in `RECOVERIES`, or `auto` for the best of `CONTENDERS` on validation.
        recalibration: of BatchNorm after the recovery; `auto` keeps it where validation gains.
        settings: numbers that criterion and allocation work with.
    """

    summary: str
    source: str
    criterion: str
    allocation: str = "gain"
    recovery: str = "auto"
    recalibration: Recalibration = "auto"
    settings: Settings = DEFAULT_SETTINGS


METHODS: dict[str, Method] = {
    "auto": Method(
        summary="The best combination known so far: greedy least squares on what the consumers "
        "lose, widths by gain per cost where whole branches may go, the recovery that validation "
        "prefers.",
        source="Ours.",
        criterion="greedy_least_squares",
        allocation="branches",
    ),
    "specialist": Method(
        summary="Keep the channels that answer most to one of the wanted classes, and put the mean "
        "in place of the others; no retraining.",
        source='After Guo, Potkonjak, "Pruning ConvNets Online for Efficient Specialist Models" '
        "(2017). Ours: widths by gain per cost.",
        criterion="class_response",
        recovery="mean",
    ),
    "catro": Method(
        summary="Keep the channels that together tell the wanted classes apart best, by the trace "
        "ratio; widths by submodular greedy, in turns with the selection.",
        source='After Hu et al., "CATRO: Channel Pruning via Class-Aware Trace Ratio Optimization" '
        "(2021). Ours: the set function for the widths.",
        criterion="trace_ratio",
        allocation="submodular",
        settings=Settings(rounds=3),
    ),
    "filter_ensembles": Method(
        summary="Silence random channels, fit a linear model of the loss, and remove what raises "
        "it least; in rounds.",
        source='After Sandor, Pavel, Csato, "Pruning CNN\'s with linear filter ensembles" (2020). '
        "Ours: balanced masks of one group at a time, means in place of silenced channels, widths "
        "by gain per cost.",
        criterion="ensemble",
    ),
    "blending": Method(
        summary="Cluster criteria that agree, and search on validation for the best blend of "
        "one from each cluster.",
        source='After He et al., "Blending Pruning Criteria for CNNs" (2021). Ours: the '
        "data-driven criteria take part, widths by gain per cost, differential evolution.",
        criterion="blended",
        settings=Settings(generations=3),
        recovery="least_squares",
        recalibration="off",
    ),
    "chapr": Method(
        summary="Choose channels by QR with column pivoting and write the others as combinations "
        "of them.",
        source='After Zhang, Davoodi, Hu, "CHaPR: Efficient Inference of CNNs via Channel Pruning" '
        "(2020). Ours: pivots from the covariance, on all consumers of a group at once.",
        criterion="pivoted_qr",
        recovery="least_squares",
        recalibration="off",
    ),
}
