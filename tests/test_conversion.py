from __future__ import annotations

import io
import zipfile

import flatbuffers
import flatbuffers.number_types
import keras
import numpy as np
import pytest
import small_models
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter
from keras import layers

from edgeprune.errors import ConversionError, EdgepruneError
from edgeprune.support.progress import showing
from edgeprune.tflite import SCHEMES, convert

LABELS = ["cat", "dog", "fox"]


@pytest.fixture(scope="session")
def model() -> keras.Model:
    return small_models.classifier()


@pytest.fixture(scope="session")
def converted(model) -> dict[str, bytes]:
    return {
        scheme: convert(model, scheme=scheme, calibration=small_models.samples(100))
        for scheme in SCHEMES
    }


def open_content(content: bytes) -> Interpreter:
    interpreter = Interpreter(model_content=content)
    interpreter.allocate_tensors()
    return interpreter


def run(content: bytes, **inputs: np.ndarray) -> dict[str, np.ndarray]:
    """Run through the signature, one sample at a time."""
    runner = open_content(content).get_signature_runner()
    count = len(next(iter(inputs.values())))
    results = [runner(**{k: v[i : i + 1] for k, v in inputs.items()}) for i in range(count)]
    return {name: np.concatenate([result[name] for result in results]) for name in results[0]}


@pytest.mark.parametrize(
    ("scheme", "tolerance"),
    [
        ("float32", 1e-6),
        ("float16", 1e-3),
        ("dynamic", 1e-2),
        ("int8", 4e-2),
        ("int16x8", 1e-2),
        ("int8-qat", 4e-2),
    ],
)
def test_every_scheme_answers_like_keras(model, converted, scheme, tolerance) -> None:
    images = small_models.samples(100)
    expected = model.predict(images, verbose=0)
    found = run(converted[scheme], image=images)["output_0"]
    assert np.abs(found - expected).max() <= tolerance
    assert np.mean(found.argmax(1) == expected.argmax(1)) >= 0.95


def test_the_schemes_differ_in_how_they_store_weights(model, converted) -> None:
    stored = {}
    for scheme, content in converted.items():
        kernels = [
            tensor
            for tensor in open_content(content).get_tensor_details()
            if list(tensor["shape"]) == [16, 3, 3, 16]
        ]
        stored[scheme] = {np.dtype(tensor["dtype"]).name for tensor in kernels}
        if scheme == "int8":
            assert kernels[0]["quantization_parameters"]["scales"].shape == (16,), "per channel"
    assert stored["float32"] == {"float32"}
    assert stored["int8"] == {"int8"}
    assert stored["dynamic"] == {"int8"}
    assert "float16" in stored["float16"]


@pytest.mark.parametrize("io_type", ["float32", "int8", "uint8"])
def test_int8_models_take_and_give_the_type_that_was_asked_for(model, io_type) -> None:
    content = convert(model, io=io_type, calibration=small_models.samples(20))
    interpreter = open_content(content)
    for details in (interpreter.get_input_details()[0], interpreter.get_output_details()[0]):
        assert np.dtype(details["dtype"]).name == io_type
        assert (details["quantization"][0] > 0) == (io_type != "float32")


@pytest.mark.parametrize(
    "make", [small_models.classifier, small_models.sequential, small_models.two_inputs]
)
def test_names_are_those_of_tensorflows_converter_and_the_batch_is_one(make) -> None:
    model = make()
    plain = tf.lite.TFLiteConverter.from_keras_model(model).convert()
    found = open_content(convert(model, scheme="float32"))
    assert found.get_signature_list() == Interpreter(model_content=plain).get_signature_list()
    for details in found.get_input_details() + found.get_output_details():
        assert details["shape_signature"][0] == 1


def test_several_inputs_are_not_mixed_up() -> None:
    model = small_models.two_inputs()
    right, left = small_models.samples(20, 8, 8, 1), 100 * small_models.samples(20, 8, 8, 3)
    zebra, ape = model.predict([right, left], verbose=0)
    found = run(convert(model, scheme="float32"), right=right, left=left)
    np.testing.assert_allclose(found["output_0"], zebra, rtol=1e-5, atol=1e-3)
    np.testing.assert_allclose(found["output_1"], ape, rtol=1e-5, atol=1e-3)

    for calibration in ([right, left], {"left": left, "right": right}):
        quantized = run(convert(model, calibration=calibration), right=right, left=left)
        error = np.abs(quantized["output_0"] - zebra).max() / np.abs(zebra).max()
        assert error < 0.05, "ranges of one input used for the other"


def test_the_order_is_that_of_the_keras_model() -> None:
    """The converter alone gives an order that changes with the process."""
    interpreter = open_content(convert(small_models.two_inputs(), scheme="float32"))
    sizes = [details["shape"][-1] for details in interpreter.get_input_details()]
    assert sizes == [1, 3], "right, left"
    sizes = [details["shape"][-1] for details in interpreter.get_output_details()]
    assert sizes == [3, 2], "zebra, ape"


