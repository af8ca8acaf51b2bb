"""The files of a build: models in the delivered format, what travels with them, the report."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeprune.benchmarking import BenchResult, Measurement, SshTransport, bench
from edgeprune.boards import Target
from edgeprune.building.splits import DataSplits
from edgeprune.errors import BenchmarkError
from edgeprune.report import Change, Outcome
from edgeprune.report.tables import count_threads
from edgeprune.support.files import remove_dates
from edgeprune.support.progress import stage
from edgeprune.support.resources import find_folder
from edgeprune.tflite import Conversion, Convertible, Quantization, convert_in_detail
from edgeprune.tflite.edgetpu import compile_model, examine, find_compiler, is_edgetpu
from edgeprune.tflite.export_settings import Export

if TYPE_CHECKING:
    import keras

    from edgeprune.pruning.one_shot import Pruned

MODEL = "model.tflite"
MEASUREMENT = "measurement.json"
PROGRAM = "classify.py"
LABELS = "labels.txt"
COMPILED = "model_edgetpu.tflite"
OPTIONAL_FILES = {MEASUREMENT, LABELS, COMPILED}
CALIBRATION_SAMPLES = 200
ORIGIN_VERSION = 1


@dataclass(frozen=True, eq=False)
class Exporter:
    """Converts models of one build, all in the same way.

    Attributes:
        original: of which several files are made.
        splits: samples for ranges and training, and class names.
        export: number format, and what goes in and out.
        settings: what was asked for; travels inside the delivered file.
    """

    original: Convertible
    splits: DataSplits
    export: Export
    settings: Mapping[str, Any]

    @property
    def scheme(self) -> str:
        """The number format, which is settled by now."""
        return self.export.scheme or "int8"

    def export_pruned(self, pruned: Pruned, *, trial: bool = False) -> Conversion:
        """Convert a pruned model as it is delivered.

        Args:
            pruned: the model, and how it was made.
            trial: to be measured only: int8 in place of int8-qat, which has the same operators.

        Raises:
            ConversionError: it cannot be converted.
        """
        scheme = self.scheme.removesuffix("-qat") if trial else self.scheme
        origin = self._describe_origin(pruned)
        return self._convert(self._accept(pruned.model), scheme, self.splits.classes, origin)

    @cached_property
    def _accept(self) -> Callable[[keras.Model], Convertible]:
        """Return a pruned model to be converted; the same for the same one again."""
        return lru_cache(maxsize=1)(Convertible)

    def export_original(self, scheme: str | None = None) -> Conversion:
        """Convert the original in the format of the delivered model, or in another.

        Args:
            scheme: number format; by default the delivered model's, untrained.
        """
        return self._convert(self.original, scheme or self.scheme.removesuffix("-qat"), None, None)

    def _convert(
        self,
        model: Convertible,
        scheme: str,
        classes: tuple[int, ...] | None,
        origin: Mapping[str, Any] | None,
    ) -> Conversion:
        samples, which = self.splits.calibration, "original " if origin is None else ""
        count = None if scheme == "int8-qat" else CALIBRATION_SAMPLES
        targets = samples.targets[:count] if self.splits.dataset.labelled else None
        if targets is not None and classes is not None:  # in the numbers of the fewer outputs
            targets = np.array([classes.index(target) for target in targets.tolist()])
        names = self.splits.original_names if origin is None else self.splits.names
        io, input = self.export.types(scheme)
        with stage(f"converting {which}to {scheme}"):
            return convert_in_detail(
                model,
                scheme=scheme,
                calibration=samples.inputs[:count],
                targets=targets,
                quantization=Quantization() if origin is None else self.export.quantization,
                labels=names or None,
                io=io,
                input=input,
                preprocess=self.splits.preprocess,
                provenance=origin,
            )

    def _describe_origin(self, pruned: Pruned) -> dict[str, Any]:
        """Return what the file says about how it was made, as JSON types."""
        plan = pruned.plan
        return {
            "version": ORIGIN_VERSION,
            "model_fingerprint": plan.fingerprint,
            "plan_sha256": hashlib.sha256(plan.to_json().encode()).hexdigest(),
            "classes": {
                "names": list(self.splits.names),
                "outputs_of_the_original": list(self.splits.outputs),
                "of": len(self.splits.original_names),
            },
            **self.settings,
        }


@dataclass(frozen=True)
class Bench:
    """A machine to measure on.

    Attributes:
        target: gives the number of threads.
        measurement: where, and with how many threads in place of the target's.
    """

    target: Target
    measurement: Measurement

    def measure(
        self, models: Mapping[str, Path], seconds: float, on_cpu: Collection[str] = ()
    ) -> BenchResult:
        """Measure named `.tflite` files, interleaved in one run.

        For an Edge TPU they are compiled first, where its compiler is. Where nobody asked for a
        place and this machine has no Edge TPU, its CPU is measured.

        Args:
            models: paths by name.
            seconds: of timed inferences per model.
            on_cpu: names of those that run on the CPU in any case.

        Raises:
            BenchmarkError: the measurement failed, or the compiler does not take a model.
        """
        if not is_edgetpu(self.target.delegate) or find_compiler() is None:
            return self._bench(models, seconds)
        with tempfile.TemporaryDirectory() as folder:
            compiled = {
                name: path if name in on_cpu else _compile(path, Path(folder, name))
                for name, path in models.items()
            }
            try:
                return self._bench(compiled, seconds)
            except BenchmarkError:
                if self.measurement.host is not None or self.measurement.until_met:
                    raise
        return self._bench(models, seconds)

    def _bench(self, models: Mapping[str, Path], seconds: float) -> BenchResult:
        host = self.measurement.host
        return bench(
            models,
            target=self.target,
            threads=self.measurement.threads,
            seconds=seconds,
            transport=None if host is None else SshTransport(host, self.target.architecture),
        )


def _compile(model: Path, folder: Path) -> Path:
    folder.mkdir()
    made = compile_model(model, folder)
    if made.file is None:
        raise BenchmarkError(f"The Edge TPU's compiler does not take '{model}': {made.failure}.")
    return folder / made.file


class Artifacts:
    """The files of one build, made in a workspace that is moved into place when all is well."""

    def __init__(self, workspace: Path) -> None:
        """Remember where to write.

        Args:
            workspace: an empty folder.
        """
        self.workspace = workspace
        self.model = workspace / MODEL
        self.compiled = workspace / COMPILED
        scratch = workspace / ".scratch"
        scratch.mkdir()
        self.before = scratch / "before.tflite"
        self.before_float = scratch / "before_float32.tflite"

    def write(self, pruned: Pruned, made: Conversion, names: tuple[str, ...]) -> None:
        """Write the new model as `.keras` and as `.tflite`, its labels, its plan and its program.

        Args:
            pruned: the new model.
            made: converted.
            names: of its outputs, where they are classes.
        """
        self.model.write_bytes(made.content)
        made.model.save(self.workspace / "model.keras")
        remove_dates(self.workspace / "model.keras")
        shutil.copyfile(find_folder("devices") / PROGRAM, self.workspace / PROGRAM)
        if names:
            labels = "".join(f"{name}\n" for name in names)
            (self.workspace / LABELS).write_text(labels, encoding="utf-8")
        (self.workspace / "plan.json").write_text(pruned.plan.to_json(), encoding="utf-8")

    def write_originals(self, original: bytes, in_float: bytes | None) -> None:
        """Write the original for comparison, also in floats where that is given."""
        self.before.write_bytes(original)
        if in_float is not None:
            self.before_float.write_bytes(in_float)

    def compile(self, target: Target, delivered: Path) -> dict[str, Any] | None:
        """Compile the `.tflite` where the target is an Edge TPU; `None` for other targets.

        Args:
            target: the target.
            delivered: folder in which the files will be, for the command to run by hand.
        """
        if not is_edgetpu(target.delegate):
            return None
        with stage("compiling for the Edge TPU"):
            compilation = compile_model(self.model, self.workspace, delivered=delivered)
        expected = examine(self.model.read_bytes())
        return {"compilation": compilation.to_dict(), "expected": expected.to_dict()}

    def measure(self, place: Bench, seconds: float) -> BenchResult:
        """Measure latency before and after, interleaved in one run."""
        models, on_cpu = {"after": self.model, "before": self.before}, {}
        if self.before_float.exists():
            on_cpu["before_float32"] = self.before_float
        if self.compiled.exists():
            on_cpu["after_on_cpu"] = self.model
        result = place.measure(models | on_cpu, seconds, on_cpu)
        text = json.dumps(result.to_dict(), indent=1)
        (self.workspace / MEASUREMENT).write_text(text, encoding="utf-8")
        return result

    def finish(self, outcome: Outcome) -> Outcome:
        """Write the report, which names all files, and clear away what is not delivered."""
        shutil.rmtree(self.before.parent)
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
