"""Every scheme on MLPerf Tiny's models and ResNet-20, whole and pruned: writes `quantization.md`.

    python benchmarks/quantization.py                    # what is missing, then the table
    python benchmarks/quantization.py --only accuracy    # without timing
    python benchmarks/quantization.py --only latency     # timing again, in one interleaved run each

Each cell is a process of its own and a line of `build/quantization/cells.jsonl`; the models lie
beside it, so an interrupted run goes on where it stopped. Remove a line to make its cell again.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
FOLDER = Path(__file__).resolve().parent
sys.path[:0] = [str(FOLDER.parent), str(FOLDER)]

WORK = FOLDER.parent / "build" / "quantization"
CELLS = WORK / "cells.jsonl"
TABLE = FOLDER / "quantization.md"
SCHEMES = ("float32", "float16", "dynamic", "int8", "int16x8", "int8-qat")
SLOW = {"int16x8": 2000}
"""Samples of a scheme without fast kernels on this CPU."""
VARIANTS = ("original", "pruned")
BUDGET = "macs=50%"
EPOCHS = 5
SECONDS = 2.0


def make_cell(model: str, variant: str, scheme: str) -> dict[str, Any]:
    """Make one `.tflite` per part of the data and judge it; `reference` is MLPerf's own file."""
    import numpy as np
    from quantization_subjects import DATA, SUBJECTS

    from edgeprune.tflite import Quantization, convert_in_detail
    from edgeprune.tflite.qat import QuantizedTraining
    from edgeprune.tflite.runtime import TFLiteModel

    subject = SUBJECTS[model]
    hits: list[Any] = []
    row: dict[str, Any] = {"model": model, "variant": variant, "scheme": scheme}
    for number, part in enumerate(subject.parts()):
        if variant == "reference":
            path = DATA / subject.reference
        else:
            path = file_of(model, variant, scheme, number)
            keras_model = open_variant(subject, variant, number, part)
            samples = part.learn if scheme == "int8-qat" else part.calibrate
            made = convert_in_detail(
                keras_model,
                scheme=scheme,
                calibration=samples[0],
                targets=samples[1] if scheme == "int8-qat" else None,
                quantization=Quantization(training=QuantizedTraining(epochs=EPOCHS)),
            )
            path.write_bytes(made.content)
            row["ranges"] = made.ranges
            if made.layers:
                worst = max(made.layers, key=lambda layer: layer.rounding)
                row["worst_layer"] = [worst.layer, worst.rounding]
            if made.trained is not None:
                row["left"], row["losses"] = list(made.trained.left), list(made.trained.losses)
        inputs, targets = (array[: SLOW.get(scheme)] for array in part.judge)
        answers = TFLiteModel(path).predict(inputs)
        hits.append(answers.argmax(-1) == targets)
    together = np.concatenate(hits)
    row |= {"accuracy": float(together.mean()), "samples": len(together)}
    if scheme in SLOW and variant != "reference":
        row["float_accuracy"] = judge_float(model, variant, subject.parts(), SLOW[scheme])
    return row | {"bytes": path.stat().st_size}


def judge_float(model: str, variant: str, parts: Any, limit: int) -> float:
    """Return the accuracy of the float32 file on the first samples of each part."""
    import numpy as np

    from edgeprune.tflite.runtime import TFLiteModel

    hits = []
    for number, part in enumerate(parts):
        inputs, targets = (array[:limit] for array in part.judge)
        answers = TFLiteModel(file_of(model, variant, "float32", number)).predict(inputs)
        hits.append(answers.argmax(-1) == targets)
    return float(np.concatenate(hits).mean())


def open_variant(subject: Any, variant: str, number: int, part: Any) -> Any:
    """Open the model, pruned with the samples of this part; a pruned one is kept."""
    import keras
    from quantization_subjects import DATA

    from edgeprune.loading import load_model
    from edgeprune.pruning.one_shot import prune

    if variant == "original":
        return load_model(DATA / subject.file)
    path = WORK / f"{subject.name}-pruned-{number}.keras"
    if not path.exists():
        pruned = prune(load_model(DATA / subject.file), part.learn, budget=BUDGET)
        temporary = path.with_suffix(".part.keras")
        pruned.model.save(temporary)
        temporary.rename(path)
    return keras.models.load_model(path)


def file_of(model: str, variant: str, scheme: str, number: int = 0) -> Path:
    """Return where a `.tflite` is kept."""
    return WORK / f"{model}-{variant}-{scheme}-{number}.tflite"


def measure(model: str, variant: str) -> dict[str, Any]:
    """Time the files of all schemes, interleaved in one run, one thread."""
    from quantization_subjects import DATA, SUBJECTS

    from edgeprune.benchmarking import bench

    files = {
        scheme: file_of(model, variant, scheme)
        for scheme in SCHEMES
        if file_of(model, variant, scheme).exists()
    }
    reference = SUBJECTS[model].reference
    if reference and variant == "original":
        files["reference"] = DATA / reference
    result = bench(files, threads=1, seconds=SECONDS)
    return {
        "model": model,
        "variant": variant,
        "where": result["float32"].where,
        "runtime": result["float32"].runtime,
        "p50_ms": {name: result[name].p50_ms for name in files},
        "memory": {name: result[name].memory_model_bytes for name in files},
    }


def read_cells() -> dict[tuple[str, ...], dict[str, Any]]:
    """Return the finished cells by model, variant and scheme; `latency` is a scheme as well."""
    if not CELLS.exists():
        return {}
    rows = [json.loads(line) for line in CELLS.read_text().splitlines() if line.strip()]
    return {(row["model"], row["variant"], row.get("scheme", "latency")): row for row in rows}


def run_cell(key: tuple[str, ...]) -> None:
    """Make a cell in a process of its own and append its line."""
    print(*key, end=" ", flush=True)
    run = subprocess.run(
        [sys.executable, __file__, "--one", *key], capture_output=True, text=True, check=False
    )
    lines = run.stdout.strip().splitlines()
    if run.returncode != 0 or not lines:
        print("FAILED:", (run.stderr.strip().splitlines() or ["no output"])[-1])
        return
    with CELLS.open("a") as file:
        file.write(lines[-1] + "\n")
    row = json.loads(lines[-1])
    print(f"{row['accuracy']:.2%}" if "accuracy" in row else row["p50_ms"])


def main(arguments: list[str]) -> int:
    """Make what is missing, and write the table."""
    from quantization_subjects import SUBJECTS
    from quantization_tables import write_table

    WORK.mkdir(parents=True, exist_ok=True)
    only = arguments[1] if arguments[:1] == ["--only"] else ""
    wanted = [
        (name, variant, scheme)
        for scheme in ("float32", "int8", "int8-qat", "dynamic", "float16", "int16x8")
        for name in SUBJECTS
        for variant in VARIANTS
    ]
    wanted += [
        (name, "reference", "int8") for name, subject in SUBJECTS.items() if subject.reference
    ]
    timings = [(name, variant, "latency") for name in SUBJECTS for variant in VARIANTS]
    if only != "latency":
        for key in wanted:
            if key not in read_cells():
                run_cell(key)
                write_table(TABLE, read_cells())
    if only != "accuracy":
        for key in timings:
            if only == "latency" or key not in read_cells():
                run_cell(key)
    write_table(TABLE, read_cells())
    return 0 if all(key in read_cells() for key in wanted + timings) else 1


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        name, variant, scheme = sys.argv[2:]
        timed = scheme == "latency"
        print(json.dumps(measure(name, variant) if timed else make_cell(name, variant, scheme)))
    else:
        sys.exit(main(sys.argv[1:]))
