from __future__ import annotations

import keras
import networks
import numpy as np
import pytest
from keras import layers

from edgeprune.errors import ModelError
from edgeprune.tracing.graph import build_graph, run


def test_nested_models_are_inlined_under_their_own_names() -> None:
    paths = [call.path for call in build_graph(networks.build_nested_network()).calls]
    assert paths[:5] == [
        "encoder/enter",
        "encoder/block/first",
        "encoder/block/second",
        "encoder/block/first",
        "encoder/block/second",
    ]


def test_a_nested_model_called_twice_has_two_tensors_at_its_entrance() -> None:
    graph = build_graph(networks.build_nested_network())
    (entrance,) = graph.entrances
    assert [ref.shape for ref in entrance] == [(None, 8, 8, 4)] * 2


@pytest.mark.parametrize(
    "build", [networks.build_residual_network, networks.build_mobile_network,
              networks.build_nested_network],
)  # fmt: skip
def test_running_the_graph_is_calling_the_model(build) -> None:
    model = networks.randomize(build())
    inputs = networks.random_inputs(model)
    (expected,) = networks.call(model, inputs)
    (found,) = run(build_graph(model), inputs)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_a_call_can_be_replaced_while_running() -> None:
    model = networks.build_residual_network()
    met = []

    def on_call(call, args, kwargs):
        met.append(call.path)
        return keras.ops.zeros_like(call.operation(*args, **kwargs))

    (found,) = run(build_graph(model), networks.random_inputs(model), on_call)
    assert not np.any(found)
    assert set(met) == {layer.name for layer in model.layers[1:]}


def test_every_tensor_is_last_used_by_a_call_that_takes_it_or_by_the_caller() -> None:
    graph = build_graph(networks.build_residual_network())
    last = graph.last_uses()
    for number, index in last.items():
        if index == len(graph.calls):
            assert number in {ref.number for ref in graph.outputs}
        else:
            assert number in {ref.number for ref in graph.calls[index].inputs}
            later = graph.calls[index + 1 :]
            assert all(number not in {ref.number for ref in call.inputs} for call in later)


def test_consumers_are_the_calls_that_take_a_tensor() -> None:
    graph = build_graph(networks.build_residual_network())
    stem = next(call for call in graph.calls if call.path == "stem")
    consumers = graph.consumers()[stem.outputs[0].number]
    assert [call.path for call in consumers] == ["stem_norm", "add"]


def test_a_nested_model_that_gets_another_size_has_its_shapes_worked_out_again() -> None:
    block = keras.Sequential([keras.Input((None, None, 3)), layers.Conv2D(4, 3)], name="block")
    inputs = keras.Input((10, 10, 3))
    graph = build_graph(keras.Model(inputs, block(inputs)))
    assert graph.outputs[0].shape == (None, 8, 8, 4)


def test_a_sequential_without_input_shape_is_refused() -> None:
    with pytest.raises(ModelError, match=r"has no input shape yet. Call it on data once"):
        build_graph(keras.Sequential([layers.Dense(2)], name="unbuilt"))
