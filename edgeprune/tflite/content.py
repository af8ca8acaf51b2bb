"""What is done to the bytes that the converter wrote: checked, put in order, labelled."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from edgeprune.errors import ConversionError
from edgeprune.tflite import metadata
from edgeprune.tflite.flatbuffer import parse_model
from edgeprune.tflite.flatbuffer_edits import order_tensors, pack

if TYPE_CHECKING:
    from edgeprune.tflite.raw_input import RawInput


def finish(
    content: bytes,
    model: str,
    inputs: Sequence[str],
    files: Mapping[str, str],
    raw: RawInput | None = None,
) -> bytes:
    """Check what the converter wrote, put its tensors in order, and attach what travels along.

    Args:
        content: of the `.tflite`.
        model: name of the Keras model.
        inputs: signature names in the order of the Keras model.
        files: text by name of file, to attach; `labels.txt` names the values of the output.
        raw: what the bytes of the input mean, where the scaling is inside.

    Raises:
        ConversionError: there is no room for temporary files.
    """
    parsed = parse_model(content)
    if not parsed.signatureDefs:  # the converter goes another way when it cannot save the model
        raise ConversionError(
            "TensorFlow could not write the model to the folder for temporary files, "
            f"'{tempfile.gettempdir()}'. Make room there, or name another folder in TMPDIR."
        )
    order_tensors(parsed, list(inputs))
    if raw is not None:
        raw.describe(parsed)
    if files:
        labels = files.get(metadata.LABELS, "").splitlines()
        metadata.describe_model(parsed, model, len(labels), list(files))
    content = pack(parsed)
    return metadata.attach_files(content, files) if files else content
