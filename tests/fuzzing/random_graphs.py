"""Random networks, made by the number: both invariants, in every form, and what is exported."""

from __future__ import annotations

import tempfile
from random import Random

import keras
import networks
import numpy as np
from grammar import draw_model

from edgeprune.cost.cost_model import CostModel
from edgeprune.errors import ConversionError
from edgeprune.loading.comparisons import computes_in_half
from edgeprune.loading.data_formats import move_channels_last
from edgeprune.surgery.channel_removal import remove_channels
from edgeprune.tflite import CALIBRATED, convert_in_detail
from edgeprune.tflite.runtime import TFLiteModel
from edgeprune.tracing.groups import Groups
from edgeprune.tracing.layouts import find_channels_first
from edgeprune.tracing.opening import functional_form

HALF_TOLERANCE = 0.1
"""Of networks in half precision, whose sums are rounded in another order once channels are gone."""
LOST = 0.9
"""Error from which an integer model has nothing to do with its float model."""
SCHEMES = ("float32", "dynamic", "int8", "int16x8")


class UnrunnableError(Exception):
    """Plain Keras cannot build or run what was drawn: some sizes and masks it refuses."""


def draw_runnable(random: Random) -> keras.Model:
    """Draw a network that plain Keras can build and run.

    One with channels first runs through XLA, and is checked against its form in channels last,
    which is returned: what TensorFlow runs of it, here or once it is cut, depends on the CPU.

    Raises:
        UnrunnableError: it cannot, or answers with NaN.
    """
    try:
        model = draw_model(random)
        inputs = networks.random_inputs(model, size=5)
        first = bool(find_channels_first(model))
        outputs = networks.call(model, inputs, by_xla=first)
    except Exception as error:  # of Keras or the backend; nothing of ours has worked on it
        raise UnrunnableError from error
    if not all(np.isfinite(output).all() for output in outputs):
        raise UnrunnableError
    moved = move_channels_last(model)
    tolerance = 2e-2 if computes_in_half(model) else 1e-4
    for one, other in zip(outputs, networks.call(moved, inputs), strict=True):
        np.testing.assert_allclose(one, other, atol=tolerance * max(1, np.abs(one).max()))
    return moved


def check_model(
    model: keras.Model, share: float = 0.8, tolerance: float = networks.TOLERANCE
) -> Groups:
    """Check both invariants, and that parameters are counted right.

    Args:
        model: its weights are drawn anew.
        share: of the channels that go; of a group one always stays.
        tolerance: of the outputs, relative to their scale.
    """
    groups = networks.assert_exact(model, seeds=[0], size=5, tolerance=tolerance)
    costs = CostModel(groups)
    plan = networks.random_plan(groups, seed=1, share=share)
    small = remove_channels(model, plan, groups=groups)
    inputs = networks.random_inputs(model, size=5)
    expected = networks.mask_channels(model, plan, groups=groups)
    assert networks.difference(expected, small, inputs) <= tolerance
    if None not in functional_form(model).inputs[0].shape[1:]:
        predicted = costs.count({name: len(kept) for name, kept in plan.keep.items()})
        assert predicted.params == small.count_params()
    return groups


def change_form(model: keras.Model, random: Random) -> keras.Model:
    """Return the network as it is, in a Functional, in a Sequential, or saved and opened again."""
    form = functional_form(model)
    ways = ["as drawn", "functional", "saved"]
    if len(form.inputs) == len(form.outputs) == 1 and not isinstance(form.input, dict | list):
        ways.append("sequential")
    way = random.choice(ways)
    inputs = [
        keras.Input(batch_shape=tensor.shape, dtype=tensor.dtype, name=tensor.name)
        for tensor in form.inputs
    ]
    if way == "functional":
        given = keras.tree.pack_sequence_as(form.input, inputs)
        return keras.Model(given, model(given))
    if way == "sequential":
        return keras.Sequential([inputs[0], model])
    if way == "saved" and type(model).__module__.startswith("keras."):
        with tempfile.TemporaryDirectory() as folder:
            model.save(f"{folder}/model.keras")
            try:
                return keras.models.load_model(f"{folder}/model.keras", compile=False)
            except Exception as error:  # a layer of the grammar's own, or one Keras cannot open
                raise UnrunnableError from error
    return model


def check_export(model: keras.Model, scheme: str) -> None:
    """Convert a network; it answers like Keras, or is refused in one line."""
    inputs = networks.random_inputs(model, samples=4, size=5)
    samples = inputs if len(inputs) > 1 else inputs[0]
    try:
        made = convert_in_detail(model, scheme=scheme, calibration=samples)
    except ConversionError as error:
        assert "\n" not in str(error).strip(), str(error)
        return
    if scheme in CALIBRATED:
        assert made.error is not None and made.error < LOST, f"{scheme} is off by {made.error:.2f}"
        return
    found = TFLiteModel(made.content).predict(samples)
    answers = list(found.values()) if isinstance(found, dict) else [found]
    tolerance = 1e-3 if scheme == "float32" else 0.2
    for one, other in zip(networks.call(model, inputs), answers, strict=True):
        scale = max(float(np.abs(one).max()), 1e-3)
        assert np.abs(one - other.reshape(one.shape)).max() <= tolerance * scale


def check(seed: int) -> None:
    """Draw the network of a seed, in some form and precision, and check all that is claimed.

    Raises:
        UnrunnableError: plain Keras cannot build or run it.
    """
    random = Random(seed)
    half = random.random() < 0.15
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16" if half else "float32")
    try:
        model = draw_runnable(random)
        model = change_form(model, random)
    finally:
        keras.config.set_dtype_policy(policy)
    tolerance = HALF_TOLERANCE if half else networks.TOLERANCE
    share = random.choice([0.3, 0.8, 1.0])
    check_model(model, share, tolerance)
    if random.random() < 0.25 and not half:
        check_export(model, random.choice(SCHEMES))
