from __future__ import annotations

import importlib
import subprocess
import sys
import textwrap
from pathlib import Path

import keras
import numpy as np
import pytest
import small_models
from ai_edge_litert.interpreter import Interpreter
from hypothesis import given
from hypothesis import strategies as st

from edgeprune.errors import DataError, EdgepruneError, ModelError
from edgeprune.support.progress import showing
from edgeprune.tflite import convert, runtime
from edgeprune.tflite.runtime import Tensor, TFLiteModel, check_content, find_runtime

ROOT = Path(__file__).resolve().parent.parent
LABELS = ["cat", "dog", "fox"]


@pytest.fixture(scope="session")
def keras_model():
    return small_models.classifier()


@pytest.fixture(scope="session")
def floats(keras_model) -> bytes:
    return convert(keras_model, scheme="float32", labels=LABELS)


@pytest.fixture(scope="session")
def integers(keras_model) -> bytes:
    return convert(keras_model, io="int8", calibration=small_models.samples(50))


def test_a_float_model_answers_like_keras(keras_model, floats) -> None:
    images = small_models.samples(20)
    found = TFLiteModel(floats, threads=2).predict(images)
    np.testing.assert_allclose(found, keras_model.predict(images, verbose=0), atol=1e-6)


def test_integers_in_and_out_are_hidden_from_the_caller(integers) -> None:
    model = TFLiteModel(integers)
    assert model.inputs[0].dtype == model.outputs[0].dtype == np.int8
    images = small_models.samples(20)
    found = model.predict(images)

    interpreter = Interpreter(model_content=integers)
    interpreter.allocate_tensors()
    into, out = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    scale, zero_point = into["quantization"]
    for image, answer in zip(images, found, strict=True):
        stored = np.clip(np.round(image.astype(float) / scale) + zero_point, -128, 127)
        interpreter.set_tensor(into["index"], stored.astype(np.int8)[None])
        interpreter.invoke()
        output_scale, output_zero_point = out["quantization"]
        raw = interpreter.get_tensor(out["index"])[0].astype(float)
        np.testing.assert_allclose(answer, output_scale * (raw - output_zero_point), atol=1e-6)


@given(
    st.floats(1e-4, 10),
    st.sampled_from([np.int8, np.uint8]),
    st.integers(0, 255),
    st.lists(st.floats(-1000, 1000, width=32), min_size=1, max_size=20),
)
def test_quantized_numbers_are_the_nearest_in_range(scale, dtype, position, numbers) -> None:
    limits = np.iinfo(dtype)
    scale = float(np.float32(scale))
    zero_point = limits.min + position
    tensor = Tensor("x", (1, len(numbers)), np.dtype(dtype), scale, zero_point, 0)
    real = np.asarray(numbers, np.float32)
    stored = tensor.quantize(real)
    assert stored.dtype == dtype
    lowest, highest = scale * (limits.min - zero_point), scale * (limits.max - zero_point)
    error = tensor.dequantize(stored) - np.clip(real.astype(float), lowest, highest)
    assert np.abs(error).max() <= 0.501 * scale + 1e-6 * np.abs(real).max()


def test_labels_travel_with_the_model(floats, integers, tmp_path) -> None:
    path = tmp_path / "model.tflite"
    path.write_bytes(floats)
    assert TFLiteModel(path).labels == ("cat", "dog", "fox")
    assert TFLiteModel(integers).labels == ()


