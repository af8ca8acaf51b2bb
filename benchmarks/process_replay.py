"""Whether a change of the code changes what comes out: plans and weights of twelve networks.

    python benchmarks/process_replay.py record before/    # at the old commit
    python benchmarks/process_replay.py record after/     # at the new one, on the same machine
    python benchmarks/process_replay.py compare before/ after/

Four networks are real and need `../shared/data`; eight are made here with seeded weights. A plan
and the digest of every weight are compared: equal means equal to the bit.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from keras import layers as L

import edgeprune

SHARED = Path(__file__).resolve().parents[1].parent / "shared" / "data"
Case = tuple[keras.Model, Any, dict[str, Any]]


def convolve(x: Any, width: int, **options: Any) -> Any:
    """Convolution, BatchNorm, ReLU."""
    x = L.Conv2D(width, 3, padding="same", use_bias=False, **options)(x)
    return L.ReLU()(L.BatchNormalization()(x))


def classify(x: Any, classes: int = 4) -> Any:
    """Pooling and a head."""
    return L.Dense(classes, activation="softmax")(L.GlobalAveragePooling2D()(x))


def residual(x: Any) -> Any:
    """Two blocks around a stream."""
    x = convolve(x, 16)
    for _ in range(2):
        x = L.Add()([x, convolve(convolve(x, 24), 16)])
    return classify(x)


def dense_blocks(x: Any) -> Any:
    """Concatenations."""
    x = convolve(x, 16)
    for _ in range(3):
        x = L.Concatenate()([x, convolve(x, 8)])
    return classify(x)


def mobile(x: Any) -> Any:
    """Depthwise and pointwise convolutions."""
    x = convolve(x, 16, strides=2)
    for width in (24, 32, 32):
        x = L.ReLU(6.0)(L.BatchNormalization()(L.DepthwiseConv2D(3, padding="same")(x)))
        x = L.ReLU(6.0)(L.BatchNormalization()(L.Conv2D(width, 1)(x)))
    return classify(x)


def gated(x: Any) -> Any:
    """Squeeze and excite."""
    x = convolve(x, 24)
    gate = L.Dense(8, activation="relu")(L.GlobalAveragePooling2D(keepdims=True)(x))
    x = L.Multiply()([x, L.Dense(24, activation="sigmoid")(gate)])
    return classify(convolve(x, 24))


def grouped(x: Any) -> Any:
    """Grouped convolutions."""
    return classify(convolve(convolve(convolve(x, 16), 32, groups=4), 24))


def flattened(x: Any) -> Any:
    """A plain stack that ends in Flatten and two Dense layers."""
    x = L.MaxPooling2D()(convolve(L.MaxPooling2D()(convolve(x, 16)), 24))
    return L.Dense(4, activation="softmax")(L.Dense(32, activation="relu")(L.Flatten()(x)))


def two_scales(x: Any) -> Any:
    """An hourglass with a skip: an image goes out."""
    skip = convolve(x, 16)
    deep = convolve(L.MaxPooling2D()(skip), 24)
    up = L.Conv2DTranspose(16, 2, strides=2)(deep)
    return L.Conv2D(2, 1)(convolve(L.Concatenate()([skip, up]), 16))


def recurrent(x: Any) -> Any:
    """Rows of an image as a sequence."""
    return L.Dense(4)(L.LSTM(24)(L.Reshape((16, 48))(x)))


MADE: dict[str, tuple[Callable[[Any], Any], dict[str, Any]]] = {
    "residual": (residual, {}),
    "dense_blocks": (dense_blocks, {"method": "chapr"}),
    "mobile": (mobile, {"classes": (2, 0)}),
    "gated": (gated, {"method": "catro"}),
    "grouped": (grouped, {"method": "filter_ensembles"}),
    "flattened": (flattened, {"method": "specialist", "classes": (1, 3)}),
    "two_scales": (two_scales, {"labels": False}),
    "recurrent": (recurrent, {"budget": "params=60%"}),
}


def make(name: str) -> Case:
    """Return a made network with seeded weights, samples and settings."""
    build, settings = MADE[name]
    settings = dict(settings)
    keras.utils.clear_session()
    inputs = keras.Input((16, 16, 3))
    model = keras.Model(inputs, build(inputs))
    random = np.random.default_rng(0)
    for weight in model.weights:
        shape, kind = tuple(weight.shape), weight.path.split("/")[-1]
        if kind in ("gamma", "moving_variance"):
            weight.assign(random.uniform(0.5, 1.5, shape))
        elif "kernel" in kind:
            weight.assign(random.normal(0, 1.4 / np.prod(shape[:-1]) ** 0.5, shape))
        elif "seed" not in kind:
            weight.assign(random.normal(0, 0.1, shape))
    x = random.random((160, 16, 16, 3), dtype=np.float32)
    return model, (x, np.arange(160) % 4) if settings.pop("labels", True) else x, settings


def open_real(name: str) -> Case:
    """Return a trained network of `../shared/data`, calibration samples and settings."""
    sys.path.insert(0, str(SHARED))
    from load import load_images

    if name == "keywords":
        model = edgeprune.load_model(SHARED / "mlperf_tiny/dscnn_kws.h5")
        with np.load(SHARED / "mlperf_tiny/kws01-open_mfcc.npz", allow_pickle=False) as stored:
            x, y = stored["x"].astype(np.float32)[..., None], stored["y"]
        return model, (x[:400], y[:400]), {}
    if name == "wake_words":
        model = edgeprune.load_model(SHARED / "mlperf_tiny/mobilenetv1_025_vww.h5")
        x, y, _ = load_images("mlperf_tiny/vww01.npz", processes=1)
        order = np.random.default_rng(0).permutation(len(y))[:300]  # the file is sorted by class
        return model, (x[order].astype(np.float32) / 255, y[order].astype(np.int64)), {}
    x, y, _ = load_images("cifar10/test.npz", processes=1)
    x, y = x[:800].astype(np.float32), y[:800].astype(np.int64)
    if name == "resnet8":
        model = edgeprune.load_model(SHARED / "mlperf_tiny/resnet8_cifar10.h5")
        return model, (x, y), {"classes": (3, 5, 7)}
    x = (x - np.float32([125.307, 122.950, 113.865])) / np.float32([62.993, 62.089, 66.705])
    return edgeprune.load_model(SHARED / "cifar10/resnet20.keras"), (x, y), {}


REAL = ("resnet20", "resnet8", "wake_words", "keywords")


def replay(name: str) -> dict[str, Any]:
    """Prune one network and return its plan and the digests of its weights."""
    model, data, settings = make(name) if name in MADE else open_real(name)
    settings |= {"pruning": edgeprune.Pruning(settings.pop("method", "auto"), step=8)}
    settings["training"] = None  # by time, which no two runs have equal
    parts = [data] if isinstance(data, np.ndarray) else list(data)
    most = 3 * len(parts[0]) // 4
    learn, choose = (tuple(part[cut] for part in parts) for cut in (np.s_[:most], np.s_[most:]))
    if len(parts) == 1:
        learn, choose = learn[0], choose[0]
    pruned = edgeprune.prune(model, learn, validation=choose, **{"budget": "macs=50%"} | settings)
    return {
        "plan": json.loads(pruned.plan.to_json()),
        "recovery": pruned.chosen.name,
        "macs": [pruned.before.macs, pruned.after.macs],
        "weights": [
            f"{weight.shape} {hashlib.sha256(np.ascontiguousarray(weight).tobytes()).hexdigest()}"
            for weight in pruned.model.get_weights()
        ],
    }


def record(folder: Path) -> None:
    """Replay all networks that can be had into one JSON file each."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in (*MADE, *(REAL if SHARED.is_dir() else ())):
        result = replay(name)
        (folder / f"{name}.json").write_text(json.dumps(result, indent=1), encoding="utf-8")
        print(f"{name}: {result['recovery']}, MACs {result['macs']}", flush=True)


def compare(before: Path, after: Path) -> int:
    """Print what differs and return how many networks do."""
    different = 0
    for path in sorted(before.glob("*.json")):
        one, other = (json.loads((f / path.name).read_text("utf-8")) for f in (before, after))
        parts = [part for part in one if one[part] != other[part]]
        different += bool(parts)
        print(f"{path.stem}: {'equal' if not parts else 'differs in ' + ', '.join(parts)}")
    print(f"{different} networks differ")
    return different


if __name__ == "__main__":
    action, *folders = sys.argv[1:]
    if action == "record":
        record(Path(folders[0]))
    else:
        sys.exit(compare(*map(Path, folders)) > 0)
