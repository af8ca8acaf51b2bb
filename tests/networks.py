"""Small networks for tests, with weights away from the values at which mistakes cancel."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from typing import Any
from unittest import mock

import keras
import numpy as np
from keras import layers

from edgeprune.cost.cost_model import CostModel
from edgeprune.surgery.channel_removal import mask_channels, remove_channels
from edgeprune.surgery.plan import Plan
from edgeprune.tracing.graph import build_graph
from edgeprune.tracing.groups import Groups, find_groups
from edgeprune.tracing.opening import functional_form
from edgeprune.tracing.outputs import ending_of, last_call
from edgeprune.tracing.replica import replace_softmax
from edgeprune.tracing.vanishing import StaysError

TOLERANCE = 1e-4


def randomize(model: keras.Model, seed: int = 0) -> keras.Model:
    """Give every weight a value of its own: BatchNorm and biases start at 0 and 1 otherwise."""
    generator = np.random.default_rng(seed)
    for weight in model.weights:
        if weight.dtype.startswith(("float", "bfloat")):
            fan_in = np.prod(weight.shape[:-1]) if len(weight.shape) > 1 else 4
            spread = generator.normal(0, 1 / np.sqrt(max(fan_in, 1)), weight.shape)
            positive = any(name in weight.path for name in ("variance", "gamma", "scale"))
            weight.assign(generator.uniform(0.5, 1.5, weight.shape) if positive else spread)
    for layer in model._flatten_layers(include_self=False):
        if isinstance(layer, layers.Normalization) and layer.input_mean is None:
            layer.finalize_state()
    return model


def random_plan(groups: Groups, seed: int = 0, share: float = 1 / 3) -> Plan:
    """Remove about a share of the channels of every removable group, never all of them."""
    generator = np.random.default_rng(seed)
    keep = {}
    for group in groups.removable:
        kept = np.nonzero(generator.random(group.width) > share)[0]
        keep[group.name] = tuple(kept if kept.size else generator.integers(group.width, size=1))
    return Plan(keep, groups.fingerprint)


def random_branches(groups: Groups, seed: int = 0, chance: float = 0.3) -> Plan:
    """Empty every group that may keep no channel with a chance, and halve half of the others."""
    generator = np.random.default_rng(seed)
    emptied: frozenset[str] = frozenset()
    for name in groups.vanishing.branches:
        if generator.random() < chance:
            with contextlib.suppress(StaysError):  # it may go alone, but not beside the others
                emptied = groups.vanishing.close(emptied | {name}).groups
    keep: dict[str, tuple[int, ...]] = {}
    for group in groups.removable:
        if group.name in emptied:
            keep[group.name] = ()
        elif generator.random() < 0.5:
            chosen = generator.choice(group.width, (group.width + 1) // 2, replace=False)
            keep[group.name] = tuple(sorted(chosen.tolist()))
    return Plan(keep, groups.fingerprint)


def random_inputs(model: keras.Model, samples: int = 3, seed: int = 1, size: int = 8) -> list:
    """Numbers for every input, in the order of `model.inputs`; unknown sizes become `size`."""
    generator = np.random.default_rng(seed)
    made = []
    for tensor in functional_form(model).inputs:
        shape = (
            tensor.shape[0] or samples,
            *(size if extent is None else extent for extent in tensor.shape[1:]),
        )
        if tensor.dtype.startswith("int"):
            made.append(generator.integers(0, 4, shape).astype(tensor.dtype))
        else:
            made.append(generator.normal(size=shape).astype(np.float32))
    return made


def call(model: keras.Model, inputs: list, by_xla: bool = False) -> list[np.ndarray]:
    """Outputs of a model on inputs in the order of `model.inputs`, as a flat list.

    XLA convolves on every CPU what TensorFlow does not: channels first.
    """
    if len(inputs) == 1:
        (structure,) = inputs
    else:
        structure = keras.tree.pack_sequence_as(functional_form(model).input, inputs)
    if by_xla:
        import tensorflow as tf

        outputs = tf.function(lambda x: model(x, training=False), jit_compile=True)(structure)
    else:
        outputs = model(structure, training=False)
    return [keras.ops.convert_to_numpy(o).astype(np.float32) for o in keras.tree.flatten(outputs)]


def difference(first: keras.Model, second: keras.Model, inputs: list) -> float:
    """Largest difference between the logits of two models, as a fraction of their scale."""
    worst = 0.0
    for a, b in zip(call_logits(first, inputs), call_logits(second, inputs), strict=True):
        assert a.shape == b.shape
        assert np.isfinite(a).all()
        worst = max(worst, float(np.abs(a - b).max() / max(np.abs(a).max(), 1e-6)))
    return worst


def call_logits(model: keras.Model, inputs: list) -> list[np.ndarray]:
    """Outputs as `call` gives them, before a softmax or sigmoid at the end.

    The layers at the end are told to be linear for this one call: a copy takes much longer.
    """
    graph = build_graph(model)
    ends = [made for ref in graph.outputs if (made := last_call(graph, ref))]
    bent = [made.operation for made in ends if ending_of(made.operation) != "linear"]
    if not all(hasattr(operation, "activation") for operation in bent):
        return call(replace_softmax(model), inputs)
    with contextlib.ExitStack() as stack:
        for operation in bent:
            stack.enter_context(
                mock.patch.object(operation, "activation", keras.activations.linear)
            )
        return call(model, inputs)


def assert_exact(
    model: keras.Model, seeds: Iterable[int] = (0,), size: int = 8, tolerance: float = TOLERANCE
) -> Groups:
    """Check both invariants: slim == cut for a random plan, and keep all == identity."""
    randomize(model)
    groups = find_groups(model)
    inputs = random_inputs(model, size=size)
    whole = remove_channels(model, Plan(), groups=groups)
    assert difference(model, whole, inputs) <= 1e-6
    form = functional_form(model)
    assert functional_form(whole).output_names == form.output_names
    assert [t.name for t in whole.inputs] == [t.name for t in form.inputs]
    assert [t.shape for t in whole.inputs] == [t.shape for t in form.inputs]
    for seed in seeds:
        plan = random_plan(groups, seed)
        small = remove_channels(model, plan, groups=groups)
        assert difference(mask_channels(model, plan, groups=groups), small, inputs) <= tolerance
        assert_branches_exact(model, groups, seed, inputs, tolerance)
        if groups.removable and any(len(plan.keep[g.name]) < g.width for g in groups.removable):
            assert small.count_params() < model.count_params()
    return groups


def assert_branches_exact(
    model: keras.Model, groups: Groups, seed: int, inputs: list, tolerance: float = TOLERANCE
) -> Plan:
    """Check slim == cut, and the counted parameters, where groups keep no channel at all."""
    plan = random_branches(groups, seed)
    if plan.emptied:
        small = remove_channels(model, plan, groups=groups)
        assert difference(mask_channels(model, plan, groups=groups), small, inputs) <= tolerance
        if None not in functional_form(model).inputs[0].shape[1:]:
            widths = {name: len(kept) for name, kept in plan.keep.items()}
            assert CostModel(groups).count(widths).params == small.count_params()
    return plan


def build_residual_network() -> keras.Model:
    """Two residual stages with BatchNorm, a strided shortcut and a softmax head."""
    inputs = keras.Input((8, 8, 3), name="image")
    x = stem = layers.Conv2D(8, 3, padding="same", name="stem")(inputs)
    x = layers.BatchNormalization(name="stem_norm")(x)
    x = layers.ReLU(name="stem_relu")(x)
    x = layers.Conv2D(6, 3, padding="same", use_bias=False, name="inner")(x)
    x = layers.BatchNormalization(name="inner_norm")(x)
    x = layers.Activation("relu", name="inner_relu")(x)
    x = layers.Conv2D(8, 3, padding="same", name="outer")(x)
    x = layers.Add(name="add")([x, stem])
    x = layers.Conv2D(12, 3, strides=2, padding="same", activation="relu", name="last")(x)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(
        inputs, layers.Dense(5, activation="softmax", name="head")(x), name="residual"
    )


def build_mobile_network() -> keras.Model:
    """Depthwise and separable convolutions, a squeeze-and-excite gate and a Flatten head."""
    inputs = keras.Input((8, 8, 3), name="image")
    x = layers.Conv2D(8, 3, padding="same", name="stem")(inputs)
    x = layers.DepthwiseConv2D(3, padding="same", depth_multiplier=2, name="depthwise")(x)
    x = layers.BatchNormalization(name="norm")(x)
    x = layers.ReLU(6.0, name="relu6")(x)
    gate = layers.GlobalAveragePooling2D(name="squeeze")(x)
    gate = layers.Reshape((1, 1, 16), name="reshape")(gate)
    gate = layers.Conv2D(4, 1, activation="relu", name="reduce")(gate)
    gate = layers.Conv2D(16, 1, activation="sigmoid", name="expand")(gate)
    x = layers.Multiply(name="excite")([x, gate])
    x = layers.SeparableConv2D(6, 3, depth_multiplier=2, name="separable")(x)
    x = layers.MaxPooling2D(name="pool")(x)
    x = layers.Flatten(name="flatten")(x)
    return keras.Model(inputs, layers.Dense(4, name="head")(x), name="mobile")


def build_nested_network() -> keras.Model:
    """A Sequential inside a Functional model, called twice, inside another one."""
    block = keras.Sequential(
        [
            keras.Input((8, 8, 4)),
            layers.Conv2D(6, 3, padding="same", activation="relu", name="first"),
            layers.Conv2D(4, 1, name="second"),
        ],
        name="block",
    )
    inner_inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 1, name="enter")(inner_inputs)
    x = block(x)
    x = block(x)
    inner = keras.Model(inner_inputs, x, name="encoder")
    inputs = keras.Input((8, 8, 3), name="image")
    x = inner(inputs)
    x = layers.Concatenate(name="join")([x, layers.Conv2D(3, 1, name="side")(inputs)])
    x = layers.GlobalMaxPooling2D(name="pool")(x)
    return keras.Model(inputs, layers.Dense(4, name="head")(x), name="nested")


def around(
    middle: Callable[[Any], Any] | list[Any], shape: tuple[int | None, ...] = (6, 6, 3)
) -> keras.Model:
    """`middle` between a layer `before` that writes 6 channels and a layer `after` that reads."""
    inputs = keras.Input(shape)
    convolve = {2: layers.Conv1D, 3: layers.Conv2D, 4: layers.Conv3D}
    kind = convolve.get(len(shape))
    x = kind(6, 1, name="before")(inputs) if kind else layers.Dense(6, name="before")(inputs)
    for step in middle if isinstance(middle, list) else [middle]:
        x = step(x)
    if len(x.shape) > 2:
        x = layers.Flatten()(x) if None not in x.shape[1:] else pool(x)
    return keras.Model(inputs, layers.Dense(3, name="after")(x))


def pool(x: Any) -> Any:
    pools = {3: layers.GlobalMaxPooling1D, 4: layers.GlobalMaxPooling2D}
    return pools[len(x.shape)]()(x)
