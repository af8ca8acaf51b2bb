"""How channels of a group are ranked: `CRITERIA`, from name to function."""

from edgeprune.scoring.blends import score_blended
from edgeprune.scoring.calibration_samples import CalibrationSamples
from edgeprune.scoring.context import Criterion, PruningContext, View, dead_last
from edgeprune.scoring.discrimination import score_trace_ratio
from edgeprune.scoring.filters import score_bn_scale, score_fermat, score_fpgm, score_l1, score_l2
from edgeprune.scoring.masks import score_best_mask, score_ensemble, score_random
from edgeprune.scoring.reconstruction import score_lasso, score_thinet
from edgeprune.scoring.responses import (
    score_activation_mean,
    score_activation_variance,
    score_apoz,
    score_class_response,
    score_entropy,
    score_hrank,
)
from edgeprune.scoring.subsets import score_greedy_least_squares, score_pivoted_qr
from edgeprune.scoring.taylor import score_taylor_2016, score_taylor_2019

FUNCTIONS: dict[str, Criterion] = {
    "l1": score_l1,
    "l2": score_l2,
    "bn_scale": score_bn_scale,
    "fpgm": score_fpgm,
    "fermat": score_fermat,
    "taylor_2016": score_taylor_2016,
    "taylor_2019": score_taylor_2019,
    "apoz": score_apoz,
    "activation_mean": score_activation_mean,
    "activation_variance": score_activation_variance,
    "entropy": score_entropy,
    "hrank": score_hrank,
    "thinet": score_thinet,
    "lasso": score_lasso,
    "best_mask": score_best_mask,
    "random": score_random,
    "class_response": score_class_response,
    "trace_ratio": score_trace_ratio,
    "ensemble": score_ensemble,
    "blended": score_blended,
    "pivoted_qr": score_pivoted_qr,
    "greedy_least_squares": score_greedy_least_squares,
}
CRITERIA = {name: dead_last(criterion) for name, criterion in FUNCTIONS.items()}

__all__ = ["CRITERIA", "CalibrationSamples", "Criterion", "PruningContext", "View"]
