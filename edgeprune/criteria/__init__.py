"""How channels of a group are ranked: `CRITERIA`, from name to function; higher = keep."""

from edgeprune.criteria.evidence import Criterion, Evidence, View
from edgeprune.criteria.norms import score_l1
from edgeprune.criteria.observations import Observations
from edgeprune.criteria.responses import score_class_response
from edgeprune.criteria.subsets import score_greedy_least_squares, score_pivoted_qr

CRITERIA: dict[str, Criterion] = {
    "l1": score_l1,
    "class_response": score_class_response,
    "pivoted_qr": score_pivoted_qr,
    "greedy_least_squares": score_greedy_least_squares,
}

__all__ = ["CRITERIA", "Criterion", "Evidence", "Observations", "View"]
