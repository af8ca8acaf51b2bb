"""All models of keras.applications, cut and proven: writes `architectures.md` beside this file.

    python benchmarks/architectures.py                 # what is not measured yet, smallest first
    python benchmarks/architectures.py MobileNet ...   # these, again

Each model runs in a process of its own: random weights, BatchNorm and biases randomised around
the statistics of random images (else a network of 200 layers amplifies rounding to any size), 10
classes, smallest allowed input. A random third of the removable channels is removed. Measurements
are kept in `architectures.json`, so an interrupted run goes on where it stopped.
"""

from __future__ import annotations

import gc
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

FOLDER = Path(__file__).resolve().parent
RESULTS = FOLDER / "architectures.json"
TABLE = FOLDER / "architectures.md"
CLASSES = 10
SAMPLES = 2
TOLERANCE = 1e-4
SMALLEST_INPUT = {"InceptionResNetV2": 75, "InceptionV3": 75, "Xception": 71}
"""Height and width below which the constructor refuses; 32 for all others."""
SMALLEST_FIRST = (
    "MobileNetV3Small MobileNet MobileNetV2 EfficientNetB0 NASNetMobile MobileNetV3Large "
    "EfficientNetV2B0 EfficientNetB1 EfficientNetV2B1 DenseNet121 EfficientNetB2 EfficientNetV2B2 "
    "EfficientNetB3 DenseNet169 EfficientNetV2B3 EfficientNetB4 DenseNet201 EfficientNetV2S "
    "Xception InceptionV3 ResNet50V2 ResNet50 ConvNeXtTiny EfficientNetB5 EfficientNetB6 "
    "ResNet101V2 ResNet101 ConvNeXtSmall EfficientNetV2M InceptionResNetV2 ResNet152V2 ResNet152 "
    "EfficientNetB7 NASNetLarge ConvNeXtBase EfficientNetV2L VGG16 VGG19 ConvNeXtLarge "
    "ConvNeXtXLarge"
).split()


def build(name: str, constructor: Callable[..., Any] | None = None, seed: int = 0) -> Any:
    """Build a model with random weights, none of them at a value where mistakes cancel.

    The moving statistics of BatchNorm are those of random images, times and plus noise. Without a
    constructor it is the one of that name in `keras.applications`.
    """
    import keras
    import numpy as np

    size = SMALLEST_INPUT.get(name, 32)
    keras.utils.set_random_seed(seed)
    constructor = constructor or getattr(keras.applications, name)
    model = constructor(weights=None, input_shape=(size, size, 3), classes=CLASSES)
    generator = np.random.default_rng(seed)
    for weight in model.weights:
        if len(weight.shape) > 1:
            continue
        low, high = (0.5, 1.5) if re.search("gamma|variance", weight.path) else (-0.5, 0.5)
        weight.assign(generator.uniform(low, high, weight.shape))
    for layer in model.layers:
        if isinstance(layer, keras.layers.Normalization):
            layer.finalize_state()
    images = generator.uniform(0, 255, (16, size, size, 3)).astype(np.float32)
    norms = [la for la in model.layers if isinstance(la, keras.layers.BatchNormalization)]
    momentum = [layer.momentum for layer in norms]
    for layer in norms:
        layer.momentum = 0.0
    model(images, training=True)
    for layer, usual in zip(norms, momentum, strict=True):
        layer.momentum = usual
        variance = layer.moving_variance.numpy()
        spread = np.sqrt(np.maximum(variance, variance.mean() / 10))
        layer.moving_mean.assign_add(spread * generator.normal(0, 0.2, spread.shape))
        layer.moving_variance.assign(spread**2 * generator.uniform(0.8, 1.25, spread.shape))
    return model


def draw_plan(groups: Any, seed: int = 0, share: float = 1 / 3) -> Any:
    """Remove a random share of the channels of every removable group, never all of them."""
    import numpy as np

    from edgeprune.surgery.plan import Plan

    generator = np.random.default_rng(seed)
    keep = {}
    for group in groups.removable:
        removed = min(round(group.width * share), group.width - 1)
        keep[group.name] = sorted(generator.permutation(group.width)[removed:].tolist())
    return Plan(keep, groups.fingerprint)


