"""`input="uint8"`: a `.tflite` fed with bytes answers as Keras does on scaled inputs."""

from __future__ import annotations

import io
import json
import zipfile

import keras
import numpy as np
import pytest
import small_models
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter
from keras import layers

from edgeprune.errors import ConversionError, DataError
from edgeprune.tflite import convert

UNIFORM = {
    "raw": lambda x: x,
    "unit": lambda x: x / 255,
    "symmetric": lambda x: x / 127.5 - 1,
    "standardize:mean=100;std=50": lambda x: (x - 100.0) / 50,
}
CHANNELS = "standardize:mean=125.3,122.9,113.9;std=63,62,66.7"
ALL = {**UNIFORM, CHANNELS: lambda x: (x - [125.3, 122.9, 113.9]) / [63, 62, 66.7]}


def images(count: int = 60) -> np.ndarray:
    """Blobs of light on grey, 12x12, which reach black and white."""
    generator = np.random.default_rng(7)
    coarse = generator.normal(120, 110, (count, 4, 4, 3)).repeat(3, 1).repeat(3, 2)
    return np.clip(coarse + generator.normal(0, 20, (count, 12, 12, 3)), 0, 255).astype(np.uint8)


def network(padding: str = "same", bias: bool = True) -> keras.Model:
    keras.utils.set_random_seed(4)
    image = keras.Input((12, 12, 3), name="camera:0")
    x = layers.Conv2D(8, 3, padding=padding, use_bias=bias, name="first")(image)
    x = layers.ReLU()(x)
    x = layers.Conv2D(8, 3, strides=2, activation="relu")(x)
    outputs = layers.Dense(4)(layers.Flatten()(x))
    return keras.Model(image, outputs, name="net")


def run(content: bytes, stored: np.ndarray) -> np.ndarray:
    interpreter = Interpreter(model_content=content)
    interpreter.allocate_tensors()
    (given,), (wanted,) = interpreter.get_input_details(), interpreter.get_output_details()
    assert given["dtype"] == stored.dtype == np.uint8
    answers = []
    for image in stored:
        interpreter.set_tensor(given["index"], image[None])
        interpreter.invoke()
        answers.append(interpreter.get_tensor(wanted["index"])[0])
    return np.asarray(answers)


def kinds(content: bytes) -> list[str]:
    parsed = schema.ModelT.InitFromObj(schema.Model.GetRootAs(content, 0))
    names = {code: name for name, code in vars(schema.BuiltinOperator).items()}
    return [
        names[parsed.operatorCodes[operator.opcodeIndex].builtinCode]
        for operator in parsed.subgraphs[0].operators
    ]


@pytest.mark.parametrize(
    ("scheme", "how"),
    [*(("float32", how) for how in ALL), ("float16", CHANNELS), ("dynamic", CHANNELS)],
)
def test_float_models_fed_with_bytes_answer_like_keras(scheme, how) -> None:
    model, stored = network(), images(20)
    expected = model.predict(ALL[how](stored).astype("float32"), verbose=0)
    content = convert(model, scheme=scheme, input="uint8", preprocess=how)
    tolerance = {"float32": 1e-5, "float16": 2e-3, "dynamic": 3e-2}[scheme]
    error = np.abs(run(content, stored) - expected).max() / np.abs(expected).max()
    assert error <= tolerance


@pytest.mark.parametrize(
    ("padding", "how"),
    [("same", "unit"), ("same", "symmetric"), ("same", CHANNELS), ("valid", CHANNELS)],
)
def test_int8_models_fed_with_bytes_are_as_exact_as_those_fed_with_floats(how, padding) -> None:
    model, stored = network(padding), images()
    inputs = ALL[how](stored).astype("float32")
    expected = model.predict(inputs, verbose=0)
    scale = np.abs(expected).max()
    fed_floats = Interpreter(model_content=convert(model, calibration=inputs))
    runner = fed_floats.get_signature_runner()
    floats = np.concatenate([runner(**{"camera_0": x[None]})["output_0"] for x in inputs])
    found = run(convert(model, calibration=inputs, input="uint8", preprocess=how), stored)
    usual, mine = (np.sqrt(np.mean((y - expected) ** 2)) / scale for y in (floats, found))
    assert mine <= 1.25 * usual + 2e-3
    assert mine < 0.02


@pytest.mark.parametrize("how", ["raw", "symmetric"])
def test_a_scaling_that_is_the_same_for_all_channels_costs_no_operator(how) -> None:
    model, inputs = network(), UNIFORM[how](images()).astype("float32")
    plain = kinds(convert(model, calibration=inputs))
    assert kinds(convert(model, calibration=inputs, input="uint8", preprocess=how)) == plain


