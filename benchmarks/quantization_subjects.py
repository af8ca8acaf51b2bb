"""The models of the quantization table: what they are fed with, on which samples they are judged.

CIFAR-10 models calibrate, prune and train on training images and are judged on the test images. Of
visual wake words and keyword spotting there are only the accuracy sets of MLPerf Tiny: their models
are made twice, each time from one half, and judged on the other, so that every sample is judged
once by a model that never saw it.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from PIL import Image

DATA = Path(__file__).resolve().parent.parent.parent / "shared" / "data"
TRAINED_PER_CLASS = 200
CALIBRATED_PER_CLASS = {10: 20, 2: 100, 12: 17}
"""About 200 samples for ranges, as a build takes."""


@dataclass(frozen=True, eq=False)
class Part:
    """One way to divide a data set.

    Attributes:
        learn: samples `(n, ...)` and classes for pruning and training, balanced over the classes.
        calibrate: for ranges, likewise.
        evaluator: for the accuracy.
    """

    learn: tuple[np.ndarray, np.ndarray]
    calibrate: tuple[np.ndarray, np.ndarray]
    evaluator: tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Subject:
    """A model of the table.

    Attributes:
        name: in the table.
        file: of the Keras model, in the data folder.
        reference: MLPerf's int8 file, or "".
    """

    name: str
    file: str
    reference: str = ""

    def parts(self) -> list[Part]:
        """Return one way to divide the samples, or two halves."""
        return _CONSUMERS[self.name]()


SUBJECTS = {
    subject.name: subject
    for subject in (
        Subject("DS-CNN", "mlperf_tiny/dscnn_kws.h5", "mlperf_tiny/dscnn_kws_int8.tflite"),
        Subject(
            "MobileNetV1-0.25",
            "mlperf_tiny/mobilenetv1_025_vww.h5",
            "mlperf_tiny/mobilenetv1_025_vww_int8.tflite",
        ),
        Subject(
            "ResNet-8", "mlperf_tiny/resnet8_cifar10.h5", "mlperf_tiny/resnet8_cifar10_int8.tflite"
        ),
        Subject("ResNet-20", "cifar10/resnet20.keras"),
    )
}


def balanced(targets: np.ndarray, per_class: int, seed: int = 0) -> np.ndarray:
    """Return indices of at most `per_class` samples of every class, in random order."""
    order = np.random.default_rng(seed).permutation(len(targets))
    chosen = [order[targets[order] == label][:per_class] for label in np.unique(targets)]
    return np.random.default_rng(seed + 1).permutation(np.concatenate(chosen))


def _unpack(name: str, limit: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    packed = np.load(DATA / name, allow_pickle=False)
    data, offsets = (
        packed["webp"].tobytes(),
        packed["offsets"][: None if limit is None else limit + 1],
    )
    images = [
        np.asarray(Image.open(io.BytesIO(data[start:end])).convert("RGB"))
        for start, end in pairwise(offsets)
    ]
    return np.stack(images).astype(np.float32), packed["labels"][: len(images)].astype(np.int64)


def _cifar10(mean: Sequence[float], std: Sequence[float]) -> list[Part]:
    inputs, targets = _unpack("cifar10/train_1.npz", 8000)
    tested, wanted = _unpack("cifar10/test.npz")
    shift, scale = np.float32(mean), np.float32(std)
    inputs, tested = (inputs - shift) / scale, (tested - shift) / scale
    return [_part(inputs, targets, tested, wanted)]


def _part(inputs: np.ndarray, targets: np.ndarray, judged: np.ndarray, wanted: np.ndarray) -> Part:
    learn = balanced(targets, TRAINED_PER_CLASS)
    few = balanced(targets, CALIBRATED_PER_CLASS[int(wanted.max()) + 1])
    return Part((inputs[learn], targets[learn]), (inputs[few], targets[few]), (judged, wanted))


def _halves(inputs: np.ndarray, targets: np.ndarray) -> list[Part]:
    order = np.random.default_rng(0).permutation(len(inputs))
    halves = order[::2], order[1::2]
    return [
        _part(inputs[one], targets[one], inputs[other], targets[other])
        for one, other in (halves, halves[::-1])
    ]


def _keywords() -> list[Part]:
    from edgeprune.tflite.runtime import TFLiteModel

    with np.load(DATA / "mlperf_tiny" / "kws01-open_mfcc.npz") as stored:
        integers, targets = stored["x"][..., None], stored["y"]
    reference = TFLiteModel(DATA / SUBJECTS["DS-CNN"].reference)
    return _halves(reference.inputs[0].dequantize(integers), targets)


def _wake_words() -> list[Part]:
    images, targets = _unpack("mlperf_tiny/vww01.npz")
    return _halves(images / 255, targets)


_CONSUMERS = {
    "DS-CNN": _keywords,
    "MobileNetV1-0.25": _wake_words,
    "ResNet-8": lambda: _cifar10((0, 0, 0), (1, 1, 1)),
    "ResNet-20": lambda: _cifar10((125.307, 122.950, 113.865), (62.993, 62.089, 66.705)),
}
