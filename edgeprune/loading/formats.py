"""What a path holds, told by its first bytes: names of files lie, contents do not."""

from __future__ import annotations

import difflib
import enum
import zipfile
from pathlib import Path

from edgeprune.errors import ModelError
from edgeprune.loading.zip_files import open_zip
from edgeprune.support.files import check_regular

KERAS_COPY = "save the Keras model with model.save('model.keras') in the program that made it"
WRITTEN_AS_CLASS = (
    "{} is a model written as a class ('{}'), which does not say what it computes. In the program "
    "that made it, build Model(inputs, outputs) from Input and its layers, and give that model."
)
_EXPECTED = "expected a Keras model: .keras, .h5, .hdf5, architecture .json or a SavedModel folder"
_MODEL_SUFFIXES = {".keras", ".h5", ".hdf5", ".json"}
_SIGNATURES = {
    b"\x89PNG": "a PNG image",
    b"\xff\xd8\xff": "a JPEG image",
    b"GIF8": "a GIF image",
    b"BM": "a BMP image",
    b"%PDF": "a PDF document",
    b"\x1f\x8b": "a gzip archive; unpack it first",
    b"\x80": "a Python pickle, which is code and is never opened",
    b"\x93NUMPY": "a NumPy array",
    b"<": "an HTML or XML page; was the download successful?",
    b"version https://git-lfs": "a Git LFS pointer; fetch the file itself with git lfs pull",
}
_SUFFIXES = {
    ".onnx": "an ONNX model",
    ".pb": "a frozen TensorFlow graph, which has no layers left",
    ".pbtxt": "a frozen TensorFlow graph, which has no layers left",
    ".pt": "a PyTorch model",
    ".pth": "a PyTorch model",
    ".caffemodel": "a Caffe model",
    ".mlmodel": "a Core ML model",
    ".yaml": "an architecture in YAML; save it as JSON with model.to_json()",
    ".yml": "an architecture in YAML; save it as JSON with model.to_json()",
}


class Format(enum.Enum):
    """The containers a Keras model comes in."""

    ARCHIVE = ".keras archive"
    HDF5 = "HDF5 file"
    JSON = "JSON architecture"
    SAVED_MODEL = "SavedModel folder"


def identify(path: Path) -> Format:
    """Say which container a path is, or what it is instead.

    Raises:
        ModelError: nothing is there, or what is there is no Keras model; the message says what it
            looks like and what to do.
    """
    if not path.exists():
        raise ModelError(_absent(path))
    return _identify_folder(path) if path.is_dir() else _identify_file(path)


def _identify_file(path: Path) -> Format:
    check_regular(path, ModelError)
    try:
        with path.open("rb") as file:
            start = file.read(512)
    except OSError as error:
        raise ModelError(f"Cannot read '{path}': {error.strerror}.") from error
    if not start:
        raise ModelError(f"'{path}' is empty; {_EXPECTED}.")
    if start[4:8] == b"TFL3" or path.suffix == ".tflite":
        raise ModelError(
            f"'{path}' is a .tflite file, in which layers are fused and weights frozen; give the "
            "Keras model it was converted from."
        )
    if start.startswith(b"\x89HDF\r\n\x1a\n"):
        return Format.HDF5
    if start.startswith(b"PK"):
        return _identify_zip(path)
    if path.suffix in {".index", ".meta"} or ".data-0" in path.name or path.name == "checkpoint":
        raise ModelError(_checkpoint(path))
    if path.suffix.lower() in _SUFFIXES:
        raise _not_keras(path, _SUFFIXES[path.suffix.lower()])
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n")
    if text[:1] in (b"{", b'"'):
        return Format.JSON
    for signature, description in _SIGNATURES.items():
        if text.startswith(signature):
            raise _not_keras(path, description)
    raise _not_keras(path, "binary data of an unknown kind" if b"\0" in start else "text")


def _identify_zip(path: Path) -> Format:
    if not zipfile.is_zipfile(path):
        size = path.stat().st_size
        raise ModelError(
            f"'{path}' is a damaged archive: it starts as a .keras file but its end is missing "
            f"after {size:,} bytes. Copy or download it again."
        )
    with open_zip(path) as archive:
        names = set(archive.namelist())
    if "config.json" in names:
        return Format.ARCHIVE
    if any(name.endswith("data.pkl") for name in names):
        raise _not_keras(path, "a PyTorch model")
    raise _not_keras(path, "a zip archive without the config.json of a Keras model")


def _identify_folder(path: Path) -> Format:
    names = {entry.name for entry in path.iterdir()}
    if "saved_model.pb" in names:
        return Format.SAVED_MODEL
    models = sorted(name for name in names if Path(name).suffix in _MODEL_SUFFIXES)
    hint = f" It holds {_listing(models)}: give one of them." if models else ""
    if not models and ("checkpoint" in names or any(name.endswith(".index") for name in names)):
        raise ModelError(_checkpoint(path))
    raise ModelError(
        f"'{path}' is a folder without saved_model.pb, so it is no SavedModel; {_EXPECTED}.{hint}"
    )


def _checkpoint(path: Path) -> str:
    return (
        f"'{path}' is a TensorFlow checkpoint: weights without an architecture. Build the model in "
        "the program that made it, load the checkpoint there with model.load_weights(...), then "
        f"{KERAS_COPY}."
    )


def _not_keras(path: Path, description: str) -> ModelError:
    return ModelError(f"'{path}' is not a Keras model: it is {description}; {_EXPECTED}.")


def _absent(path: Path) -> str:
    message = f"There is no model at '{path}'."
    if Path(f"{path}.index").exists():
        return _checkpoint(path)
    if not path.parent.is_dir():
        return f"{message} The folder '{path.parent}' does not exist either."
    names = sorted(entry.name for entry in path.parent.iterdir())
    similar = difflib.get_close_matches(path.name, names, n=3, cutoff=0.6)
    similar += [name for name in names if Path(name).stem == path.stem and name not in similar]
    if similar:
        return f"{message} Did you mean {_listing(similar[:3])}?"
    models = [name for name in names if Path(name).suffix in _MODEL_SUFFIXES]
    return f"{message} The folder holds {_listing(models)}." if models else message


def _listing(names: list[str], limit: int = 5) -> str:
    quoted = [f"'{name}'" for name in names[:limit]]
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    if more or len(quoted) == 1:
        return ", ".join(quoted) + more
    return ", ".join(quoted[:-1]) + " or " + quoted[-1]
