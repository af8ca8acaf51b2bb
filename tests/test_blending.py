from __future__ import annotations

import networks
import numpy as np
import pytest
from small_models import Recorder

from edgeprune.cost.budgets import Budgets
from edgeprune.cost.cost_model import CostModel
from edgeprune.evaluation.evaluator import Score
from edgeprune.pruning.blending import Blending, search_blends
from edgeprune.pruning.methods import METHODS
from edgeprune.pruning.one_shot import prune
from edgeprune.pruning.planning import make_plan
from edgeprune.pruning.pruning_settings import Pruning
from edgeprune.scoring.blends import BLENDED
from edgeprune.scoring.calibration_samples import CalibrationSamples
from edgeprune.scoring.collection import collect_statistics
from edgeprune.scoring.context import PruningContext
from edgeprune.scoring.criteria import CRITERIA
from edgeprune.scoring.method_settings import Settings
from edgeprune.support.progress import showing
from edgeprune.surgery.plan import Plan
from edgeprune.tracing.groups import find_groups

SETTINGS = Settings(generations=3, population=4)
MEMBERS = len(BLENDED)


def images(samples: int = 40) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(samples, 8, 8, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def model():
    return networks.randomize(networks.build_residual_network())


@pytest.fixture(scope="module")
def context(model) -> PruningContext:
    groups, x = find_groups(model), images()
    y = np.asarray(model(x)).argmax(-1)
    statistics = collect_statistics(groups, x, y, num_classes=5)
    return PruningContext(
        groups, statistics, calibration=CalibrationSamples(groups, x, y), settings=SETTINGS
    )


@pytest.fixture(scope="module")
def plan(context) -> Plan:
    method = METHODS["blending"]
    return make_plan(context, CostModel(context.groups), Budgets.parse("macs=50%"), method=method)


class Wish:
    """Scores plans by how many channels of a wanted set they keep; counts how often it is asked."""

    def __init__(self, plan: Plan, context: PruningContext) -> None:
        self.wanted = {
            name: set(np.argsort(np.sin(np.arange(context.groups[name].width) * 7))[: len(kept)])
            for name, kept in plan.keep.items()
        }
        self.asked: list[Plan] = []

    def __call__(self, plan: Plan) -> Score:
        self.asked.append(plan)
        kept = sum(len(self.wanted[name] & set(channels)) for name, channels in plan.keep.items())
        return Score(kept / 100, -1.0)


@pytest.fixture(scope="module")
def found(context, plan) -> tuple[Blending, Wish]:
    wish = Wish(plan, context)
    return search_blends(context, plan, wish), wish


def test_the_blend_is_never_below_a_pure_criterion(found, context, plan) -> None:
    blending, wish = found
    assert set(blending.pure) == set(BLENDED)
    assert blending.score >= max(blending.pure.values())
    assert blending.score == wish(blending.plan)
    for name, score in blending.pure.items():
        keep = {
            group: tuple(sorted(np.argsort(
                -CRITERIA[name](context, context.groups[group]), kind="stable"
            )[: len(kept)].tolist()))
            for group, kept in plan.keep.items()
        }  # fmt: skip
        assert score == wish(Plan(keep, plan.fingerprint))


def test_widths_stay_those_of_the_plan(found, plan) -> None:
    blending, wish = found
    for tried in wish.asked:
        assert {n: len(k) for n, k in tried.keep.items()} == {
            n: len(k) for n, k in plan.keep.items()
        }
    assert blending.evaluations == MEMBERS + 3 * (MEMBERS + 4)


def test_weights_name_one_criterion_of_each_cluster(found, plan) -> None:
    for weights in found[0].weights.values():
        assert 2 <= len(weights) <= 4
        assert set(weights) <= set(BLENDED)
        assert all(0 <= weight <= 1 for weight in weights.values())
    assert set(found[0].weights) == set(plan.keep)


def test_the_same_seed_finds_the_same_blend(found, context, plan) -> None:
    again = search_blends(context, plan, Wish(plan, context))
    assert (again.plan, again.weights, again.score) == (
        found[0].plan, found[0].weights, found[0].score
    )  # fmt: skip


def test_without_time_the_pure_criteria_are_graded_still(context, plan) -> None:
    recorder = Recorder()
    with showing(recorder):
        blending = search_blends(context, plan, Wish(plan, context), time_limit=0)
    assert set(blending.pure) == set(BLENDED)
    assert blending.score >= max(blending.pure.values())
    assert [stage[0] for stage in recorder.stages] == ["blending criteria"]
    assert blending.evaluations <= 2 * MEMBERS + 1


def test_the_method_reports_its_members_and_beats_them_all_on_validation(model) -> None:
    x = images(60)
    y = np.asarray(model(x)).argmax(-1)
    pruned = prune(model, (x, y), pruning=Pruning("blending", step=1, search_seconds=5))
    names = [candidate.criterion for candidate in pruned.candidates]
    assert names[0] == pruned.chosen.criterion == "blended"
    assert set(names[1:]) == {f"{name} alone" for name in BLENDED}
    assert all(pruned.chosen.score >= candidate.score for candidate in pruned.candidates)
    assert pruned.after.macs <= pruned.before.macs / 2


def test_another_criterion_in_place_of_the_blend_needs_no_search(model) -> None:
    pruned = prune(model, images(20), pruning=Pruning("blending", criterion="l1"))
    assert [candidate.criterion for candidate in pruned.candidates] == ["l1"]
