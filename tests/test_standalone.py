"""What a build delivers needs neither edgeprune nor, on the board, TensorFlow."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from specialists import NUM_TRAIN, digits, make_classifier, save_digits

import edgeprune
from edgeprune.tflite.runtime import TFLiteModel

CANNOT_IMPORT = """
import sys
for name in {names}:
    sys.modules[name] = None
    try:
        __import__(name)
    except ImportError:
        continue
    raise SystemExit("the test cannot keep " + name + " out")
"""
WITH_PLAIN_KERAS = (
    CANNOT_IMPORT.format(names=("edgeprune",))
    + """
import keras, numpy as np
model = keras.models.load_model("model.keras")
np.save("answers.npy", model.predict(np.load("images.npy"), verbose=0))
print(sorted({type(layer).__module__.split(".")[0] for layer in model.layers}))
"""
)
ON_A_BOARD = (
    CANNOT_IMPORT.format(names=("edgeprune", "tensorflow", "keras", "tf_keras"))
    + """
import json, zipfile, numpy as np
from ai_edge_litert.interpreter import Interpreter
interpreter = Interpreter(model_path="model.tflite")
interpreter.allocate_tensors()
(given,), (wanted,) = interpreter.get_input_details(), interpreter.get_output_details()
answers = []
for image in np.load("images.npy"):
    interpreter.set_tensor(given["index"], image[None])
    interpreter.invoke()
    answers.append(interpreter.get_tensor(wanted["index"])[0])
np.save("answers.npy", answers)
print(json.dumps(zipfile.ZipFile("model.tflite").read("labels.txt").decode().splitlines()))
"""
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("standalone")
    data = save_digits(place / "digits.npz")
    edgeprune.build(
        make_classifier(),
        data,
        classes="eight,three,5",
        training="fast",
        out=place / "out",
        measurement=edgeprune.Measurement(latency=False),
    )
    np.save(place / "out" / "images.npy", digits()[0][NUM_TRAIN:][:100].astype(np.float32))
    return place / "out"


def run_alone(folder: Path, program: str) -> tuple[str, np.ndarray]:
    """Run a program in a clean process; return what it printed and what the model answered."""
    result = subprocess.run(
        [sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, timeout=600
    )
    assert result.returncode == 0, result.stderr
    return result.stdout, np.load(folder / "answers.npy")


def test_the_keras_model_opens_where_edgeprune_cannot_be_imported(folder: Path) -> None:
    printed, answers = run_alone(folder, WITH_PLAIN_KERAS)
    assert printed == "['keras']\n"
    here = keras.models.load_model(folder / "model.keras").predict(
        np.load(folder / "images.npy"), verbose=0
    )
    np.testing.assert_allclose(answers, here, atol=1e-6)


def test_the_tflite_answers_the_same_where_tensorflow_cannot_be_imported(folder: Path) -> None:
    printed, answers = run_alone(folder, ON_A_BOARD)
    assert json.loads(printed) == ["eight", "three", "five"]
    images = np.load(folder / "images.npy")
    np.testing.assert_array_equal(answers, TFLiteModel(folder / "model.tflite").predict(images))
    recovered = keras.models.load_model(folder / "model.keras").predict(images, verbose=0)
    assert np.mean(answers.argmax(-1) == recovered.argmax(-1)) > 0.95