def test_a_dictionary_of_inputs_keeps_its_wiring() -> None:
    model = small_models.dictionaries()
    right, left = small_models.samples(5, 8, 8, 1), small_models.samples(5, 8, 8, 3)
    expected = model.predict({"right": right, "left": left}, verbose=0)
    found = run(convert(model, scheme="float32"), right=right, left=left)
    for name in ("zebra", "ape"):
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-5, atol=1e-5)


def test_mixed_precision_is_converted_in_float32() -> None:
    keras.mixed_precision.set_global_policy("mixed_float16")
    try:
        inner = keras.Sequential([keras.Input((6,)), layers.Dense(5)], name="inner")
        image = keras.Input((8, 8, 3), name="image")
        x = layers.TimeDistributed(layers.Dense(6))(layers.Reshape((8, 24))(image))
        x = inner(layers.GlobalAveragePooling1D()(x))
        mixed = keras.Model(image, layers.Dense(3)(x))
    finally:
        keras.mixed_precision.set_global_policy("float32")
    images = small_models.samples(10)
    found = run(convert(mixed, scheme="float32"), image=images)["output_0"]
    expected = mixed.predict(images, verbose=0).astype("float32")
    np.testing.assert_allclose(found, expected, atol=5e-3)
    assert mixed.layers[-1].compute_dtype == "float16", "the user's model stays mixed"


def test_the_users_model_is_not_changed(model) -> None:
    config, weights = model.get_config(), [weight.copy() for weight in model.get_weights()]
    nodes = len(model._inbound_nodes)
    convert(model, calibration=small_models.samples(5), labels=LABELS)
    assert model.get_config() == config
    assert len(model._inbound_nodes) == nodes
    for before, after in zip(weights, model.get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)


def test_labels_travel_as_a_stored_file_in_a_zip(model) -> None:
    labels = ["Katze", "écureuil", "狐"]
    content = convert(model, scheme="float32", labels=labels)
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        assert archive.namelist() == ["labels.txt"]
        assert archive.read("labels.txt").decode() == "Katze\nécureuil\n狐\n"
        (entry,) = archive.infolist()
        assert entry.compress_type == zipfile.ZIP_STORED, "else the Task Library refuses it"
        assert entry.date_time == (1980, 1, 1, 0, 0, 0), "else equal builds differ"
    images = small_models.samples(5)
    plain = convert(model, scheme="float32")
    np.testing.assert_array_equal(
        run(content, image=images)["output_0"], run(plain, image=images)["output_0"]
    )


def test_the_metadata_says_that_the_labels_name_the_output(model) -> None:
    """Walk the two flatbuffers by the field numbers of the public schemas."""
    content = convert(model, scheme="float32", labels=LABELS)

    def table(content, position):
        return flatbuffers.table.Table(content, position)

    def field(owner, number):
        offset = owner.Offset(4 + 2 * number)
        assert offset, f"field {number} is missing"
        return offset

    def vector(owner, number):
        offset = field(owner, number)
        start = owner.Vector(offset)
        return [
            table(owner.Bytes, owner.Indirect(start + 4 * index))
            for index in range(owner.VectorLen(offset))
        ]

    def text(owner, number):
        return owner.String(owner.Pos + field(owner, number)).decode()

    root = table(content, int.from_bytes(content[:4], "little"))
    entries = {text(entry, 0): entry for entry in vector(root, 6)}
    entry = entries["TFLITE_METADATA"]
    index = entry.Get(flatbuffers.number_types.Uint32Flags, entry.Pos + field(entry, 1))
    buffer = vector(root, 4)[index]
    data = bytes(buffer.GetVectorAsNumpy(flatbuffers.number_types.Uint8Flags, field(buffer, 0)))
    assert data[4:8] == b"M001"

    metadata = table(data, int.from_bytes(data[:4], "little"))
    assert text(metadata, 0) == "small"
    (subgraph,) = vector(metadata, 3)
    (image,), (output,) = vector(subgraph, 2), vector(subgraph, 3)
    assert (text(image, 0), text(output, 0)) == ("image", "output_0")
    (file,) = vector(output, 6)
    assert text(file, 0) == "labels.txt"
    kind = file.Get(flatbuffers.number_types.Int8Flags, file.Pos + field(file, 2))
    assert kind == 2, "TENSOR_AXIS_LABELS"


def test_equal_input_gives_equal_bytes(model) -> None:
    calibration = small_models.samples(10)
    first, second = (convert(model, calibration=calibration, labels=LABELS) for _ in range(2))
    assert first == second


def test_nothing_is_written_to_the_terminal(model, capfd) -> None:
    convert(model, calibration=small_models.samples(5), labels=LABELS)
    assert capfd.readouterr() == ("", "")


def test_progress_counts_calibration_samples(model) -> None:
    recorder = small_models.Recorder()
    with showing(recorder):
        convert(model, calibration=small_models.samples(7))
    assert ["calibration", 7, 7] in recorder.stages


def test_a_path_gets_the_same_bytes(model, tmp_path) -> None:
    path = tmp_path / "new" / "model.tflite"
    content = convert(model, scheme="float32", path=path)
    assert path.read_bytes() == content
    assert [entry.name for entry in path.parent.iterdir()] == ["model.tflite"]


