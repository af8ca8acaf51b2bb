"""`edgeprune convert`: from a model file to a `.tflite` file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeprune.building.checks import check_output, check_source
from edgeprune.building.request import open_model
from edgeprune.cli.options import read_labels
from edgeprune.cli.quantization_options import read_quantization
from edgeprune.data import Dataset, load_dataset, parse_preprocess, read_samples
from edgeprune.data.assignment import balance
from edgeprune.errors import ConversionError
from edgeprune.support.files import replace_on_success
from edgeprune.support.progress import Progress
from edgeprune.tflite import CALIBRATED, Conversion, convert_in_detail
from edgeprune.tflite.conversion_checks import check_choices

if TYPE_CHECKING:
    import keras


def convert_file(model: str, out: str, progress: Progress, **options: Any) -> dict[str, Any]:
    """Convert a model file.

    Args:
        model: path of the model.
        out: path of the `.tflite` file.
        progress: told about stages.
        options: as parsed from the command line.

    Returns:
        What the command prints.

    Raises:
        EdgepruneError: one of its kinds; nothing is written.
    """
    scheme, io, source = options["quantize"], options["io"], options["data"]
    check_choices(scheme, io)
    check_output(out, suffix=".tflite")
    scaling = parse_preprocess(options["preprocess"])
    labels = read_labels(options["labels"])
    quantization = read_quantization(options)
    quantization.check(scheme)
    if scheme in CALIBRATED and source is None:
        raise ConversionError(
            f"{scheme} needs samples for the ranges of its integers: give --data, or take "
            "--quantize dynamic, which needs none."
        )
    check_source(source)
    original = open_model(model, options["weights"], progress)
    calibration = targets = None
    if scheme in CALIBRATED:
        with progress.stage("reading the data"):
            dataset = load_dataset(source, input_shape=tuple(original.inputs[0].shape[1:]))
            split = dataset.splits.get("train", next(iter(dataset.splits.values())))
            samples = read_samples(dataset, balance(dataset, split, options["samples"]), scaling)
            calibration = samples.inputs
            targets = _targets(dataset, samples.targets, original)
    with progress.stage(f"converting to {scheme}"):
        made = convert_in_detail(
            original,
            scheme=scheme,
            calibration=calibration,
            labels=labels,
            io=io,
            input=options["input"],
            preprocess=scaling,
            targets=targets,
            quantization=quantization,
            progress=progress,
        )
    with replace_on_success(out) as temporary:
        Path(temporary).write_bytes(made.content)
    return {
        "file": out,
        "quantize": scheme,
        "input": options["input"] or io,
        "io": io,
        "size_bytes": len(made.content),
        **_describe(made),
    }


def _targets(dataset: Dataset, targets: np.ndarray, model: keras.Model) -> np.ndarray | None:
    """Return the classes of the samples where they are those of the model's output."""
    shapes = [tuple(tensor.shape) for tensor in model.outputs]
    return targets if shapes == [(None, len(dataset.classes))] else None


def _describe(made: Conversion) -> dict[str, Any]:
    """Return the loss, and the three layers that lost most."""
    if made.loss is None:
        return {}
    worst = sorted(made.layers, key=lambda layer: -layer.rounding)[:3]
    return {
        "loss_on_samples": f"{made.loss:.2%}",
        "ranges": made.ranges,
        "worst_layers": ", ".join(f"{x.layer} ({x.operator}) {x.rounding:.1%}" for x in worst),
        "float_layers": ", ".join(made.float_layers) or "none",
    }
