from __future__ import annotations

import keras
import networks
import numpy as np
import pytest
from keras import layers

from edgeprune.data import Samples
from edgeprune.errors import ClassError, DataError, ModelError
from edgeprune.evaluation.preconditions import check_classes, check_model, make_samples
from edgeprune.tracing.groups import find_groups


@pytest.fixture(scope="module")
def model() -> keras.Model:
    return networks.build_residual_network()


def images(samples: int = 6) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(samples, 8, 8, 3)).astype(np.float32)


def test_inputs_come_alone_in_pairs_or_as_samples(model) -> None:
    x, y = images(), np.array([0, 1, 2, 3, 4, 0])
    assert make_samples(model, x).targets.size == 0
    for data in ((x, y), (x, y.tolist()), (x, y[:, None]), (x, y.astype(float)), Samples(x, y)):
        found = make_samples(model, data)
        np.testing.assert_array_equal(found.inputs, x)
        assert found.targets.tolist() == y.tolist()
        assert found.targets.dtype == np.int64


def test_a_batch_that_cannot_change_is_refused(model) -> None:
    x = keras.Input(batch_shape=(4, 6, 6, 2))
    fixed = layers.Dense(2)(keras.ops.mean(keras.ops.reshape(x, (4, -1, 2)), axis=1))
    with pytest.raises(ModelError, match=r"computes with 4 samples at once and with no other numb"):
        check_model(keras.Model(x, fixed))
    check_model(keras.Model(x, layers.Dense(2)(layers.Flatten()(x))))


def test_inputs_become_float32(model) -> None:
    found = make_samples(model, np.full((2, 8, 8, 3), 255, np.uint8))
    assert (found.inputs.dtype, found.inputs.max()) == (np.float32, 255)


def test_samples_of_other_classes_are_left_out(model) -> None:
    x, y = images(), np.array([0, 1, 2, 3, 4, 0])
    found = make_samples(model, (x, y), (0, 3))
    assert found.targets.tolist() == [0, 3, 0]
    np.testing.assert_array_equal(found.inputs, x[[0, 3, 5]])
    assert len(make_samples(model, x, (0, 3)).inputs) == 6
    with pytest.raises(DataError, match=r"data has no sample of the classes to keep, \[3\]\."):
        make_samples(model, (x[:2], y[:2]), (3,))


def test_sizes_that_the_model_leaves_open_are_free() -> None:
    inputs = keras.Input((None, None, 3))
    net = keras.Model(inputs, layers.GlobalMaxPooling2D()(inputs))
    assert make_samples(net, images()).inputs.shape == (6, 8, 8, 3)
    with pytest.raises(DataError, match=r"takes samples of shape \(any, any, 3\)"):
        make_samples(net, images()[..., :1])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (images()[:, :7], r"The data has shape \(6, 7, 8, 3\); model 'residual' takes samples "
                          r"of shape \(8, 8, 3\), so at least one of them in an array of shape"),
        (images()[0], r"The data has shape \(8, 8, 3\); model 'residual' takes"),
        (images(0), r"The data has shape \(0, 8, 8, 3\); .* at least one"),
        (np.where(images() > 2, np.nan, images()), "The data holds numbers that are not finite"),
        ((images(), [0, 1]), r"targets of shape \(2,\) and type int64 for 6 samples\. Expected "
                             r"class indices, shape \(6,\), or none\."),
        ((images(), np.eye(6)), r"targets of shape \(6, 6\) and type float64 for 6 samples"),
        ((images(), np.arange(6) / 2), "type float64 for 6 samples. Expected class indices"),
        ((images(), -np.arange(6)), "Expected class indices"),
        ((images(), list("abcdef")), "type <U1 for 6 samples"),
    ],
)  # fmt: skip
def test_data_that_does_not_fit_is_described(model, data, message) -> None:
    with pytest.raises(DataError, match=message):
        make_samples(model, data)


def test_the_data_is_called_by_its_name(model) -> None:
    with pytest.raises(DataError, match="The validation data has shape"):
        make_samples(model, images(0), name="validation data")


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_named(bad) -> None:
    net = networks.build_nested_network()
    check_model(net)
    layer = net.get_layer("encoder").get_layer("block").get_layer("first")
    kernel, bias = layer.get_weights()
    kernel[1, 2, 3, 4] = bad
    layer.set_weights([kernel, bias])
    message = r"Weight 'kernel' of layer 'encoder/block/first' holds numbers that are not finite"
    with pytest.raises(ModelError, match=message):
        check_model(net)


def test_several_inputs_are_refused() -> None:
    one, two = keras.Input((2,)), keras.Input((2,))
    net = keras.Model([one, two], layers.Add()([one, two]), name="pair")
    with pytest.raises(ModelError, match="Model 'pair' has 2 inputs; pruning needs exactly one"):
        check_model(net)


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ((0, 5), r"has no outputs \[5\]: it has 5, numbered from 0 to 4"),
        ((-1,), r"has no outputs \[-1\]"),
        ((1, 1), r"Expected outputs to keep, each once\. Got \[1, 1\]"),
        ((), r"Expected outputs to keep, each once\. Got \[\]"),
    ],
)
def test_classes_that_cannot_be_kept_are_refused(model, classes, message) -> None:
    groups = find_groups(model)
    check_classes(groups, None)
    check_classes(groups, (4, 0))
    with pytest.raises(ClassError, match=message):
        check_classes(groups, classes)


def test_classes_of_a_model_that_has_none_are_refused() -> None:
    inputs = keras.Input((4,))
    outputs = [layers.Dense(3)(inputs), layers.Dense(2)(inputs)]
    with pytest.raises(ClassError, match="has 2 outputs; a specialist needs exactly one"):
        check_classes(find_groups(keras.Model(inputs, outputs)), (0,))


@pytest.mark.parametrize("kind", [bool, np.uint8, np.float32])
def test_one_hot_rows_are_classes_of_a_classifier(model, kind) -> None:
    y = np.arange(4) % model.outputs[0].shape[-1]
    x = np.zeros((4, *model.inputs[0].shape[1:]))
    rows = np.eye(model.outputs[0].shape[-1])[y].astype(kind)
    assert make_samples(model, (x, rows)).targets.tolist() == y.tolist()
    assert not make_samples(model, (x, rows), task="regress").targets.size
