"""What travels inside a `.tflite`: files, in the form that TensorFlow Lite's metadata prescribes.

The files are a zip archive behind the flatbuffer, so `unzip -p model.tflite labels.txt` shows them
and every runtime ignores them. A small flatbuffer inside the model (`TFLITE_METADATA`, identifier
M001) lists them and says which names the classes of an output: what Android's tools and the Task
Library read. The numbers below are field positions of the public metadata_schema.fbs.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any

LABELS = "labels.txt"
PREPROCESSING = "preprocessing.json"
PROVENANCE = "provenance.json"

DESCRIPTIONS = {
    LABELS: "One class per line, in the order of the output.",
    PREPROCESSING: "How an image becomes the input.",
    PROVENANCE: "What the model was made from, how, and with which versions.",
}

_METADATA_NAME = b"TFLITE_METADATA"
_METADATA_IDENTIFIER = b"M001"
_DESCRIPTIONS, _TENSOR_AXIS_LABELS = 1, 2
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest date of a zip: equal input gives equal bytes


def attach_files(content: bytes, files: Mapping[str, str]) -> bytes:
    """Append files to a model, stored and not compressed, as the readers require.

    Args:
        content: a `.tflite` without attached files.
        files: text by file name.

    Returns:
        The `.tflite` with the files.
    """
    buffer = io.BytesIO(content)
    buffer.seek(0, io.SEEK_END)
    with zipfile.ZipFile(buffer, "a") as archive:
        for name, text in files.items():
            archive.writestr(zipfile.ZipInfo(name, _EPOCH), text.encode())
    return buffer.getvalue()


def read_labels(content: bytes) -> tuple[str, ...]:
    """Return the class names attached to a `.tflite`, in the order of its outputs; none is ()."""
    return tuple(read_files(content).get(LABELS, "").splitlines())


def read_files(content: bytes) -> dict[str, str]:
    """Return the text files attached to a `.tflite` by name; none is {}.

    Example:
        >>> read_files(attach_files(b"model", {"labels.txt": "cat"}))
        {'labels.txt': 'cat'}
    """
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            return {
                name: archive.read(name).decode(errors="replace") for name in archive.namelist()
            }
    except zipfile.BadZipFile:
        return {}


def read_preprocessing(content: bytes) -> dict[str, Any]:
    """Return what a `.tflite` says about how an image becomes its input; nothing is {}."""
    try:
        return dict(json.loads(read_files(content).get(PREPROCESSING, "{}")))
    except ValueError:
        return {}


def describe_model(model: Any, name: str, count: int, files: Sequence[str]) -> None:
    """Say in a model's metadata what its attached files are.

    Args:
        model: `ModelT` of the TFLite schema, changed in place.
        name: of the model, for its readers.
        count: number of labels; outputs with as many values are the ones they name.
        files: names of all attached files; `labels.txt` belongs to the outputs.
    """
    from tensorflow.lite.python import schema_py_generated as schema

    subgraph, signature = model.subgraphs[0], model.signatureDefs[0]
    inputs = _names(subgraph.inputs, signature.inputs)
    outputs = _names(subgraph.outputs, signature.outputs)
    sizes = [subgraph.tensors[tensor].shape[-1] for tensor in subgraph.outputs]
    labelled = [index for index, size in enumerate(sizes) if size == count]

    buffer = schema.BufferT()
    buffer.data = bytearray(_model_metadata(name, inputs, outputs, labelled, files))
    model.buffers.append(buffer)
    entry = schema.MetadataT()
    entry.name, entry.buffer = _METADATA_NAME, len(model.buffers) - 1
    model.metadata = [*(model.metadata or []), entry]


def _names(tensors: Sequence[int], entries: Sequence[Any]) -> list[str]:
    names = {entry.tensorIndex: entry.name.decode() for entry in entries}
    return [names.get(index, f"tensor_{index}") for index in tensors]


def _model_metadata(
    name: str,
    inputs: Sequence[str],
    outputs: Sequence[str],
    labelled: Sequence[int],
    files: Sequence[str],
) -> bytes:
    """Return a ModelMetadata flatbuffer: the names, `labels.txt` on the labelled outputs, others
    on the model.
    """  # noqa: D205
    import flatbuffers  # type: ignore[import-untyped]

    builder = flatbuffers.Builder(512)

    def table(size: int, fields: Mapping[int, int]) -> int:
        builder.StartObject(size)
        for position, offset in fields.items():
            builder.PrependUOffsetTRelativeSlot(position, offset, 0)
        return builder.EndObject()

    def vector(offsets: Sequence[int]) -> int:
        builder.StartVector(4, len(offsets), 4)
        for offset in reversed(offsets):
            builder.PrependUOffsetTRelative(offset)
        return builder.EndVector()

    def tensor(label: str, attached: int | None) -> int:
        fields = {0: builder.CreateString(label)}
        return table(7, fields if attached is None else fields | {6: attached})

    labels = vector([_associated_file(builder, LABELS)]) if LABELS in files else None
    others = vector([_associated_file(builder, file) for file in files if file != LABELS])
    subgraph = table(
        7,
        {
            2: vector([tensor(label, None) for label in inputs]),
            3: vector(
                [
                    tensor(label, labels if index in labelled else None)
                    for index, label in enumerate(outputs)
                ]
            ),
        },
    )
    model = table(
        8,
        {
            0: builder.CreateString(name),
            3: vector([subgraph]),
            6: others,
            7: builder.CreateString("1.0.0"),
        },
    )
    builder.Finish(model, _METADATA_IDENTIFIER)
    return bytes(builder.Output())


def _associated_file(builder: Any, file: str) -> int:
    name = builder.CreateString(file)
    description = builder.CreateString(DESCRIPTIONS.get(file, ""))
    builder.StartObject(4)
    builder.PrependUOffsetTRelativeSlot(0, name, 0)
    builder.PrependUOffsetTRelativeSlot(1, description, 0)
    builder.PrependInt8Slot(2, _TENSOR_AXIS_LABELS if file == LABELS else _DESCRIPTIONS, 0)
    return builder.EndObject()
