"""The last proof of a build: what the `.tflite` answers, against the Keras model it was made of."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeprune.errors import EquivalenceError
from edgeprune.support.progress import Progress
from edgeprune.tflite.runtime import TFLiteModel

if TYPE_CHECKING:
    import keras


def verify_file(
    path: Path,
    model: keras.Model,
    inputs: np.ndarray,
    expected: np.ndarray,
    *,
    threads: int,
    progress: Progress,
) -> tuple[np.ndarray, dict[str, Any]]:
    """Run a `.tflite` on real samples and compare it with the Keras model.

    Args:
        path: of the file.
        model: that it was made of, with one input and one output.
        inputs: `(n, ...)` samples as the file takes them.
        expected: what the Keras model answers, `(n, classes)`.
        threads: of the runtime.
        progress: told about every sample.

    Returns:
        What the file answers, and for the report: `samples`, `top1_agreement`, `max_abs_error` and
        `mean_abs_error` of its outputs, their `scale` (largest absolute output of Keras), the
        `output_step` (of the integers; 0 for floats), `inputs` and `outputs` by signature name, and
        the `runtime`.

    Raises:
        EquivalenceError: the names are not those of the Keras model, or it answers with NaN.
    """
    runner = TFLiteModel(path, threads=threads)
    given, answered = runner.inputs[0], runner.outputs[0]
    names = {"inputs": [given.name], "outputs": [answered.name]}
    wanted = _signature(model)
    if names != wanted:
        raise EquivalenceError(
            f"The .tflite calls its input and output {names}, the Keras model {wanted}. Nothing "
            "was written. Please report the model."
        )
    outputs = runner.predict(inputs, progress=progress)
    if not np.isfinite(outputs).all():
        raise EquivalenceError(
            "The .tflite answers with NaN or infinity where the Keras model does not. Nothing was "
            "written. Choose another number format with --quantize."
        )
    error = np.abs(outputs - expected)
    return outputs, {
        "samples": len(inputs),
        "top1_agreement": float((outputs.argmax(-1) == expected.argmax(-1)).mean()),
        "max_abs_error": float(error.max()),
        "mean_abs_error": float(error.mean()),
        "scale": float(np.abs(expected).max()),
        "output_step": _step(path, answered.scale),
        "inputs": {given.name: f"{given.dtype} {given.shape}"},
        "outputs": {answered.name: f"{answered.dtype} {answered.shape}"},
        "runtime": str(runner.runtime),
    }


def _signature(model: keras.Model) -> dict[str, list[str]]:
    from edgeprune.tflite.tensorflow_lite import signature_names

    return signature_names(model)


def _step(path: Path, scale: float) -> float:
    """Return the step of the integers an output is made from, also behind a DEQUANTIZE."""
    from edgeprune.tflite.flatbuffer import operator_kind, parse_model

    if scale:
        return scale
    parsed = parse_model(path.read_bytes())
    subgraph = parsed.subgraphs[0]
    for operator in subgraph.operators:
        if subgraph.outputs[0] in operator.outputs and operator_kind(parsed, operator) == (
            "DEQUANTIZE"
        ):
            return float(subgraph.tensors[operator.inputs[0]].quantization.scale[0])
    return 0.0