def test_a_path_that_cannot_be_written_is_one_clear_error(model, tmp_path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(EdgepruneError, match="Cannot write to"):
        convert(model, scheme="float32", path=tmp_path / "file" / "model.tflite")


def refusal(*arguments, **options) -> str:
    with pytest.raises(ConversionError) as caught:
        convert(*arguments, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_unknown_choices_are_named_with_the_known_ones(model) -> None:
    assert refusal(model, scheme="int4") == (
        "Unknown scheme 'int4'. Choose one of float32, float16, dynamic, int8, int16x8, int8-qat."
    )
    assert refusal(model, io="int16") == (
        "Unknown io type 'int16'. Choose one of float32, int8, uint8."
    )
    assert refusal(model, scheme="dynamic", io="int8") == (
        "Input and output in int8 need scheme 'int8'; scheme 'dynamic' has float32 ones."
    )


def test_what_is_not_a_keras_model_is_refused() -> None:
    assert refusal("model.h5", scheme="float32").startswith(
        "convert takes a Keras 3 model, got str."
    )


def test_a_model_without_fixed_inputs_is_refused() -> None:
    class Subclassed(keras.Model):
        def call(self, inputs):
            return inputs

    assert "has no fixed inputs. Call it on a keras.Input" in refusal(
        Subclassed(), scheme="float32"
    )


@pytest.mark.parametrize("shape", [(None, None, None, 3), (4, 8, 8, 3)])
def test_sizes_that_are_not_fixed_to_one_sample_are_refused(shape) -> None:
    image = keras.Input(batch_shape=shape, name="image")
    pooled = layers.GlobalAveragePooling2D()(layers.Conv2D(4, 3)(image))
    message = refusal(keras.Model(image, pooled, name="free"), scheme="float32")
    assert message.startswith(f"Input 'image' of model 'free' has shape {shape}, but a .tflite")
    assert "keras.Input((height, width, channels))" in message


@pytest.mark.parametrize(
    ("calibration", "reason"),
    [
        (None, "Scheme 'int8' needs calibration samples for the ranges of its integers: "),
        (np.zeros((5, 9, 9, 3)), "The calibration samples have shape (5, 9, 9, 3) and type float"),
        (np.zeros((0, 8, 8, 3)), "The calibration samples have shape (0, 8, 8, 3)"),
        (np.zeros((5, 8, 8, 3), dtype=object), "The calibration samples have shape"),
        (np.full((5, 8, 8, 3), np.nan), "The calibration samples for 'image' hold NaN"),
        ({"picture": np.zeros((5, 8, 8, 3))}, "The calibration samples must name each input"),
    ],
)
def test_calibration_samples_that_do_not_fit_are_refused(model, calibration, reason) -> None:
    message = refusal(model, calibration=calibration)
    assert message.startswith(reason)
    assert "'image'" in message


def test_each_input_needs_as_many_calibration_samples() -> None:
    model = small_models.two_inputs()
    right, left = small_models.samples(5, 8, 8, 1), small_models.samples(4, 8, 8, 3)
    assert "different numbers of calibration samples" in refusal(model, calibration=[right, left])
    assert "'right' (n, 8, 8, 1), 'left' (n, 8, 8, 3)" in refusal(model, calibration=[right])


def test_labels_that_do_not_fit_are_refused(model) -> None:
    assert refusal(model, scheme="float32", labels=["cat", "dog"]) == (
        "2 labels do not fit model 'small', which answers with 3 values."
    )
    assert "one non-empty line per class" in refusal(
        model, scheme="float32", labels=["cat", "a\nb", "fox"]
    )


def test_a_sigmoid_may_name_both_classes() -> None:
    model = keras.Sequential([keras.Input((4,)), layers.Dense(1, activation="sigmoid")])
    content = convert(model, scheme="float32", labels=["no", "yes"])
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        assert archive.read("labels.txt") == b"no\nyes\n"


def test_an_operator_that_tflite_lacks_is_named_and_the_log_is_kept() -> None:
    inputs = keras.Input((8,))
    model = keras.Model(inputs, layers.Lambda(keras.ops.erf, name="bell")(inputs), name="special")
    with pytest.raises(ConversionError) as caught:
        convert(model, scheme="float32")
    assert str(caught.value) == (
        "Model 'special' cannot be converted: TensorFlow Lite has no operator for Erf "
        "(layer 'bell'). Replace what uses it by other layers."
    )
    assert "Erf" in caught.value.__notes__[0]


def test_an_operator_that_stays_float_in_int8_is_named() -> None:
    inputs = keras.Input((8, 3))
    sums = layers.Lambda(lambda x: keras.ops.cumsum(x, 1), name="running")
    model = keras.Model(inputs, sums(layers.Dense(4)(inputs)), name="sums")
    message = refusal(model, calibration=small_models.samples(5, 8, 3))
    assert message.startswith(
        "Model 'sums' cannot be int8 throughout: TensorFlow Lite has no form in 8-bit integers of "
        "CUMSUM (layer 'running'). Leave it in float with --fallback 1%"
    )
