"""Name what is in a picture: python classify.py photo.jpg [--model model.tflite] [--top 3].

Needs NumPy, Pillow and ai-edge-litert (or tflite-runtime). Labels and preprocessing are in the
model's file. A model compiled for the Edge TPU runs there (libedgetpu must be installed).
"""

import argparse
import json
import pathlib
import zipfile

import numpy as np
from PIL import Image, ImageOps

try:
    from ai_edge_litert.interpreter import Interpreter, load_delegate
except ImportError:
    from tflite_runtime.interpreter import Interpreter, load_delegate

MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}


def read_image(path, details, how):
    """Return a picture as the model takes it, shape (1, height, width, channels)."""
    _, height, width, channels = details["shape"]
    image = ImageOps.exif_transpose(Image.open(path)).convert(MODES[channels])
    image = image.resize((width, height), Image.Resampling.BILINEAR)
    pixels = np.asarray(image, np.float32).reshape(details["shape"])
    if how.get("inside"):
        return pixels.astype(np.uint8)
    if how.get("mean") is None:
        raise SystemExit(f"The model wants {how.get('preprocess', 'inputs of its own')}: add that.")
    values = (pixels - np.float32(how["mean"])) / np.float32(how["std"])
    if details["dtype"] == np.float32:
        return values
    (scale, zero), limits = details["quantization"], np.iinfo(details["dtype"])
    return np.clip(np.rint(values / scale) + zero, limits.min, limits.max).astype(details["dtype"])


parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("image")
parser.add_argument("--model", default=str(pathlib.Path(__file__).with_name("model.tflite")))
parser.add_argument("--top", type=int, default=3)
options = parser.parse_args()
on_tpu = b"edgetpu-custom-op" in pathlib.Path(options.model).read_bytes()
delegates = [load_delegate("libedgetpu.so.1")] if on_tpu else None
interpreter = Interpreter(options.model, experimental_delegates=delegates, num_threads=4)
interpreter.allocate_tensors()
with zipfile.ZipFile(options.model) as archive:
    files = {name: archive.read(name).decode() for name in archive.namelist()}
labels, how = files.get("labels.txt", "").splitlines(), json.loads(files["preprocessing.json"])
(given,), (wanted,) = interpreter.get_input_details(), interpreter.get_output_details()
interpreter.set_tensor(given["index"], read_image(options.image, given, how))
interpreter.invoke()
scores = interpreter.get_tensor(wanted["index"])[0].astype(np.float32).ravel()
if wanted["dtype"] != np.float32:
    scores = (scores - wanted["quantization"][1]) * wanted["quantization"][0]
scores = np.append(1 - scores, scores) if len(scores) < len(labels) else scores  # one sigmoid
for index in np.argsort(-scores)[: options.top] if labels else range(len(scores)):
    print(f"{scores[index]:8.4f}  {labels[index] if labels else ''}")
