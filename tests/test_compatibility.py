"""`edgeprune check`: which models a board takes, and what keeps the others off."""

from __future__ import annotations

import json
from dataclasses import replace

import flatbuffers
import keras
import numpy as np
import pytest
import small_models
from ai_edge_litert.schema_py_generated import BuiltinOperator
from keras import layers
from specialists import run_command

from edgeprune.boards import find_target
from edgeprune.cost.estimates import Estimates
from edgeprune.errors import ModelError
from edgeprune.latency import Deployment
from edgeprune.tflite import convert
from edgeprune.tflite.arena import peak_memory
from edgeprune.tflite.compatibility import check_file, check_model
from edgeprune.tflite.edgetpu import edgetpu_parameter_bytes, examine
from edgeprune.tflite.flatbuffer import parse_model
from edgeprune.tracing.groups import find_groups

CORAL = find_target("coral-usb")


def after_a_convolution(*following) -> keras.Model:
    image = keras.Input((16, 16, 3), name="image")
    x = layers.Conv2D(8, 3, name="before")(image)
    for layer in following:
        x = layer(x)
    x = layers.Conv2D(4, 3, activation="relu", name="after")(x)
    return keras.Model(image, layers.Dense(3)(layers.GlobalAveragePooling2D()(x)))


def batch_of_four() -> keras.Model:
    image = keras.Input(batch_shape=(4, 8, 8, 3), name="image")
    return keras.Model(image, layers.Conv2D(4, 3)(image))


def open_size() -> keras.Model:
    image = keras.Input((None, None, 3), name="image")
    return keras.Model(image, layers.GlobalAveragePooling2D()(layers.Conv2D(4, 3)(image)))


def volumes() -> keras.Model:
    image = keras.Input((6, 6, 6, 2))
    return keras.Model(image, layers.Conv3D(4, 3)(image))


def without_a_form() -> keras.Model:
    image = keras.Input((8, 8, 3))
    return keras.Model(image, keras.ops.erf(layers.Conv2D(4, 3)(image)))


@pytest.mark.parametrize(
    "following",
    [
        (layers.ReLU(6.0),),
        (layers.Activation("swish"),),
        (layers.PReLU("ones", shared_axes=[1, 2]),),
        (layers.BatchNormalization(), layers.MaxPooling2D()),
        (layers.UpSampling2D(interpolation="bilinear"),),
        (layers.Conv2DTranspose(4, 2, strides=2),),
        (layers.ZeroPadding2D(), layers.DepthwiseConv2D(3)),
    ],
)
def test_what_the_edge_tpu_has_fits(following) -> None:
    found = check_model(after_a_convolution(*following), CORAL)
    assert found.fits and found.obstacles == ()
    places = {place for counts in found.edgetpu.placement.values() for place in counts}
    assert places == {"Edge TPU", "CPU"}
    assert found.edgetpu.placement["QUANTIZE"] == {"CPU": 1}, "of the floats at the input"


@pytest.mark.parametrize(
    ("layer", "operator", "problem", "change"),
    [
        (layers.LeakyReLU(), "LEAKY_RELU", "not supported", "ReLU or PReLU"),
        (layers.Activation("hard_swish"), "HARD_SWISH", "not supported", "relu6"),
        (layers.Activation("gelu"), "GELU", "not supported", "ReLU"),
        (
            layers.PReLU(alpha_initializer="random_normal"),
            "PRELU",
            "alpha differs between positions",
            "PReLU(shared_axes=[1, 2])",
        ),
        (layers.Softmax(), "SOFTMAX", "softmax over a map", "end the model before the softmax"),
        (layers.Dense(5), "FULLY_CONNECTED", "196 rows at once", "a 1x1 convolution"),
    ],
)
def test_what_it_has_not_is_named_with_a_way_out(layer, operator, problem, change) -> None:
    found = check_model(after_a_convolution(layer), CORAL)
    assert not found.fits
    obstacle = found.obstacles[0]
    assert obstacle.operator == operator
    assert obstacle.problem.startswith(problem)
    assert change in obstacle.change


def test_after_a_refused_operator_everything_runs_on_the_cpu() -> None:
    placement = check_model(after_a_convolution(layers.LeakyReLU()), CORAL).edgetpu.placement
    assert placement["CONV_2D"] == {"Edge TPU": 1, "CPU, after a refused operator": 1}
    assert placement["LEAKY_RELU"] == {"CPU": 1}
    assert placement["FULLY_CONNECTED"] == {"CPU, after a refused operator": 1}


