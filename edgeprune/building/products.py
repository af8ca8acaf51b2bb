"""What a build writes: models in two formats, their test and measurement, and the report."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeprune.benchmarking import BenchResult
from edgeprune.boards import Target
from edgeprune.building.export_format import Format
from edgeprune.building.material import Material
from edgeprune.building.places import Place
from edgeprune.report import Change, Outcome
from edgeprune.report.tables import count_threads
from edgeprune.support.progress import Progress
from edgeprune.support.resources import find_folder
from edgeprune.tflite import Conversion, Quantization, convert_in_detail
from edgeprune.tflite.edgetpu import compile_model, examine, is_edgetpu

if TYPE_CHECKING:
    import keras

    from edgeprune.pruning.pruning import Pruned

MEASUREMENT = "measurement.json"
PROGRAM = "classify.py"
OPTIONAL_FILES = {MEASUREMENT, "model_edgetpu.tflite"}
BENCH_SECONDS = 3.0
CALIBRATION_SAMPLES = 200


class Products:
    """The files of one build, made in a workspace that is moved into place when all is well."""

    def __init__(
        self,
        workspace: Path,
        material: Material,
        form: Format,
        quantization: Quantization,
        progress: Progress,
    ) -> None:
        """Remember where and how to write.

        Args:
            workspace: an empty folder.
            material: samples and class names.
            form: number format, and what goes in and out.
            quantization: how integers are chosen.
            progress: told about stages.
        """
        self.quantization = quantization
        self.workspace = workspace
        self.material = material
        self.form = form
        self.scheme = form.scheme
        self.progress = progress
        self._scratch = workspace / ".scratch"
        self._scratch.mkdir()

    @property
    def model(self) -> Path:
        """The `.tflite` that is delivered."""
        return self.workspace / "model.tflite"

    def write(self, pruned: Pruned, origin: Mapping[str, Any]) -> Conversion:
        """Write the new model as `.keras` and as `.tflite`, its labels, its plan and its program.

        Args:
            pruned: the new model.
            origin: how it was made; travels inside the `.tflite`.

        Returns:
            What was written, and what it lost.
        """
        names = self.material.names
        made = self._convert(pruned.model, self.scheme, self.model, names, origin)
        made.model.save(self.workspace / "model.keras")
        shutil.copyfile(find_folder("devices") / PROGRAM, self.workspace / PROGRAM)
        labels = "".join(f"{name}\n" for name in names)
        (self.workspace / "labels.txt").write_text(labels, encoding="utf-8")
        (self.workspace / "plan.json").write_text(pruned.plan.to_json(), encoding="utf-8")
        return made

    def write_originals(self, original: keras.Model, *, in_float: bool) -> None:
        """Write the original for comparison, in the same number format.

        Args:
            original: the model before pruning.
            in_float: in float32 as well.
        """
        names = self.material.dataset.classes
        self._convert(original, self.scheme.removesuffix("-qat"), self.before, names)
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
        self,
        model: keras.Model,
        scheme: str,
        path: Path,
        labels: tuple[str, ...],
        origin: Mapping[str, Any] | None = None,
    ) -> Conversion:
        samples = self.material.calibration
        count = None if scheme == "int8-qat" else CALIBRATION_SAMPLES
        which = "" if path == self.model else "original "
        with self.progress.stage(f"converting {which}to {scheme}"):
            made = convert_in_detail(
                model,
                scheme=scheme,
                calibration=samples.inputs[:count],
                targets=self._targets(samples.targets[:count], path),
                quantization=self.quantization if path == self.model else Quantization(),
                labels=labels,
                io=self.form.io if scheme.startswith("int8") else "float32",
                input=self.form.input,
                preprocess=self.material.preprocess,
                provenance=origin,
            )
        path.write_bytes(made.content)
        return made

    def _targets(self, targets: np.ndarray, path: Path) -> np.ndarray:
        """Return the classes as numbers of the outputs, which are fewer after pruning."""
        classes = self.material.classes
        if path != self.model or classes is None:
            return targets
        return np.array([classes.index(target) for target in targets.tolist()])

    def compile(self, board: Target, delivered: Path) -> dict[str, Any] | None:
        """Compile the `.tflite` where the target is an Edge TPU; `None` for other targets.

        Args:
            board: the target.
            delivered: folder in which the files will be, for the command to run by hand.
        """
        if not is_edgetpu(board.delegate):
            return None
        with self.progress.stage("compiling for the Edge TPU"):
            compilation = compile_model(self.model, self.workspace, delivered=delivered)
        fitness = examine(self.model.read_bytes())
        return {"compilation": compilation.to_dict(), "expected": fitness.to_dict()}

    def measure(self, place: Place) -> BenchResult:
        """Measure latency before and after, interleaved in one run."""
        models = {"after": self.model, "before": self.before, "before_float32": self.before_float}
        if self.before_float == self.before:
            del models["before_float32"]
        result = place.measure(models, BENCH_SECONDS, self.progress)
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
