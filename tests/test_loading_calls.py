"""Calls into TensorFlow that Keras 2 saved as layers: each computes what it does in tf_keras."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from edgeprune.errors import ModelError
from edgeprune.loading.architectures import build_architecture
from edgeprune.loading.repairs import plain
from edgeprune.loading.safety import rewrite_configuration


def as_float(x: Any) -> Any:
    return tf.cast(x, tf.float32)


OPENED: dict[str, Callable[[Any], Any]] = {
    "shape": lambda x: tf.reshape(x, [tf.shape(x)[0], -1]),
    "shape_computed": lambda x: tf.reshape(x, [tf.shape(x)[0], tf.shape(x)[1] * 8, 4]),
    "shape_sliced": lambda x: tf.reshape(x[:, :4], [-1, *x.shape[2:]]),
    "shape_stacked": lambda x: tf.reshape(x, tf.stack([tf.shape(x)[0], tf.shape(x)[1] * 8, 4])),
    "batch_doubled": lambda x: tf.reshape(tf.reshape(x, [tf.shape(x)[0] * 2, 4, 8, 4]), [-1, 256]),
    "broadcast_to": lambda x: tf.broadcast_to(x[:, :1], tf.shape(x)),
    "zeros": lambda x: x + tf.zeros(tf.shape(x)) + tf.ones(tf.shape(x)),
    "size": lambda x: x / as_float(tf.size(x[0])) * as_float(tf.rank(x)),
    "gather": lambda x: tf.gather(x, [2, 0, 1], axis=-1),
    "gather_rows": lambda x: tf.gather(x, [2, 0, 1], axis=2),
    "gather_nd": lambda x: tf.gather_nd(
        x, tf.math.top_k(x[:, :3, :3, 0], 2)[1], batch_dims=1
    ),
    "gather_nd_of_samples": lambda x: tf.gather_nd(x, [[[0, 1], [2, 7]], [[1, 3], [1, 0]]]),
    "boolean_mask": lambda x: tf.boolean_mask(x, np.eye(4, dtype=bool)[1], axis=3),
    "boolean_mask_of_places": lambda x: tf.boolean_mask(x, np.eye(8, dtype=bool), axis=1),
    "slice": lambda x: tf.slice(x, [0, 1, 0, 1], [-1, 3, -1, 2]),
    "strided_slice": lambda x: tf.strided_slice(x, [0, 1, 0, 0], [100, 8, 8, 4], [1, 2, 1, 1]),
    "getitem": lambda x: x[:, tf.newaxis, ..., 1:, 0],
    "where": lambda x: tf.where(x > 0.0, x, tf.zeros_like(x)),
    "where_of_calls": lambda x: tf.where(tf.math.greater_equal(x, 0.1), x * 2.0, -x),
    "comparisons": lambda x: as_float(x < 0.2) + as_float(x >= 0.5) + as_float(x <= 0.1)
    + as_float(tf.equal(tf.round(x), 0.0)) + as_float(tf.not_equal(tf.round(x), 1.0)),
    "logic": lambda x: as_float(tf.logical_and(x > 0.0, tf.logical_not(x > 0.5)))
    + as_float(tf.logical_or(x > 0.2, x < -0.2)),
    "ones_like": lambda x: tf.ones_like(x) - x,
    "reduce_prod": lambda x: tf.reduce_prod(x, axis=[1, 2]),
    "reduce_any": lambda x: as_float(tf.reduce_any(x > 0.9, 1))
    + as_float(tf.reduce_all(x > -1, 1)),
    "reduce_std": lambda x: tf.math.reduce_std(x, -1, True) + tf.math.reduce_variance(x, -1, True),
    "reduce_logsumexp": lambda x: tf.reduce_logsumexp(x, axis=-1),
    "max_pool2d": lambda x: tf.nn.max_pool2d(x, 3, 2, "SAME"),
    "max_pool": lambda x: tf.nn.max_pool(x, [1, 2, 2, 1], [1, 2, 2, 1], "VALID"),
    "avg_pool2d": lambda x: tf.nn.avg_pool2d(x, 3, 2, "SAME"),
    "avg_pool": lambda x: tf.nn.avg_pool(x, [1, 2, 3, 1], [1, 1, 2, 1], "VALID"),
    "bias_add": lambda x: tf.nn.bias_add(x, [0.1, 0.2, 0.3, 0.4]),
    "space_to_depth": lambda x: tf.nn.space_to_depth(x, 2),
    "depth_to_space": lambda x: tf.nn.depth_to_space(x, 2),
    "argmax": lambda x: as_float(tf.argmax(x, axis=-1)) + as_float(tf.argmin(x, axis=-1)),
    "norm": lambda x: tf.norm(x, axis=-1) + tf.norm(x, ord=1, axis=-1),
    "norm_of_axes": lambda x: tf.norm(x, axis=[1, 2], keepdims=True),
    "floor": lambda x: tf.floor(x * 3) + tf.math.ceil(x * 3) + tf.round(x * 3),
    "reverse": lambda x: tf.reverse(x, axis=[1, -1]),
    "erf": lambda x: tf.math.erf(x),
    "sin": lambda x: tf.sin(x) + tf.cos(x) + tf.tan(x * 0.1) + tf.sinh(x) + tf.cosh(x),
    "inverse": lambda x: tf.atan(x) + tf.asinh(x) + tf.atanh(x / 20) + tf.asin(x / 20)
    + tf.acos(x / 20) + tf.acosh(tf.abs(x) + 1),
    "rgb_to_grayscale": lambda x: tf.image.rgb_to_grayscale(x[..., :3]),
    "flip": lambda x: tf.image.flip_left_right(x) - tf.image.flip_up_down(x),
    "lrn": lambda x: tf.nn.local_response_normalization(x, 2, 1.0, 1e-1, 0.75),
    "lrn_by_default": lambda x: tf.nn.lrn(x),
    "sign": lambda x: tf.sign(x) * tf.math.log1p(tf.abs(x)) + tf.math.expm1(x),
    "log_sigmoid": lambda x: tf.math.log_sigmoid(x) + tf.math.reciprocal(x + 20)
    + tf.nn.softsign(x),
    "modulo": lambda x: tf.math.floormod(x, 0.7) + tf.math.floordiv(x, 0.3) + x // 0.4 + x % 0.3,
    "difference": lambda x: tf.math.squared_difference(x, 0.3)
    + tf.math.divide_no_nan(x, tf.round(x)),
    "log_softmax": lambda x: tf.nn.log_softmax(x, axis=-1) + tf.nn.leaky_relu(x, 0.3),
    "activations": lambda x: tf.nn.swish(x) + tf.nn.selu(x) + tf.nn.elu(x) + tf.nn.softplus(x)
    + tf.nn.gelu(x) + tf.nn.relu6(x),
    "cumsum": lambda x: tf.cumsum(x, axis=1, reverse=True) + tf.math.cumprod(x, axis=2),
    "top_k": lambda x: tf.math.top_k(x, 2)[0],
    "sort": lambda x: tf.sort(x, axis=-1, direction="DESCENDING"),
    "one_hot": lambda x: tf.one_hot(tf.argmax(x, axis=-1), 4),
    "repeat": lambda x: tf.repeat(tf.roll(x, 1, axis=1), 2, axis=1),
    "tensordot": lambda x: tf.tensordot(x, tf.constant([[1.0, 2.0]] * 4), axes=1),
    "add_n": lambda x: tf.add_n([x, x * 2.0]) + tf.math.accumulate_n([x, x]),
    "powers": lambda x: 2.0**x + x**2 + tf.math.pow(tf.abs(x), 0.5),
    "trace": lambda x: tf.linalg.trace(x[..., 0])[:, None] + tf.linalg.diag_part(x[..., 0]),
    "stop_gradient": lambda x: tf.stop_gradient(tf.ensure_shape(x, (None, 8, 8, 4))),
    "moments": lambda x: tf.nn.moments(x, axes=[1, 2])[0],
}  # fmt: skip


def opened(model: Any) -> keras.Model:
    config = plain(json.loads(model.to_json()))
    return build_architecture(rewrite_configuration(config, "old.h5", 2, {}), 2).model


def samples() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(3, 8, 8, 4)).astype("float32")


@pytest.mark.parametrize("name", OPENED)
def test_a_call_computes_the_same_in_keras_3(name: str) -> None:
    x = tf_keras.Input((8, 8, 4))
    old = tf_keras.Model(x, OPENED[name](x))

    new = opened(old)

    expected, found = np.asarray(old(samples())), np.asarray(new(samples()))
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    config = json.loads(json.dumps(keras.saving.serialize_keras_object(new)))
    again = keras.saving.deserialize_keras_object(config)
    np.testing.assert_array_equal(again(samples()), found)


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        (lambda x: tf.gather(x, [[0], [1], [2]], axis=1, batch_dims=0, name="g")[:, :, 0], None),
        (lambda x: tf.gather(x, tf.argmax(x, -1), batch_dims=2, axis=2), "batch_dims has no"),
        (lambda x: as_float(x != 1.0), r"states other arguments of the call than .* \(none\)"),
        (lambda x: tf.norm(x, ord=3, axis=-1), "the norm 3 has no counterpart"),
        (
            lambda x: tf.reduce_sum(tf.zeros([tf.shape(x)[0], 2**24, 2]), [1, 2]),
            "it fills .* more than 16,777,21",
        ),
        (lambda x: tf.boolean_mask(x, x[..., 0] > 0), "masks samples, or by what the network comp"),
        (lambda x: tf.gather_nd(x, tf.argmax(x, -1)[..., None], batch_dims=2), "it gathers from s"),
        # Such a file names the equation alone, and not the tensors.
        (lambda x: tf.einsum("bhwc,bhwd->bcd", x, x), "calls TensorFlow's 'einsum', for which"),
        (lambda x: tf.cumsum(x, exclusive=True), "exclusive=True has no counterpart"),
        (lambda x: tf.linalg.band_part(x, 0, -1), "calls TensorFlow's 'linalg.band_part', for wh"),
        (lambda x: tf.one_hot(tf.argmax(x, -1), 4, on_value=2.0), "only ones and zeros"),
    ],
)
def test_a_variant_without_counterpart_is_refused_in_one_line(call: Any, reason: Any) -> None:
    x = tf_keras.Input((8, 8, 4))
    old = tf_keras.Model(x, call(x))
    if reason is None:
        np.testing.assert_array_equal(opened(old)(samples()), old(samples()))
        return
    with pytest.raises(ModelError, match=reason) as caught:
        opened(old)
    assert "\n" not in str(caught.value)


def test_sizes_that_are_open_besides_the_batch_are_refused() -> None:
    x = tf_keras.Input((None, 8, 4))
    old = tf_keras.Model(x, tf.reshape(x, [tf.shape(x)[0], tf.shape(x)[1] * 32]))
    with pytest.raises(ModelError, match="computes with sizes that are open; they need to be fix"):
        opened(old)


def text(value: str) -> dict[str, str]:
    return {"s": base64.b64encode(value.encode()).decode()}


def numbers(*values: int) -> dict[str, Any]:
    return {"list": {"i": [str(value) for value in values]}}


GRAPH: dict[str, tuple[dict[str, Any], dict[str, Any], Callable[[Any], Any]]] = {
    "Einsum": ({"equation": text("bhwc,cd->bhwd")}, {"1": [[1.0, 2.0]] * 4},
               lambda x: tf.einsum("bhwc,cd->bhwd", x, tf.constant([[1.0, 2.0]] * 4))),
    "MaxPool": ({"ksize": numbers(1, 3, 3, 1), "strides": numbers(1, 2, 2, 1),
                 "padding": text("SAME")}, {}, lambda x: tf.nn.max_pool2d(x, 3, 2, "SAME")),
    "AvgPool": ({"ksize": numbers(1, 2, 2, 1), "strides": numbers(1, 2, 2, 1),
                 "padding": text("VALID"), "data_format": text("NHWC")}, {},
                lambda x: tf.nn.avg_pool2d(x, 2, 2, "VALID")),
    "BiasAdd": ({"data_format": text("NHWC")}, {"1": [0.1, 0.2, 0.3, 0.4]},
                lambda x: tf.nn.bias_add(x, [0.1, 0.2, 0.3, 0.4])),
    "SpaceToDepth": ({"block_size": {"i": "2"}}, {}, lambda x: tf.nn.space_to_depth(x, 2)),
    "GatherV2": ({}, {"1": [1, 0], "2": 3}, lambda x: tf.gather(x, [1, 0], axis=3)),
    "ReverseV2": ({}, {"1": [1]}, lambda x: tf.reverse(x, [1])),
    "ArgMax": ({}, {"1": 3}, lambda x: tf.argmax(x, 3)),
    "Erf": ({}, {}, tf.math.erf), "Floor": ({}, {}, tf.floor), "Sin": ({}, {}, tf.sin),
    "Greater": ({}, {"1": 0.5}, lambda x: x > 0.5), "Prod": ({}, {"1": [1, 2]},
    lambda x: tf.reduce_prod(x, [1, 2])),
}  # fmt: skip


@pytest.mark.parametrize("name", GRAPH)
def test_an_operation_of_a_graph_computes_the_same(name: str) -> None:
    """As TensorFlow 2.0 to 2.3 wrote them; the expected values are TensorFlow's own."""
    attributes, constants, call = GRAPH[name]
    node = {"name": name.lower(), "op": name, "input": ["x"], "attr": attributes}
    config = {"name": "call", "trainable": True, "node_def": node, "constants": constants}
    entry = {"class_name": "TensorFlowOpLayer", "name": "call", "config": config}
    shape = {"batch_input_shape": [None, 8, 8, 4], "dtype": "float32", "name": "x"}
    layers = [
        {"class_name": "InputLayer", "name": "x", "config": shape, "inbound_nodes": []},
        {**entry, "inbound_nodes": [[["x", 0, 0, {}]]]},
    ]
    graph = {"name": "m", "layers": layers}
    graph |= {"input_layers": [["x", 0, 0]], "output_layers": [["call", 0, 0]]}
    config = rewrite_configuration({"class_name": "Functional", "config": graph}, "old.h5", 2, {})

    found = build_architecture(config, 2).model(samples())

    np.testing.assert_allclose(found, call(samples()), rtol=1e-5, atol=1e-6)