@pytest.mark.parametrize(
    ("make", "operator", "problem"),
    [
        (batch_of_four, "input", "batch of 4"),
        (open_size, "input", "shape (None, None, None, 3) is open"),
        (volumes, "CONV_3D", "not supported"),
        (without_a_form, "model", "Model 'functional"),
    ],
)
def test_shapes_ranks_and_missing_operators_are_obstacles(make, operator, problem) -> None:
    found = check_model(make(), CORAL)
    assert not found.fits
    assert found.obstacles[0].operator == operator
    assert found.obstacles[0].problem.startswith(problem)


def test_the_users_model_is_not_changed() -> None:
    model = small_models.classifier()
    weights = [weight.copy() for weight in model.get_weights()]
    check_model(model, CORAL)
    for before, after in zip(weights, model.get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)


def test_a_float_file_is_refused_operator_by_operator() -> None:
    found = examine(convert(small_models.classifier(), scheme="float32"))
    assert {obstacle.problem for obstacle in found.obstacles} == {"computes in float32"}
    assert not found.fits


def test_parameters_are_counted_as_they_are_stored() -> None:
    """8-bit kernels, 32-bit biases; BatchNorm is folded away."""
    model = small_models.classifier()
    model.layers[-1].bias.assign([1.0, 2.0, 3.0])  # zeros would not be stored
    content = convert(model, calibration=small_models.samples(5))
    kernels = sum(layer.kernel.numpy().size for layer in model.layers if hasattr(layer, "kernel"))
    biases = 16 + 16 + 3
    assert edgetpu_parameter_bytes(content) == kernels + 4 * biases


def test_parameters_beyond_the_chips_memory_are_pointed_out() -> None:
    image = keras.Input((1, 1, 1024))
    wide = keras.Model(image, layers.Conv2D(9000, 1)(image))
    found = check_model(wide, CORAL)
    assert found.fits and not found.edgetpu.on_chip
    assert any("9,252,000 bytes of parameters are more than" in note for note in found.notes)


@pytest.mark.parametrize(
    ("operator", "version", "problem", "change"),
    [
        ("CONV_2D", 6, "version 6; the compiler knows at most 5", "groups=1, or a DepthwiseConv2D"),
        ("FULLY_CONNECTED", 12, "version 12; the compiler knows at most 9", "int8 in place of dyn"),
        ("SOFTMAX", 4, "version 4; the compiler knows at most 3", "convert with an older"),
    ],
)
def test_an_operator_newer_than_the_compiler_of_the_chip_is_an_obstacle(
    tmp_path, operator, version, problem, change
) -> None:
    content = convert(small_models.classifier(), calibration=small_models.samples(5))
    parsed = parse_model(content)
    kind = getattr(BuiltinOperator, operator)
    (code,) = (code for code in parsed.operatorCodes if code.builtinCode == kind)
    code.version = version
    builder = flatbuffers.Builder(0)
    builder.Finish(parsed.Pack(builder), b"TFL3")
    (path := tmp_path / "model.tflite").write_bytes(builder.Output())
    found = {entry.operator: entry for entry in check_file(path, CORAL).obstacles}
    assert found[operator].problem == f"{problem} and refuses the file"
    assert found[operator].change.startswith(change)


def test_a_convolution_in_groups_is_one_that_the_compiler_refuses() -> None:
    image = keras.Input((8, 8, 8))
    found = check_model(keras.Model(image, layers.Conv2D(8, 3, groups=2)(image)), CORAL)
    assert [entry.problem[:9] for entry in found.obstacles] == ["version 6"]


def test_real_files_are_judged_as_google_compiled_them(shared_data) -> None:
    folder = shared_data / "coral"
    for name in ("mobilenet_v1_0.25_128_quant", "mobilenet_v2_1.0_224_quant"):
        assert check_file(folder / f"{name}.tflite", CORAL).fits
    deeplab = check_file(folder / "deeplabv3_mnv2_dm05_pascal_quant.tflite", CORAL)
    assert [obstacle.operator for obstacle in deeplab.obstacles] == ["ARG_MAX"]
    with pytest.raises(ModelError, match="is compiled for the Edge TPU already"):
        check_file(folder / "mobilenet_v1_0.25_128_quant_edgetpu.tflite", CORAL)


