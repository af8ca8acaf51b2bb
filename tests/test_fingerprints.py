"""A fingerprint changes with whatever it is of, and with nothing else."""

from __future__ import annotations

from dataclasses import dataclass

import networks
import numpy as np
import pytest

import edgeprune.support.fingerprints
from edgeprune.support.fingerprints import fingerprint
from edgeprune.tracing.graph import build_graph, describe_graph


@dataclass
class Pair:
    first: int
    second: np.ndarray


DIFFERENT = [
    (),
    ("a", "b"),
    ("ab",),
    ("a", ["b"]),
    (1,),
    ("1",),
    (1.0,),
    (None,),
    (np.zeros(4),),
    (np.zeros((2, 2)),),
    (np.zeros(4, np.float32),),
    (np.zeros(4, np.int64),),
    (np.arange(4.0),),
    ({"a": 1, "b": 2},),
    ({"a": 2, "b": 1},),
    (Pair(1, np.ones(2)),),
    (Pair(1, np.zeros(2)),),
]


def test_different_things_have_different_fingerprints() -> None:
    assert len({fingerprint(*parts) for parts in DIFFERENT}) == len(DIFFERENT)


def test_neither_order_of_keys_nor_layout_in_memory_counts() -> None:
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})
    array = np.arange(12.0).reshape(3, 4)
    assert fingerprint(array) == fingerprint(np.asfortranarray(array))


def test_another_version_has_other_fingerprints(monkeypatch) -> None:
    before = fingerprint("a")
    monkeypatch.setattr(edgeprune.support.fingerprints, "__version__", "99")
    assert fingerprint("a") != before


@pytest.mark.parametrize("build", [networks.build_residual_network, networks.build_nested_network])
def test_a_model_that_was_built_again_is_the_same_and_every_weight_counts(build) -> None:
    def of(model) -> str:
        return fingerprint(describe_graph(build_graph(model)))

    model, again = (networks.randomize(build()) for _ in range(2))
    before = of(model)
    assert of(again) == before
    for weight in again.weights:
        value = np.array(weight)
        weight.assign(value + np.eye(1, value.size).reshape(value.shape).astype(value.dtype))
        assert of(again) != before
        weight.assign(value)
    assert of(again) == before
