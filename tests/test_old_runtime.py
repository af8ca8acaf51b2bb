"""Every number format in tflite-runtime 2.14, the last for 32-bit Arm and for the Coral boards."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import small_models
from PIL import Image

from edgeprune.errors import ConversionError
from edgeprune.support.resources import find_folder
from edgeprune.tflite import SCHEMES, convert
from edgeprune.tflite.runtime import TFLiteModel

pytestmark = pytest.mark.slow

LABELS = ["cat", "dog", "fox"]
# Kernels of other versions: float rounds elsewhere, integers may differ by a few steps.
TOLERANCES = {"float32": 1e-5, "float16": 1e-4, "dynamic": 2e-2}
ANSWER = """
import sys, numpy as np
from tflite_runtime.interpreter import Interpreter
interpreter = Interpreter(sys.argv[1])
interpreter.allocate_tensors()
(given,), (wanted,) = interpreter.get_input_details(), interpreter.get_output_details()
answers = []
for image in np.load(sys.argv[2]):
    interpreter.set_tensor(given["index"], image[None])
    interpreter.invoke()
    answers.append(interpreter.get_tensor(wanted["index"])[0])
np.save(sys.argv[3], answers)
print(*interpreter.get_signature_list()["serving_default"]["outputs"])
"""


@pytest.fixture(scope="module")
def old_python(tmp_path_factory) -> Path:
    """A separate environment: this runtime is built for NumPy 1 and Python up to 3.11."""
    python = shutil.which("python3.11")
    if python is None:
        pytest.skip("no python3.11 for tflite-runtime 2.14")
    folder = tmp_path_factory.mktemp("old") / "env"
    subprocess.run([python, "-m", "venv", str(folder)], check=True)
    packages = ["tflite-runtime==2.14.0", "numpy<2", "pillow"]
    installed = subprocess.run(
        [folder / "bin" / "pip", "install", "-q", *packages], capture_output=True, text=True
    )
    if installed.returncode != 0:
        reason = (installed.stderr.strip().splitlines() or ["no reason given"])[-1]
        pytest.skip(f"tflite-runtime 2.14 cannot be installed: {reason}")
    return folder / "bin" / "python"


@pytest.fixture(scope="module")
def model():
    return small_models.classifier()


@pytest.mark.parametrize("inside", [None, "uint8"])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_file_answers_as_in_the_new_runtime(old_python, model, tmp_path, scheme, inside) -> None:
    path = tmp_path / "model.tflite"
    calibration = small_models.samples(50)
    try:
        content = convert(
            model, scheme=scheme, calibration=calibration, labels=LABELS, path=path,
            input=inside, preprocess="standardize:mean=127;std=60",
        )  # fmt: skip
    except ConversionError as error:
        pytest.skip(str(error))
    stored = np.random.default_rng(1).integers(0, 256, (20, 8, 8, 3), np.uint8)
    images = stored if inside else calibration[:20]
    np.save(tmp_path / "images.npy", images)
    answer = subprocess.run(
        [old_python, "-c", ANSWER, "model.tflite", "images.npy", "answers.npy"],
        cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.split() == ["output_0"]
    found, expected = np.load(tmp_path / "answers.npy"), TFLiteModel(content).predict(images)
    assert np.abs(found - expected).max() <= TOLERANCES.get(scheme, 4 / 256)


def test_the_delivered_program_runs_there(old_python, model, tmp_path) -> None:
    path = tmp_path / "model.tflite"
    convert(
        model, calibration=small_models.samples(50), labels=LABELS, path=path, input="uint8",
        preprocess="standardize:mean=127;std=60",
    )  # fmt: skip
    pixels = np.random.default_rng(1).integers(0, 256, (8, 8, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    answer = subprocess.run(
        [old_python, find_folder("devices") / "classify.py", "photo.png", "--model", path],
        cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert answer.returncode == 0, answer.stderr
    best = LABELS[TFLiteModel(path).predict(pixels[None])[0].argmax()]
    assert answer.stdout.splitlines()[0].split()[1] == best
