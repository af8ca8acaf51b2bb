"""What is done to the bytes that the converter wrote: checked, put in order, labelled."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from edgeprune.errors import ConversionError
from edgeprune.tflite import metadata
from edgeprune.tflite.conversion_checks import CALIBRATED
from edgeprune.tflite.flatbuffer import parse_model
from edgeprune.tflite.flatbuffer_edits import list_float_operators, order_tensors, pack

if TYPE_CHECKING:
    from edgeprune.tflite.raw_input import RawInput


def finish(
    content: bytes,
    model: str,
    inputs: Sequence[str],
    scheme: str | None,
    files: Mapping[str, str],
    raw: RawInput | None = None,
) -> bytes:
    """Check what the converter wrote, put its tensors in order, and attach what travels along.

    Args:
        content: of the `.tflite`.
        model: name of the Keras model.
        inputs: signature names in the order of the Keras model.
        scheme: integer schemes must be integers throughout; `None` where floats are allowed.
        files: text by name of file, to attach; `labels.txt` names the values of the output.
        raw: what the bytes of the input mean, where the scaling is inside.

    Raises:
        ConversionError: operators of an int8 model stayed in float32, or there is no room for
            temporary files.
    """
    parsed = parse_model(content)
    if not parsed.signatureDefs:  # the converter goes another way when it cannot save the model
        raise ConversionError(
            "TensorFlow could not write the model to the folder for temporary files, "
            f"'{tempfile.gettempdir()}'. Make room there, or name another folder in TMPDIR."
        )
    if scheme in CALIBRATED:
        check_integer(parsed, model, scheme)
    order_tensors(parsed, list(inputs))
    if raw is not None:
        raw.describe(parsed)
    if files:
        labels = files.get(metadata.LABELS, "").splitlines()
        metadata.describe_model(parsed, model, len(labels), list(files))
    content = pack(parsed)
    return metadata.attach_files(content, files) if files else content


def check_integer(parsed: Any, model: str, scheme: str) -> None:
    """Refuse an integer model with operators that the converter left in float32.

    Raises:
        ConversionError: names the operators.
    """
    left = list_float_operators(parsed)
    if left:
        raise ConversionError(
            f"Model '{model}' cannot be {scheme} throughout: TensorFlow Lite leaves "
            f"{', '.join(left)} in float. Use scheme 'dynamic' or 'float32', or replace these "
            "operators."
        )