def test_a_float_batch_that_is_open_is_an_obstacle(shared_data) -> None:
    found = check_file(shared_data / "mlperf_tiny" / "resnet8_cifar10_int8.tflite", CORAL)
    (obstacle,) = found.obstacles
    assert obstacle.problem == "shape [-1, 32, 32, 3] is open"


def test_on_a_cpu_the_same_operators_are_no_obstacle() -> None:
    found = check_model(after_a_convolution(layers.LeakyReLU()), find_target("rpi4"))
    assert found.fits and found.edgetpu is None
    assert found.size_bytes > 0


def test_memory_of_the_board_is_the_limit(tmp_path) -> None:
    """The first map alone has 2,000 x 2,000 x 200 values of one byte."""
    image = keras.Input((2000, 2000, 1))
    model = keras.Model(image, layers.GlobalAveragePooling2D()(layers.Conv2D(200, 1)(image)))
    content = convert(model, scheme="float32")
    expected = 4 * 2000 * 2000 * (1 + 200)
    assert peak_memory(content) == pytest.approx(expected, rel=0.01)
    path = tmp_path / "large.tflite"
    path.write_bytes(content)
    (obstacle,) = check_file(path, find_target("rpi-zero2w")).obstacles
    assert obstacle.where == "memory"
    assert check_file(path, find_target("jetson-nano")).fits


def test_an_operator_newer_than_the_runtime_of_the_board_is_an_obstacle(tmp_path) -> None:
    board = replace(find_target("rpi4"), runtime="tflite-runtime")
    path = tmp_path / "model.tflite"
    content = convert(small_models.classifier(), scheme="float32", path=path)
    assert check_file(path, board).fits
    parsed = parse_model(content)
    (entry,) = (entry for entry in parsed.metadata if entry.name == b"min_runtime_version")
    parsed.buffers[entry.buffer].data = b"2.17.0".ljust(16, b"\0")
    builder = flatbuffers.Builder(0)
    builder.Finish(parsed.Pack(builder), b"TFL3")
    path.write_bytes(builder.Output())
    (obstacle,) = check_file(path, board).obstacles
    assert obstacle.problem.startswith("needs TensorFlow Lite 2.17")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("check")
    small_models.classifier().save(folder / "good.keras")
    after_a_convolution(layers.LeakyReLU()).save(folder / "leaky.keras")
    convert(small_models.classifier(), scheme="float32", path=folder / "float.tflite")
    (folder / "broken.tflite").write_bytes(b"\x1c\0\0\0TFL3" + b"\xff" * 50)
    return folder


@pytest.mark.parametrize(
    ("name", "code"), [("good.keras", 0), ("leaky.keras", 1), ("float.tflite", 1)]
)
def test_the_exit_code_says_whether_it_fits(files, name, code) -> None:
    answer = run_command("check", str(files / name), "--target", "coral-usb")
    assert answer.code == code
    verdict = "on coral-usb: fits." if code == 0 else "on coral-usb: does not fit as it is"
    assert verdict in " ".join(answer.out.split())


def test_json_says_what_the_tables_say(files) -> None:
    answer = run_command("check", str(files / "leaky.keras"), "--target", "coral-usb", "--json")
    found = json.loads(answer.out)
    assert answer.code == 1
    assert found["fits"] is False
    assert found["obstacles"][0]["operator"] == "LEAKY_RELU"
    assert found["edgetpu"]["placement"]["LEAKY_RELU"] == {"CPU": 1}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing.tflite", "Cannot read"),
        ("broken.tflite", "is damaged: its operators cannot be read."),
        ("missing.keras", "missing.keras"),
    ],
)
def test_what_cannot_be_checked_is_an_error(files, name, message) -> None:
    answer = run_command("check", str(files / name), "--target", "coral-usb")
    assert answer.code == 2
    assert message in answer.err


def test_a_target_is_needed_and_has_to_be_known(files) -> None:
    assert run_command("check", str(files / "good.keras")).code == 2
    answer = run_command("check", str(files / "good.keras"), "--target", "corall-usb")
    assert (answer.code, "Did you mean 'coral-usb'?" in answer.err) == (2, True)


def test_the_budget_counts_parameters_as_the_check_does() -> None:
    model = small_models.classifier()
    model.layers[-1].bias.assign([1.0, 2.0, 3.0])
    content = convert(model, calibration=small_models.samples(5))
    counted = Estimates(find_groups(model), Deployment("int8")).spend("fits", {})
    assert counted == pytest.approx(edgetpu_parameter_bytes(content))
