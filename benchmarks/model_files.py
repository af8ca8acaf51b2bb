"""The real model files of others, opened, pruned and converted: writes `model_files.md`.

    python benchmarks/model_files.py                 # all fourteen
    python benchmarks/model_files.py wakeword.h5 ... # these, again

They lie in `../shared/data` beside the checkout and are not ours to copy. Each file is read in a
process of its own. The oracle of opening is what tf_keras computes from the same file, of pruning
the full model with the same channels silenced, of converting the Keras model.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from edgeprune.pruning.pruning_settings import Pruning

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

FOLDER = Path(__file__).resolve().parent
DATA = FOLDER.parent.parent / "shared" / "data"
RESULTS = FOLDER / "model_files.json"
TABLE = FOLDER / "model_files.md"
SAMPLES = 48
BUDGET = "macs=50%"
FILES = (
    "mlperf_tiny/dscnn_kws.h5 mlperf_tiny/mobilenetv1_025_vww.h5 mlperf_tiny/resnet8_cifar10.h5 "
    "mlperf_tiny/wakeword.h5 legacy_models/mini_xception_gender.hdf5 "
    "legacy_models/mini_xception_emotion.hdf5 legacy_models/big_xception_emotion.hdf5 "
    "legacy_models/ssrnet_mobilenet05.json legacy_models/ssrnet_densenet19.json "
    "legacy_models/mobilenet_v1_025_imagenet.h5 legacy_models/teachable_machine.h5 "
    "legacy_models/yamnet256_esc10.h5"
).split()
WITH_CODE = "legacy_models/ssrnet_lambda.json legacy_models/slimnet_lambda.h5".split()


def weights_of(path: Path) -> Path | None:
    """Return the file of weights beside an architecture in JSON."""
    return path.with_suffix(".h5") if path.suffix == ".json" else None


def examine(name: str, data: Path = DATA) -> dict[str, Any]:
    """Open a file, prune it to half its MACs and convert it, with the errors of each step."""
    import numpy as np

    from edgeprune.errors import BudgetError
    from edgeprune.loading import load_model
    from edgeprune.pruning.one_shot import prune
    from edgeprune.tflite import convert
    from edgeprune.tflite.runtime import TFLiteModel

    path = data / name
    began = time.process_time()
    model = load_model(path, weights=weights_of(path))
    generator = np.random.default_rng(0)
    shapes = [[size or 96 for size in tensor.shape[1:]] for tensor in model.inputs]
    inputs = [generator.uniform(0, 1, (SAMPLES, *shape)).astype(np.float32) for shape in shapes]
    row: dict[str, Any] = {"file": name, "params": model.count_params()}
    row["open_error"] = relative(answer(open_with_tf_keras(path), inputs), answer(model, inputs))
    try:
        pruned = prune(
            model,
            inputs[0],
            budget=BUDGET,
            pruning=Pruning(recovery="least_squares", recalibration="off"),
        )
    except BudgetError as reason:
        return row | {"reason": str(reason)}
    row["macs"] = pruned.before.macs
    row["kept_macs"] = pruned.after.macs / pruned.before.macs
    row["kept_params"] = pruned.after.params / pruned.before.params
    row["equivalence"] = pruned.equivalence.relative
    few = [values[:4] for values in inputs]
    expected = answer(pruned.model, few)
    content = convert(pruned.model, scheme="float32")
    found = TFLiteModel(content).predict(few[0])
    row["tflite_error"] = relative(
        expected, list(found.values()) if isinstance(found, dict) else [found]
    )
    row["float_bytes"] = len(content)
    row["int8_bytes"] = len(convert(pruned.model, scheme="int8", calibration=inputs[0]))
    row["cpu_seconds"] = time.process_time() - began
    return row


def refuse(name: str, data: Path = DATA) -> dict[str, Any]:
    """Try to open a file that holds code; return what is said about it."""
    from edgeprune.errors import ModelError
    from edgeprune.loading import load_model

    path = data / name
    try:
        load_model(path, weights=weights_of(path))
    except ModelError as reason:
        return {"file": name, "refusal": str(reason)}
    raise AssertionError(f"'{name}' was opened, though it holds code.")


def open_with_tf_keras(path: Path) -> Any:
    """Open a file as its author did."""
    import tf_keras

    if path.suffix != ".json":
        return tf_keras.models.load_model(path, compile=False)
    model = tf_keras.models.model_from_json(path.read_text())
    model.load_weights(weights_of(path))
    return model


def answer(model: Any, inputs: list[Any]) -> list[Any]:
    """Return all outputs of a model as arrays."""
    import numpy as np

    outputs = model.predict(inputs if len(inputs) > 1 else inputs[0], verbose=0, batch_size=16)
    return [np.asarray(one) for one in (outputs if isinstance(outputs, list) else [outputs])]


def relative(expected: list[Any], found: list[Any]) -> float:
    """Return the largest difference as a fraction of the largest expected value."""
    import numpy as np

    pairs = zip(expected, found, strict=True)
    return max(float(np.abs(a - b).max() / np.abs(a).max()) for a, b in pairs)


def write_table(rows: dict[str, dict[str, Any]]) -> None:
    """Write the table of all rows there are."""
    import importlib.metadata

    versions = [f"{name} {importlib.metadata.version(name)}" for name in ("keras", "tf_keras")]
    lines = [
        "# Model files of others: opened, pruned to half, converted",
        "",
        f"Written by `make model-files-table` ({', '.join(versions)}) from {len(rows)} of "
        f"{len(FILES) + len(WITH_CODE)} files. Inputs are random numbers: this table is about "
        "exactness; accuracies are elsewhere. Errors are the largest difference as a fraction of "
        "the largest value.",
        "",
        "- *opened*: outputs against those that tf_keras computes from the same file.",
        f"- *slim == cut*: after pruning to {BUDGET}, against the full model with the removed "
        "channels silenced.",
        "- *`.tflite`*: the float file against the pruned Keras model; then the sizes in bytes.",
        "",
        "| file | parameters | opened | MACs kept | parameters kept | slim == cut | `.tflite` "
        "| float32 | int8 | CPU s |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for name in [name for name in FILES if name in rows]:
        row = rows[name]
        start = f"| {Path(name).name} |"
        if "failure" in row:
            lines.append(f"{start} **failed**: {row['failure']} |" + " |" * 8)
            continue
        start += f" {row['params']:,} | {row['open_error']:.1e} |"
        if "reason" in row:
            lines.append(f"{start} not pruned: {row['reason']} |" + " |" * 6)
            continue
        lines.append(
            f"{start} {row['kept_macs']:.1%} of {row['macs']:,} | {row['kept_params']:.1%} "
            f"| {row['equivalence']:.1e} | {row['tflite_error']:.1e} | {row['float_bytes']:,} "
            f"| {row['int8_bytes']:,} | {row['cpu_seconds']:.0f} |"
        )
    lines += ["", "Refused, with nothing in them executed:", ""]
    for name in [name for name in WITH_CODE if name in rows]:
        row = rows[name]
        lines.append(f"- {Path(name).name}: {row.get('refusal') or row.get('failure')}")
    TABLE.write_text("\n".join(lines) + "\n")


def main(names: list[str]) -> int:
    """Examine the files named, or all, each in its own process."""
    rows = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    every = [*FILES, *WITH_CODE]
    wanted = [name for name in every if not names or Path(name).name in names]
    for name in wanted:
        print(name, end=" ", flush=True)
        command = [sys.executable, __file__, "--one", name]
        run = subprocess.run(command, capture_output=True, text=True, check=False)
        try:
            rows[name] = json.loads((run.stdout.strip().splitlines()[-1:] or [""])[0])
        except json.JSONDecodeError:
            lines = run.stderr.strip().splitlines() or [f"exit code {run.returncode}"]
            rows[name] = {"file": name, "failure": lines[-1][:300]}
        RESULTS.write_text(json.dumps(rows, indent=1, sort_keys=True) + "\n")
        write_table(rows)
        print(rows[name].get("failure", "done"))
    return int(any("failure" in rows.get(name, {"failure": ""}) for name in every))


if __name__ == "__main__":
    sys.path.insert(0, str(FOLDER.parent))
    if sys.argv[1:2] == ["--one"]:
        chosen = sys.argv[2]
        print(json.dumps(refuse(chosen) if chosen in WITH_CODE else examine(chosen)))
    else:
        sys.exit(main(sys.argv[1:]))