def examine(
    name: str, constructor: Callable[..., Any] | None = None, *, convert: bool = True
) -> dict[str, Any]:
    """Trace a model, remove a third of what is removable, and check everything that must hold."""
    import keras
    import numpy as np

    import edgeprune.surgery.channel_removal as surgery
    from edgeprune.cost.cost_model import CostModel
    from edgeprune.surgery.plan import Plan
    from edgeprune.tracing.groups import find_groups

    started = time.process_time()
    model = build(name, constructor)
    row: dict[str, Any] = {"model": name, "params": model.count_params()}
    row["build_seconds"] = time.process_time() - started
    row["input"] = model.input_shape[1]

    started = time.process_time()
    groups = find_groups(model)
    row["trace_seconds"] = time.process_time() - started
    started = time.process_time()
    costs = CostModel(groups)
    floor = costs.count({group.name: 1 for group in groups.removable})
    plan = draw_plan(groups)
    row["plan_seconds"] = time.process_time() - started
    row["groups"] = len(groups)
    row["channels"] = sum(group.width for group in groups)
    row["locked"] = share_locked(groups)
    row["floor_macs"] = floor.macs / costs.full.macs
    row["floor_params"] = floor.params / costs.full.params
    row["holding"] = what_holds_the_floor(groups, costs)

    keras_seconds = 0.0
    build_replica = surgery.replicate

    def timed(*args: Any, **kwargs: Any) -> Any:
        nonlocal keras_seconds
        begun = time.process_time()
        made = build_replica(*args, **kwargs)
        keras_seconds = time.process_time() - begun
        return made

    with patch.object(surgery, "replicate", timed):
        started = time.process_time()
        small = surgery.remove_channels(model, plan, groups=groups)
        row["surgery_seconds"] = time.process_time() - started - keras_seconds
    row["keras_seconds"] = keras_seconds
    row["small_params"] = small.count_params()
    predicted = costs.count({group: len(kept) for group, kept in plan.keep.items()})
    assert predicted.params == row["small_params"], "the cost model is wrong"

    generator = np.random.default_rng(1)
    inputs = generator.uniform(0, 255, (SAMPLES, *model.input_shape[1:])).astype(np.float32)
    original = logits(model, inputs)
    masked = surgery.mask_channels(model, plan, groups=groups)
    oracle = logits(masked, inputs)
    del masked
    found = logits(small, inputs)
    row["scale"] = float(np.abs(oracle).max())
    row["changed"] = relative(original, oracle)
    row["error"] = relative(oracle, found)
    whole = surgery.remove_channels(model, Plan(), groups=groups)
    row["identity_error"] = relative(original, logits(whole, inputs))
    row["same_signature"] = (
        [t.name for t in whole.inputs] == [t.name for t in model.inputs]
        and whole.output_names == model.output_names
        and [layer.name for layer in whole.layers] == [layer.name for layer in model.layers]
    )
    del whole, model
    gc.collect()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "small.keras"
        small.save(path)
        reopened = keras.models.load_model(path)
    row["reopened_error"] = relative(found, logits(reopened, inputs))
    del reopened
    gc.collect()
    if convert:
        row["tflite_error"] = compare_tflite(small, inputs)
    row["peak_gigabytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    row["passed"] = passes(row)
    return row


def passes(row: dict[str, Any]) -> bool:
    """Whether everything that must hold does, and the comparison could have failed."""
    errors = ("error", "identity_error", "reopened_error", "tflite_error")
    return bool(
        all(row.get(error, 0.0) <= TOLERANCE for error in errors)
        and row["changed"] > 100 * TOLERANCE
        and row["same_signature"]
    )


def logits(model: Any, inputs: Any) -> Any:
    """Return the values before the final softmax."""
    import keras

    last = model.layers[-1]
    activation, last.activation = last.activation, keras.activations.linear
    try:
        return keras.ops.convert_to_numpy(model(inputs, training=False))
    finally:
        last.activation = activation


def relative(expected: Any, found: Any) -> float:
    """Return the largest difference as a fraction of the largest expected value."""
    import numpy as np

    return float(np.abs(expected - found).max() / np.abs(expected).max())


def compare_tflite(model: Any, inputs: Any) -> float:
    """Convert to a float `.tflite` and compare its logits."""
    import keras

    from edgeprune.tflite import convert
    from edgeprune.tflite.runtime import TFLiteModel

    model.layers[-1].activation = keras.activations.linear
    expected = keras.ops.convert_to_numpy(model(inputs, training=False))
    content = convert(model, scheme="float32")
    found = TFLiteModel(content).predict(inputs)
    return relative(expected, found)


def share_locked(groups: Any) -> dict[str, float]:
    """Return the share of all channels that are locked, by reason."""
    total = sum(group.width for group in groups)
    found: Counter[str] = Counter()
    for group in groups:
        if group.locked:
            kinds = {kind_of(reason) for reason in group.locked}
            found[" and ".join(sorted(kinds))] += group.width
    return {reason: width / total for reason, width in found.most_common()}


def kind_of(reason: str) -> str:
    """Shorten a reason to what it has in common with those of other layers."""
    if reason.startswith("input of"):
        return "input"
    if reason in ("output of the model", "normalised over by softmax"):
        return "output"
    layer_type = re.search(r"\((\w+)\)", reason)
    return layer_type.group(1) if layer_type else re.sub("'[^']*'", "a layer", reason)


def what_holds_the_floor(groups: Any, costs: Any) -> list[str]:
    """Return the layers that hold most of the parameters at the floor, with their share."""
    widths = {group.name: 1 for group in groups.removable}
    held: Counter[str] = Counter()
    full = costs.full.params
    kept = {g.name: (1 if g.name in widths else g.width) for g in groups}
    shapes: dict[tuple[str, int], dict[int, float]] = {}
    for axis in groups.axes:
        numbers = axis.group.tolist()
        size = sum(
            1.0 if n < 0 else kept[groups.groups[n].name] / groups.groups[n].width for n in numbers
        )
        shapes.setdefault((axis.layer, axis.weight), {})[axis.axis] = size
    for call in groups.graph.calls:
        for index, weight in enumerate(getattr(call.operation, "weights", [])):
            count = 1.0
            for axis, size in enumerate(weight.shape):
                count *= shapes.get((call.path, index), {}).get(axis, size)
            held[type(call.operation).__name__] += count
    return [f"{kind} {count / full:.1%}" for kind, count in held.most_common(3)]


def write_table(rows: dict[str, dict[str, Any]]) -> None:
    """Write the table of all rows measured so far."""
    import importlib.metadata

    versions = {name: importlib.metadata.version(name) for name in ("keras", "tensorflow")}
    order = [name for name in SMALLEST_FIRST if name in rows]
    passed = sum(bool(rows[name].get("passed")) for name in order)
    lines = [
        "# keras.applications: every model, cut and proven",
        "",
        f"Written by `make coverage-table` (Keras {versions['keras']}, TensorFlow "
        f"{versions['tensorflow']}). Random weights, BatchNorm and biases randomised around the "
        f"statistics of random images, {CLASSES} classes, smallest allowed input. A random third "
        "of the removable channels of every group is removed.",
        "",
        f"**{passed} of {len(SMALLEST_FIRST)}** pass: slim == cut, empty plan == identity "
        "(outputs, names, signature), `.keras` saved and reopened by plain Keras, float `.tflite` "
        f"against Keras, each below {TOLERANCE:g} of the scale of the logits.",
        "",
        "- *locked*: share of all channels that must stay, with the reason; input and output are "
        "the image's channels and the classes.",
        "- *floor*: smallest reachable share of the original, one channel per group, classifier "
        "head with all its classes included.",
        "- *seconds*: processor time (all threads, so load from other programs does not count) of "
        "tracing, planning and surgery; in brackets what Keras needs on top to build the new "
        "model.",
        "",
        "| model | input | parameters | groups | locked | floor MACs | floor params | slim == cut "
        "| identity | reopened | `.tflite` | seconds | peak GB |",
        "|---|--:|--:|--:|---|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for name in order:
        row = rows[name]
        if "failure" in row:
            lines.append(f"| {name} | | | | **failed**: {row['failure']} |" + " |" * 8)
            continue
        locked = ", ".join(f"{share:.1%} {kind}" for kind, share in row["locked"].items())
        seconds = row["trace_seconds"] + row["plan_seconds"] + row["surgery_seconds"]
        lines.append(
            f"| {name} | {row['input']} | {row['params']:,} | {row['groups']} | {locked} "
            f"| {row['floor_macs']:.2%} | {row['floor_params']:.2%} | {row['error']:.1e} "
            f"| {row['identity_error']:.1e} | {row['reopened_error']:.1e} "
            f"| {row.get('tflite_error', float('nan')):.1e} "
            f"| {seconds:.2f} (+{row['keras_seconds']:.1f}) | {row['peak_gigabytes']:.1f} |"
        )
    missing = [name for name in SMALLEST_FIRST if name not in rows]
    if missing:
        lines += ["", f"Not run yet: {', '.join(missing)}."]
    high = [rows[n] for n in order if rows[n].get("floor_params", 0) > 0.05]
    if high:
        lines += ["", "What holds up the floor of parameters where it is above 5 %:", ""]
        lines += [f"- {row['model']}: {', '.join(row['holding'])}" for row in high]
    TABLE.write_text("\n".join(lines) + "\n")


def main(names: list[str]) -> int:
    """Measure what is missing (or the models named), each in its own process."""
    rows = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for name in names or [n for n in SMALLEST_FIRST if not rows.get(n, {}).get("passed")]:
        print(name, end=" ", flush=True)
        run = subprocess.run(
            [sys.executable, __file__, "--one", name], capture_output=True, text=True, check=False
        )
        answer = run.stdout.strip().splitlines()[-1:] or [""]
        try:
            rows[name] = json.loads(answer[0])
        except json.JSONDecodeError:
            lines = run.stderr.strip().splitlines() or [f"exit code {run.returncode}"]
            rows[name] = {"model": name, "failure": lines[-1][:200]}
        RESULTS.write_text(json.dumps(rows, indent=1, sort_keys=True) + "\n")
        write_table(rows)
        print(rows[name].get("failure") or ("passed" if rows[name]["passed"] else "FAILED"))
    return 0 if all(rows.get(name, {}).get("passed") for name in SMALLEST_FIRST) else 1


if __name__ == "__main__":
    sys.path.insert(0, str(FOLDER.parent))
    if sys.argv[1:2] == ["--one"]:
        print(json.dumps(examine(sys.argv[2])))
    else:
        sys.exit(main(sys.argv[1:]))
