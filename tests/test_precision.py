"""TF32 is off while it would blur a proof, and afterwards what it was before."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from specialists import digits, make_classifier

from edgeprune.pruning.one_shot import prune
from edgeprune.surgery.precision import full_float32

tf32 = tf.config.experimental


@pytest.fixture(autouse=True)
def as_tensorflow_ships():
    tf32.enable_tensor_float_32_execution(True)
    yield
    tf32.enable_tensor_float_32_execution(True)


def test_tensorflow_computes_in_full_precision_inside_only():
    with full_float32("tensorflow"):
        assert not tf32.tensor_float_32_execution_enabled()
    assert tf32.tensor_float_32_execution_enabled()


def test_an_error_inside_restores_what_was_before():
    with pytest.raises(KeyError), full_float32("tensorflow"):
        raise KeyError
    assert tf32.tensor_float_32_execution_enabled()


def test_jax_computes_in_full_precision_inside_only():
    jax = pytest.importorskip("jax")
    before = jax.config.jax_default_matmul_precision
    with full_float32("jax"):
        assert jax.config.jax_default_matmul_precision == "highest"
    assert jax.config.jax_default_matmul_precision == before


def test_pytorch_computes_in_full_precision_inside_only():
    torch = pytest.importorskip("torch")
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = True
    try:
        with full_float32("torch"):
            assert not torch.backends.cudnn.allow_tf32
            assert not torch.backends.cuda.matmul.allow_tf32
        assert torch.backends.cudnn.allow_tf32
    finally:
        torch.backends.cudnn.allow_tf32 = before


def test_pruning_computes_in_full_precision():
    enabled: set[bool] = set()

    class Watching(keras.layers.Layer):
        def call(self, x):
            enabled.add(tf32.tensor_float_32_execution_enabled())
            return x

    model = make_classifier()
    watched = keras.Model(model.inputs, Watching()(model.outputs[0]))
    enabled.clear()
    prune(watched, digits()[0][:60].astype(np.float32), pruning="chapr")
    assert enabled == {False}
