"""Both invariants on random networks, and each network that once broke one as a test of its own."""

from __future__ import annotations

from collections import Counter
from random import Random

import keras
import networks
import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, assume, given, reject, settings
from hypothesis import strategies as st

from edgeprune import keras_internals
from edgeprune.cost import CostModel
from edgeprune.groups import Groups
from edgeprune.opening import functional_form
from edgeprune.surgery import slim

if not hasattr(keras.layers, "AdaptiveMaxPooling2D"):
    pytest.skip("the grammar draws layers that this Keras lacks", allow_module_level=True)
from grammar import LISTED, draw_model


def check(model: keras.Model) -> Groups:
    groups = networks.assert_exact(model, seeds=[0], size=5)
    costs = CostModel(groups)
    plan = networks.random_plan(groups, seed=1, share=0.8)
    small = slim(model, plan, groups=groups)
    inputs = networks.random_inputs(model, size=5)
    expected = networks.cut(model, plan, groups=groups)
    assert networks.difference(expected, small, inputs) <= networks.TOLERANCE
    if None not in functional_form(model).inputs[0].shape[1:]:
        predicted = costs.count({name: len(kept) for name, kept in plan.keep.items()})
        assert predicted.params == small.count_params()
    return groups


def draw_runnable(random: Random) -> keras.Model:
    """Draw a network that plain Keras can build and run: some sizes and masks it refuses."""
    try:
        model = draw_model(random)
    except Exception:  # of Keras or the backend; nothing of ours has run
        reject()
    inputs = networks.random_inputs(model, size=5)
    try:
        outputs = networks.call(model, inputs)
    except Exception:  # likewise
        reject()
    assume(all(np.isfinite(output).all() for output in outputs))
    return model


# A seed and even choices: drawn one by one, hypothesis prefers few steps and the same ones again.
SEEDED = st.randoms(use_true_random=True)
COMMON = {
    "deadline": None,
    "phases": [Phase.explicit, Phase.reuse, Phase.generate],  # shrinking takes longer than all else
    "suppress_health_check": [HealthCheck.too_slow, HealthCheck.data_too_large],
    "print_blob": True,
}


@settings(max_examples=50, **COMMON)
@given(SEEDED)
def test_slim_equals_cut_on_random_graphs(random: Random) -> None:
    check(draw_runnable(random))


def test_every_listed_type_exists() -> None:
    modules = (
        keras.layers,
        keras_internals.array_operations,
        keras_internals.core_operations,
        keras_internals,
    )
    known = {
        found.__name__
        for module in modules
        for found in vars(module).values()
        if isinstance(found, type)
    }
    assert LISTED - known == set()


@pytest.mark.slow
def test_slim_equals_cut_on_a_thousand_random_graphs() -> None:
    met: Counter[str] = Counter()

    @settings(max_examples=1000, **COMMON)
    @given(SEEDED)
    def draw_and_check(random: Random) -> None:
        groups = check(draw_runnable(random))
        met.update({type(call.operation).__name__ for call in groups.graph.calls})

    draw_and_check()
    assert LISTED - met.keys() == set()
