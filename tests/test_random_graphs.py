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

from edgeprune.cost.cost_model import CostModel
from edgeprune.loading.comparisons import computes_in_half
from edgeprune.loading.data_formats import move_channels_last
from edgeprune.surgery.channel_removal import remove_channels
from edgeprune.tracing import keras_internals
from edgeprune.tracing.groups import Groups
from edgeprune.tracing.layouts import find_channels_first
from edgeprune.tracing.opening import functional_form

if not hasattr(keras.layers, "AdaptiveMaxPooling2D"):
    pytest.skip("the grammar draws layers that this Keras lacks", allow_module_level=True)
from grammar import LISTED, draw_model


def check(model: keras.Model) -> Groups:
    groups = networks.assert_exact(model, seeds=[0], size=5)
    costs = CostModel(groups)
    plan = networks.random_plan(groups, seed=1, share=0.8)
    small = remove_channels(model, plan, groups=groups)
    inputs = networks.random_inputs(model, size=5)
    expected = networks.mask_channels(model, plan, groups=groups)
    assert networks.difference(expected, small, inputs) <= networks.TOLERANCE
    if None not in functional_form(model).inputs[0].shape[1:]:
        predicted = costs.count({name: len(kept) for name, kept in plan.keep.items()})
        assert predicted.params == small.count_params()
    return groups


def draw_runnable(random: Random) -> keras.Model:
    """Draw a network that plain Keras can build and run: some sizes and masks it refuses.

    One with channels first runs through XLA, and is checked against its form in channels last,
    which is returned: what TensorFlow runs of it, here or once it is cut, depends on the CPU.
    """
    try:
        model = draw_model(random)
    except Exception:  # of Keras or the backend; nothing of ours has run
        reject()
    inputs = networks.random_inputs(model, size=5)
    first = bool(find_channels_first(model))
    try:
        outputs = networks.call(model, inputs, by_xla=first)
    except Exception:  # likewise
        reject()
    assume(all(np.isfinite(output).all() for output in outputs))
    moved = move_channels_last(model)
    tolerance = 2e-2 if computes_in_half(model) else 1e-4
    for one, other in zip(outputs, networks.call(moved, inputs), strict=True):
        np.testing.assert_allclose(one, other, atol=tolerance * max(1, np.abs(one).max()))
    return moved


# A seed and even choices: drawn one by one, hypothesis prefers few steps and the same ones again.
SEEDED = st.randoms(use_true_random=True)
COMMON = {
    "deadline": None,
    "phases": [Phase.explicit, Phase.reuse, Phase.generate],  # shrinking takes longer than all else
    "suppress_health_check": [HealthCheck.too_slow, HealthCheck.data_too_large],
    "print_blob": True,
}


@settings(max_examples=15, **COMMON)
@given(SEEDED)
def test_slim_equals_cut_on_random_graphs(random: Random) -> None:
    check(draw_runnable(random))


@pytest.mark.parametrize("seed", [7000096, 7000242])
def test_grouped_convolutions_with_channels_first_may_lose_all_groups_but_one(seed: int) -> None:
    check(draw_runnable(Random(seed)))


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
        met.update({"TimeDistributed"} if "MergeTime" in met else {})

    draw_and_check()
    assert LISTED - met.keys() == set()