def test_several_inputs_and_outputs_go_by_name() -> None:
    keras_model = small_models.two_inputs()
    model = TFLiteModel(convert(keras_model, scheme="float32"))
    right, left = small_models.samples(6, 8, 8, 1), small_models.samples(6, 8, 8, 3)
    zebra, ape = keras_model.predict([right, left], verbose=0)
    assert [tensor.name for tensor in model.inputs] == ["right", "left"]
    for inputs in ([right, left], {"left": left, "right": right}):
        found = model.predict(inputs)
        np.testing.assert_allclose(found["output_0"], zebra, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(found["output_1"], ape, rtol=1e-5, atol=1e-5)
    with pytest.raises(DataError, match="as many samples for each of its inputs: 'right'"):
        model.predict([right, left[:3]])


def test_outputs_that_are_one_tensor_are_both_given(keras_model) -> None:
    (tensor,) = keras_model.outputs
    twice = keras.Model(keras_model.inputs, [tensor, tensor])
    images = small_models.samples(20)
    wanted = keras_model.predict(images, verbose=0)
    for scheme in ("float32", "int8"):
        found = TFLiteModel(convert(twice, scheme=scheme, calibration=images)).predict(images)
        for name in ("output_0", "output_1"):
            np.testing.assert_allclose(found[name], wanted, atol=0.05)


def test_progress_counts_samples(floats) -> None:
    recorder = small_models.Recorder()
    with showing(recorder):
        TFLiteModel(floats).predict(small_models.samples(3))
    assert recorder.stages == [["running the .tflite", 3, 3]]


@pytest.mark.parametrize("shape", [(2, 8, 8), (2, 9, 8, 3), (0, 8, 8, 3)])
def test_samples_of_the_wrong_shape_are_refused(floats, shape) -> None:
    with pytest.raises(DataError) as caught:
        TFLiteModel(floats).predict(np.zeros(shape))
    assert str(caught.value) == (
        f"The samples have shape {shape}; the model takes 'image' (n, 8, 8, 3)."
    )


def test_a_file_that_is_no_model_is_refused(tmp_path) -> None:
    path = tmp_path / "notes.tflite"
    path.write_text("not a model")
    with pytest.raises(ModelError) as caught:
        TFLiteModel(path)
    assert str(caught.value) == (
        f"'{path}' is not a TensorFlow Lite model: expected a .tflite file."
    )
    with pytest.raises(ModelError, match=r"Cannot read '.*gone\.tflite': No such file"):
        TFLiteModel(tmp_path / "gone.tflite")


def test_a_damaged_model_is_refused_in_one_line(floats) -> None:
    with pytest.raises(ModelError, match=r"^ai-edge-litert [\d.]+ cannot open the model: .+$"):
        TFLiteModel(floats[:1000])


def test_a_model_for_the_edge_tpu_is_refused(shared_data) -> None:
    path = shared_data / "coral" / "mobilenet_v1_0.25_128_quant_edgetpu.tflite"
    reason = "is compiled for the Edge TPU and runs only there. Use the .tflite it was compiled"
    with pytest.raises(ModelError, match=reason):
        TFLiteModel(path)


def test_the_edge_tpu_is_recognised_without_real_files() -> None:
    with pytest.raises(ModelError, match="my model is compiled for the Edge TPU"):
        check_content(b"\0\0\0\0TFL3...edgetpu-custom-op...", "my model")


def pretend_only(monkeypatch, *modules: str) -> list[str]:
    """Let only the given modules be importable, and record what was tried."""
    tried = []

    class Module:
        Interpreter = object()

    def import_module(name):
        tried.append(name)
        if name not in modules:
            raise ModuleNotFoundError(f"No module named '{name}'")
        return Module

    monkeypatch.setattr(runtime, "import_module", import_module)
    monkeypatch.setattr(runtime, "version", lambda distribution: "1.2")
    find_runtime.cache_clear()
    monkeypatch.setattr(runtime, "find_runtime", find_runtime.__wrapped__)
    return tried


def test_the_lightest_runtime_is_taken_and_named(monkeypatch) -> None:
    everything = [module for module, _ in runtime._CANDIDATES]
    tried = pretend_only(monkeypatch, *everything)
    assert str(runtime.find_runtime()) == "ai-edge-litert 1.2"
    assert tried == ["ai_edge_litert.interpreter"]
    pretend_only(monkeypatch, *everything[1:])
    assert str(runtime.find_runtime()) == "tflite-runtime 1.2"
    pretend_only(monkeypatch, *everything[2:])
    assert str(runtime.find_runtime()) == "tensorflow 1.2"


def test_no_runtime_says_what_to_install(monkeypatch) -> None:
    pretend_only(monkeypatch)
    with pytest.raises(EdgepruneError) as caught:
        runtime.find_runtime()
    assert str(caught.value) == (
        "No TensorFlow Lite runtime: found none of ai-edge-litert, tflite-runtime, tensorflow. "
        "pip install ai-edge-litert"
    )


def test_too_little_memory_is_not_taken_for_a_missing_runtime(monkeypatch) -> None:
    pretend_only(monkeypatch)

    def load(name: str):
        raise ImportError("libstdc++.so.6: failed to map segment from shared object")

    monkeypatch.setattr(runtime, "import_module", load)
    with pytest.raises(EdgepruneError, match=r"^There is too little memory to load a runtime: "):
        runtime.find_runtime()


def run_in_checkout(script, argument) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", script, str(argument)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_a_process_that_cannot_import_tensorflow_runs_the_model(
    keras_model, floats, tmp_path
) -> None:
    (tmp_path / "model.tflite").write_bytes(floats)
    images = small_models.samples(5)
    np.save(tmp_path / "images.npy", images)
    script = textwrap.dedent("""
        import sys

        class Refuse:
            def find_spec(self, name, path=None, target=None):
                if name.split(".")[0] in ("tensorflow", "keras", "tf_keras"):
                    raise ImportError(f"{name} is not for this process")

        sys.meta_path.insert(0, Refuse())
        import numpy as np
        from edgeprune.tflite.runtime import TFLiteModel
        folder = sys.argv[1]
        model = TFLiteModel(folder + "/model.tflite")
        np.save(folder + "/answers.npy", model.predict(np.load(folder + "/images.npy")))
        print(*model.labels)
    """)
    done = run_in_checkout(script, tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "cat dog fox\n", "")
    answers = np.load(tmp_path / "answers.npy")
    np.testing.assert_allclose(answers, keras_model.predict(images, verbose=0), atol=1e-6)


def test_running_a_model_does_not_load_tensorflow(floats, tmp_path) -> None:
    assert importlib.util.find_spec("tensorflow"), "else this test says nothing"
    (tmp_path / "model.tflite").write_bytes(floats)
    script = (
        "import sys; from edgeprune.tflite.runtime import TFLiteModel; TFLiteModel(sys.argv[1]);"
        "print({'tensorflow', 'keras'} & set(sys.modules))"
    )
    done = run_in_checkout(script, tmp_path / "model.tflite")
    assert done.stdout == "set()\n", done.stderr


def test_the_reference_model_of_mlperf_tiny_reaches_its_accuracy(shared_data) -> None:
    model = TFLiteModel(shared_data / "mlperf_tiny" / "resnet8_cifar10_int8.tflite")
    data = np.load(shared_data / "mlperf_tiny" / "ic01.npz", allow_pickle=False)
    accuracy = np.mean(model.predict(data["x"]).argmax(1) == data["y"])
    assert accuracy > 0.8, "published: 87.0 % on all of CIFAR-10's test images"
