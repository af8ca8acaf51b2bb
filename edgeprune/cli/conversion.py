"""`edgeprune convert`: from a model file to a `.tflite` file."""

from __future__ import annotations

from typing import Any

import numpy as np

from edgeprune.building.material import check_source
from edgeprune.cli.options import read_labels
from edgeprune.conversion import convert
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

    Raises:
        EdgepruneError: one of its kinds; nothing is written.
    """
    scaling = parse_preprocess(options["preprocess"])
    labels = read_labels(options["labels"])
    scheme = options["quantize"]
    if scheme == "int8" and options["data"] is None:
        raise ConversionError(
            "int8 needs samples for the ranges of values: give --data, or take --quantize dynamic."
        )
    check_source(options["data"])
    from edgeprune.loading import load_model

    with progress.stage("loading the model"):
        original = load_model(model, weights=options["weights"])
    calibration = None
    if scheme == "int8":
        shape = tuple(original.inputs[0].shape[1:])
        dataset = load_dataset(options["data"], input_shape=shape, classes=labels)
        split = dataset.splits.get("train", next(iter(dataset.splits.values())))
        count = min(options["samples"], len(split))
        chosen = np.random.default_rng(0).choice(split, count, replace=False)
        calibration = read_samples(dataset, np.sort(chosen), scaling).inputs
    content = convert(
        original,
        scheme=scheme,
        calibration=calibration,
        labels=labels,
        io=options["io"],
        path=out,
        progress=progress,
    )
    return {"file": out, "quantize": scheme, "size_bytes": len(content)}
