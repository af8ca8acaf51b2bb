"""Accuracy on a batch of samples that came along, and a digest of every answer."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import interpreter
import numpy as np


def read_batch(path: str) -> dict:
    """Read `inputs` of shape (n, ...) and, if there are any, `labels` of shape (n,)."""
    with np.load(path, allow_pickle=False) as arrays:
        batch = {name: arrays[name] for name in arrays.files}
    if "inputs" not in batch or len(batch["inputs"]) == 0:
        raise ValueError(f"{path} has no array 'inputs' with samples")
    labels = batch.get("labels")
    if labels is not None and labels.shape != (len(batch["inputs"]),):
        raise ValueError(
            f"{path} has {len(batch['inputs'])} inputs, but labels of shape {labels.shape}"
        )
    return {"inputs": batch["inputs"], "labels": labels}


def check_batch(model: interpreter.Model, batch: dict) -> None:
    """Refuse a batch whose samples are not what the model takes."""
    inputs = model.inputs
    if len(inputs) != 1:
        raise ValueError(f"{model.path} has {len(inputs)} inputs; a batch serves models of one")
    wanted, found = tuple(inputs[0]["shape"][1:]), batch["inputs"].shape[1:]
    if wanted != found:
        raise ValueError(f"{model.path} takes samples of shape {wanted}, the batch has {found}")


def measure(model: interpreter.Model, batch: dict, stopped: Callable[[], bool]) -> dict:
    """Run the samples one by one, as a board would."""
    labels, digest = batch["labels"], hashlib.sha256()
    count = correct = 0
    details = model.inputs[0]
    for index, sample in enumerate(batch["inputs"]):
        if stopped():
            break
        model.set_input(details, quantize(sample[None], details))
        model.run()
        output = model.read_outputs()[0]
        digest.update(np.ascontiguousarray(output).tobytes())
        count += 1
        if labels is not None:
            correct += int(choose(output, model.outputs[0]) == labels[index])
    return {
        "count": count,
        "correct": None if labels is None else correct,
        "outputs_sha256": digest.hexdigest(),
    }


def choose(output: np.ndarray, details: dict) -> int:
    """Return the class of an output: the largest of its values; of one probability 0 or 1."""
    if output.size > 1:
        return int(np.argmax(output.reshape(-1)))
    scale, zero_point = details["quantization"]
    value = float(output.reshape(-1)[0])
    return int((value - zero_point) * scale > 0.5 if scale else value > 0.5)


def quantize(sample: np.ndarray, details: dict) -> np.ndarray:
    """Return a sample in the type of an input; real numbers become integers by its scale."""
    dtype = np.dtype(details["dtype"])
    if sample.dtype == dtype:
        return sample
    scale, zero_point = details["quantization"]
    if dtype.kind == "f" or not scale:
        return sample.astype(dtype)
    limits = np.iinfo(dtype)
    steps = np.round(sample.astype(np.float32) / scale) + zero_point
    return np.clip(steps, limits.min, limits.max).astype(dtype)
