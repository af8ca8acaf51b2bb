"""Both invariants on random networks, and each network that once broke one as a test of its own."""

from __future__ import annotations

import keras
import networks
import pytest
from grammar import draw_model
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from edgeprune.cost import CostModel
from edgeprune.surgery import slim


def check(model: keras.Model) -> None:
    groups = networks.assert_exact(model, seeds=[0], size=5)
    costs = CostModel(groups)
    plan = networks.random_plan(groups, seed=1, share=0.8)
    small = slim(model, plan, groups=groups)
    inputs = networks.random_inputs(model, size=5)
    expected = networks.cut(model, plan, groups=groups)
    assert networks.difference(expected, small, inputs) <= networks.TOLERANCE
    if None not in model.inputs[0].shape[1:]:
        predicted = costs.count({name: len(kept) for name, kept in plan.keep.items()})
        assert predicted.params == small.count_params()


COMMON = {
    "deadline": None,
    "suppress_health_check": [HealthCheck.too_slow, HealthCheck.data_too_large],
    "print_blob": True,
}


@settings(max_examples=50, phases=[Phase.explicit, Phase.reuse, Phase.generate], **COMMON)
@given(st.data())
def test_slim_equals_cut_on_random_graphs(data) -> None:
    check(draw_model(data.draw))


@pytest.mark.slow
@settings(max_examples=1000, **COMMON)
@given(st.data())
def test_slim_equals_cut_on_a_thousand_random_graphs(data) -> None:
    check(draw_model(data.draw))