def test_the_bytes_are_only_shifted_on_their_way_in() -> None:
    """Also where calibration saw a part of the range only."""
    model, inputs = network(), (images() // 2 + 60) / np.float32(255)
    content = convert(model, calibration=inputs, input="uint8", preprocess="unit")
    interpreter = Interpreter(model_content=content, experimental_preserve_all_tensors=True)
    interpreter.allocate_tensors()
    given = interpreter.get_input_details()[0]
    interpreter.set_tensor(given["index"], images(1))
    interpreter.invoke()
    shifted = [
        interpreter.get_tensor(details["index"])
        for details in interpreter.get_tensor_details()
        if list(details["shape"]) == [1, 12, 12, 3] and details["dtype"] == np.int8
    ]
    np.testing.assert_array_equal(shifted[0], images(1).astype(int) - 128)


@pytest.mark.parametrize("bias", [True, False])
def test_a_first_convolution_without_padding_takes_the_scaling_of_each_channel(bias) -> None:
    model, inputs = network("valid", bias), ALL[CHANNELS](images()).astype("float32")
    content = convert(model, calibration=inputs, input="uint8", preprocess=CHANNELS)
    assert kinds(content) == kinds(convert(model, calibration=inputs))
    expected = model.predict(inputs, verbose=0)
    assert np.abs(run(content, images()) - expected).max() < 0.03 * np.abs(expected).max()


def test_a_first_convolution_with_padding_gets_a_depthwise_one_in_front() -> None:
    """A shift folded into its bias would be wrong at the border."""
    model, inputs = network("same"), ALL[CHANNELS](images()).astype("float32")
    plain = kinds(convert(model, calibration=inputs))
    found = kinds(convert(model, calibration=inputs, input="uint8", preprocess=CHANNELS))
    assert found == [plain[0], "DEPTHWISE_CONV_2D", *plain[1:]]


def test_a_model_with_another_reader_of_the_input_stays_exact() -> None:
    keras.utils.set_random_seed(4)
    image = keras.Input((12, 12, 3))
    x = layers.Conv2D(3, 3, padding="same")(image)
    outputs = layers.Dense(4)(layers.Flatten()(layers.Add()([x, image])))
    model, inputs = keras.Model(image, outputs), images() / np.float32(255)
    expected = model.predict(inputs, verbose=0)
    found = run(convert(model, calibration=inputs, input="uint8", preprocess="unit"), images())
    assert np.abs(found - expected).max() < 0.03 * np.abs(expected).max()


def test_names_and_the_other_end_stay_as_they_are() -> None:
    model, inputs = network(), ALL[CHANNELS](images()).astype("float32")
    for scheme in ("float32", "int8"):
        plain = convert(model, scheme=scheme, calibration=inputs)
        content = convert(
            model, scheme=scheme, calibration=inputs, input="uint8", preprocess=CHANNELS
        )
        before, after = (
            Interpreter(model_content=x).get_signature_list() for x in (plain, content)
        )
        assert after == before
        assert Interpreter(model_content=content).get_output_details()[0]["dtype"] == np.float32


def test_the_file_says_how_an_image_becomes_the_input() -> None:
    model = network()
    for chosen in ("uint8", None):
        content = convert(model, scheme="float32", input=chosen, preprocess=CHANNELS)
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            found = json.loads(archive.read("preprocessing.json"))
        assert found == {
            "version": 1, "preprocess": CHANNELS.replace("63,62", "63.0,62.0"),
            "inside": chosen == "uint8", "mean": [125.3, 122.9, 113.9], "std": [63, 62, 66.7],
            "size": [12, 12], "colours": "red, green, blue",
            "resize": "bilinear, without keeping the aspect ratio",
        }  # fmt: skip


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"input": "uint8"},
            "Input uint8 puts the scaling inside the model, and none was given. Say how the model "
            "was fed with --preprocess raw, unit, symmetric or 'standardize:mean=..;std=..'.",
        ),
        (
            {"input": "uint8", "preprocess": lambda x: x},
            "Input uint8 puts the scaling inside the model, and 'test_conversion_raw_input:<lambda>"
            "' is a function. Say how",
        ),
        ({"input": "int16", "preprocess": "raw"}, "Unknown input 'int16'. Choose float32 or uint8"),
    ],
)
def test_what_cannot_go_inside_is_refused(options, message) -> None:
    with pytest.raises(ConversionError) as caught:
        convert(network(), scheme="float32", **options)
    assert str(caught.value).startswith(message)


def test_several_inputs_and_another_number_of_channels_are_refused() -> None:
    with pytest.raises(ConversionError, match="is for models with one input of floats"):
        convert(small_models.two_inputs(), scheme="float32", input="uint8", preprocess="raw")
    with pytest.raises(DataError, match="has 2 numbers for mean, but the samples have 3 channels"):
        convert(network(), scheme="float32", input="uint8", preprocess="standardize:mean=1,2;std=3")
