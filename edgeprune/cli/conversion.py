"""`edgeprune convert`: from a model file to a `.tflite` file."""

from __future__ import annotations

from typing import Any

import numpy as np

from edgeprune.building.checks import check_output, check_source
from edgeprune.building.request import open_model
from edgeprune.cli.options import read_labels
from edgeprune.conversion import convert
from edgeprune.conversion.checks import check_choices
from edgeprune.datasets import load_dataset, parse_preprocess, read_samples
from edgeprune.errors import ConversionError
from edgeprune.progress import Progress


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
    if scheme == "int8" and source is None:
        raise ConversionError(
            "int8 needs samples for the ranges of its integers: give --data, or take "
            "--quantize dynamic, which needs none."
        )
    check_source(source)
    original = open_model(model, options["weights"], progress)
    calibration = None
    if scheme == "int8":
        with progress.stage("reading the data"):
            dataset = load_dataset(source, input_shape=tuple(original.inputs[0].shape[1:]))
            split = dataset.splits.get("train", next(iter(dataset.splits.values())))
            chosen = np.random.default_rng(0).permutation(split)[: options["samples"]]
            calibration = read_samples(dataset, np.sort(chosen), scaling).inputs
    with progress.stage(f"converting to {scheme}"):
        content = convert(
            original,
            scheme=scheme,
            calibration=calibration,
            labels=labels,
            io=io,
            input=options["input"],
            preprocess=scaling,
            path=out,
            progress=progress,
        )
    return {
        "file": out,
        "quantize": scheme,
        "input": options["input"] or io,
        "io": io,
        "size_bytes": len(content),
    }
