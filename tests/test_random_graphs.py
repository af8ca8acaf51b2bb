"""Both invariants on random networks, and each network that once broke one as a test of its own."""

from __future__ import annotations

from collections import Counter
from random import Random

import keras
import pytest
from hypothesis import HealthCheck, Phase, given, reject, settings
from hypothesis import strategies as st

from edgeprune.tracing import keras_internals

if not hasattr(keras.layers, "AdaptiveMaxPooling2D"):
    pytest.skip("the grammar draws layers that this Keras lacks", allow_module_level=True)
from fuzzing.random_graphs import UnrunnableError
from fuzzing.random_graphs import check_model as check
from fuzzing.random_graphs import draw_runnable as draw
from grammar import LISTED


def draw_runnable(random: Random) -> keras.Model:
    try:
        return draw(random)
    except UnrunnableError:
        reject()


# A seed and even choices: drawn one by one, hypothesis prefers few steps and the same ones again.
SEEDED = st.randoms(use_true_random=True)
COMMON = {
    "deadline": None,
    "phases": [Phase.explicit, Phase.reuse, Phase.generate],  # shrinking takes longer than all else
    "suppress_health_check": [HealthCheck.too_slow, HealthCheck.data_too_large],
    "print_blob": True,
}


@settings(max_examples=8, **COMMON)
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
