"""The core without TensorFlow: the same scores and plans on every backend of Keras."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import keras
import numpy as np
import pytest
from keras import ops

from edgeprune.errors import EdgepruneError
from edgeprune.scoring.criteria import CRITERIA
from edgeprune.support.gradients import differentiate

TESTS = Path(__file__).resolve().parent
OTHERS = ("torch", pytest.param("jax", marks=pytest.mark.slow))


@cache
def work_on(backend: str) -> dict[str, np.ndarray]:
    """Run the worker in a process of its own and return what it wrote."""
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed")
    paths = os.pathsep.join([str(TESTS.parent), str(TESTS)])
    environment = os.environ | {
        "KERAS_BACKEND": backend, "PYTHONPATH": paths, "JAX_PLATFORMS": "cpu"
    }  # fmt: skip
    with TemporaryDirectory() as folder:
        path = Path(folder) / "found.npz"
        command = [sys.executable, str(TESTS / "backend_worker.py"), str(path)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stderr[-4000:]
        with np.load(path) as found:
            return dict(found)


@pytest.mark.parametrize("backend", OTHERS)
@pytest.mark.parametrize("criterion", CRITERIA)
def test_a_criterion_gives_the_same_scores_on_every_backend(backend, criterion) -> None:
    here, there = work_on("tensorflow"), work_on(backend)
    names = [name for name in here if name.startswith(f"{criterion} of ")]
    assert len(names) > 2
    for name in names:
        scale = max(np.ptp(here[name]), 1e-9)
        np.testing.assert_allclose(there[name] / scale, here[name] / scale, atol=2e-3)


@pytest.mark.parametrize("backend", OTHERS)
def test_prune_does_the_same_on_every_backend_without_tensorflow(backend) -> None:
    here, there = work_on("tensorflow"), work_on(backend)
    kept = {name for name in here if name.startswith("kept of")}
    assert kept
    assert kept == {name for name in there if name.startswith("kept of")}
    for name in [*kept, "macs", "candidates"]:
        np.testing.assert_array_equal(there[name], here[name])
    assert there["accuracy"] == pytest.approx(here["accuracy"], abs=0.1)
    name = "answers of a mobile network"
    np.testing.assert_allclose(there[name], here[name], rtol=1e-2, atol=1e-3)


# Derivatives.


def test_derivatives_are_those_of_the_formula_and_zero_without_influence() -> None:
    x, y = np.array([[1.0, 2], [3, 4]], np.float32), np.array([5.0], np.float32)
    value, (by_x, by_y) = differentiate(lambda given: ops.sum(ops.sin(given[0])), [x, y])
    assert float(value) == pytest.approx(np.sin(x).sum())
    np.testing.assert_allclose(by_x, np.cos(x), rtol=1e-5)
    assert np.asarray(by_y).tolist() == [0]


def test_a_backend_without_derivatives_is_named() -> None:
    message = "Keras runs on the backend 'numpy', which has no gradients. Set KERAS_BACKEND to one"
    with pytest.raises(EdgepruneError, match=message):
        differentiate(lambda given: given[0], [np.ones(1)], backend="numpy")
    assert keras.backend.backend() == "tensorflow"
