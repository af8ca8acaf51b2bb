"""What a build writes: models in two formats, their test and measurement, and the report."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgeprune.benchmarking import BenchResult, Target, bench
from edgeprune.building.material import Material
from edgeprune.conversion import convert
from edgeprune.progress import Progress
from edgeprune.report import Change, Outcome
from edgeprune.report.tables import count_threads
from edgeprune.runtime import TFLiteModel

if TYPE_CHECKING:
    import keras

    from edgeprune.pruning import Pruned

MEASUREMENT = "measurement.json"
BENCH_SECONDS = 3.0
CALIBRATION_SAMPLES = 200


class Products:
    """The files of one build, made in a workspace that is moved into place when all is well."""

    def __init__(
        self, workspace: Path, material: Material, scheme: str, io: str, progress: Progress
    ) -> None:
        """Remember where and how to write.

        Args:
            workspace: an empty folder.
            material: samples and class names.
            scheme: number format.
            io: what goes in and out of an int8 model.
            progress: told about stages.
        """
        self.workspace = workspace
        self.material = material
        self.scheme = scheme
        self.io = io
        self.progress = progress
        self._scratch = workspace / ".scratch"
        self._scratch.mkdir()

    @property
    def model(self) -> Path:
        """The `.tflite` that is delivered."""
        return self.workspace / "model.tflite"

    def write(self, pruned: Pruned) -> None:
        """Write the new model as `.keras` and as `.tflite`, its labels and its plan."""
        names = self.material.names
        pruned.model.save(self.workspace / "model.keras")
        self._convert(pruned.model, self.scheme, self.model, names)
        labels = "".join(f"{name}\n" for name in names)
        (self.workspace / "labels.txt").write_text(labels, encoding="utf-8")
        (self.workspace / "plan.json").write_text(pruned.plan.to_json(), encoding="utf-8")

    def write_originals(self, original: keras.Model, *, in_float: bool) -> None:
        """Write the original for comparison, in the same number format.

        Args:
            original: the model before pruning.
            in_float: in float32 as well.
        """
        names = self.material.dataset.classes
        self._convert(original, self.scheme, self.before, names)
        if in_float and self.before_float != self.before:
            self._convert(original, "float32", self.before_float, names)

    @property
    def before(self) -> Path:
        """The original in the number format of the delivered model."""
        return self._scratch / "before.tflite"

    @property
    def before_float(self) -> Path:
        """The original in float32."""
        return self._scratch / "before_float32.tflite" if self.scheme != "float32" else self.before

    def _convert(
        self, model: keras.Model, scheme: str, path: Path, labels: tuple[str, ...]
    ) -> None:
        which = "" if path == self.model else "original "
        with self.progress.stage(f"converting {which}to {scheme}"):
            content = convert(
                model,
                scheme=scheme,
                calibration=self.material.calibration.inputs[:CALIBRATION_SAMPLES],
                labels=labels,
                io=self.io if scheme == "int8" else "float32",
            )
        path.write_bytes(content)

    def test(self, recovered: np.ndarray, threads: int) -> tuple[float, float]:
        """Run the `.tflite` on the test samples.

        Args:
            recovered: outputs of the Keras model on the test samples.
            threads: of the runtime.

        Returns:
            Accuracy, and the share of samples on which it answers as the Keras model does.
        """
        from edgeprune.verification import measure_accuracy

        inputs = self.material.test.inputs
        runner = TFLiteModel(self.model, threads=threads)
        outputs = runner.predict(inputs, progress=self.progress)
        accuracy = measure_accuracy(outputs, self.material.test.targets, self.material.classes)
        return accuracy, float((outputs.argmax(-1) == recovered.argmax(-1)).mean())

    def measure(self, board: Target, threads: int | None) -> BenchResult:
        """Measure latency before and after, interleaved in one run on this machine."""
        models = {"after": self.model, "before": self.before, "before_float32": self.before_float}
        if self.before_float == self.before:
            del models["before_float32"]
        result = bench(
            models, target=board, threads=threads, seconds=BENCH_SECONDS, progress=self.progress
        )
        text = json.dumps(result.to_dict(), indent=1)
        (self.workspace / MEASUREMENT).write_text(text, encoding="utf-8")
        return result

    def size(self) -> Change:
        """Count the bytes of the `.tflite` before and after."""
        return Change(self.before.stat().st_size, self.model.stat().st_size)

    def finish(self, outcome: Outcome) -> Outcome:
        """Write the report, which names all files, and clear away what is not delivered."""
        for path in self._scratch.iterdir():
            path.unlink()
        self._scratch.rmdir()
        names = {path.name for path in self.workspace.iterdir()} | {"report.json"}
        complete = replace(outcome, files=tuple(sorted(names)))
        (self.workspace / "report.json").write_text(complete.to_json(), encoding="utf-8")
        return complete


def latency(measured: BenchResult | None) -> tuple[Change | None, str | None]:
    """Return the medians before and after, and where they were measured."""
    if measured is None:
        return None, None
    before, after = measured["before"], measured["after"]
    where = f"{after.where}, {after.runtime}, {count_threads(after.threads)}"
    return Change(before.p50_ms, after.p50_ms), where
