from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgeprune.benchmarking.measurements import BenchResult, MeasuredModel
from edgeprune.boards import find_target
from edgeprune.calibration import calibrate
from edgeprune.calibration.fits import choose_step, fit_predictor
from edgeprune.calibration.micro_models import WIDTHS, list_micro_models
from edgeprune.calibration.networks import NetworkWriter
from edgeprune.errors import BenchmarkError, EdgepruneError
from edgeprune.latency import (
    Kernels,
    Predictor,
    Workload,
    parse_operators,
    read_operators,
    read_predictor,
)
from edgeprune.tflite.runtime import TFLiteModel

TRUE = Predictor(
    "machine",
    "int8",
    np.array([0.005, 0.04, 0.5, 0.06, 0.06, 0.07, 0.05, 0.001]),
    Kernels(4, 16, 4, 2**21, unrolls=False, competing=True, call_weight=4.0),
    rates={"HARD_SWISH": 1.5, "MEAN": 0.2},
)
MODELS = list_micro_models()
FEW = (*MODELS[:40:4], *(model for model in MODELS if model.kind == "width"))


class Machine:
    """A machine whose latencies are those of a known cost model."""

    def __init__(self, *, on_target: bool = True, fails_after: int = 10**6, name="PC") -> None:
        self.on_target, self.fails_after, self.name = on_target, fails_after, name
        self.measured: list[str] = []

    def measure(self, models: Mapping[str, Path]) -> BenchResult:
        if len(self.measured) >= self.fails_after:
            raise KeyboardInterrupt
        self.measured += models
        return BenchResult(tuple(self._measure(*item) for item in models.items()), {})

    def _measure(self, model: str, path: Path) -> MeasuredModel:
        latency = TRUE.latency(read_operators(path)).value
        return MeasuredModel(
            model=model, kind="measured", machine=self.name, target="x86-64",
            on_target=self.on_target, runtime="a runtime 1.0", threads=2, count=10,
            **dict.fromkeys(("min_ms", "p50_ms", "p90_ms", "p99_ms", "mean_ms"), latency),
            load_ms=1, first_ms=1, memory_peak_bytes=1, memory_model_bytes=1, size_bytes=1,
            sha256="", steady=True, samples_ms=(),
        )  # fmt: skip


@pytest.fixture
def own_targets(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    return tmp_path / "edgeprune" / "targets"


@pytest.mark.parametrize("scheme", ["int8", "float32"])
@pytest.mark.parametrize("model", MODELS[::9], ids=lambda model: model.name)
def test_a_micro_model_runs_and_gives_numbers(tmp_path, model, scheme) -> None:
    path = tmp_path / "micro.tflite"
    path.write_bytes(model.write(scheme))
    outputs = TFLiteModel(path).predict(np.ones((1, *model.shape), "float32"))
    assert np.isfinite(outputs.astype(float)).all()


def test_a_written_convolution_is_a_convolution(tmp_path) -> None:
    network = NetworkWriter((5, 5, 2), "float32", seed=3)
    path = tmp_path / "one.tflite"
    path.write_bytes(network.finish(network.convolve(network.input, 3, kernel=3)))
    inputs = np.random.default_rng(0).random((1, 5, 5, 2), dtype="float32")
    weights = np.random.default_rng(3).normal(0, 0.1, (3, 3, 3, 2)).astype("float32")
    padded = np.pad(inputs[0], ((1, 1), (1, 1), (0, 0)))
    expected = [
        [np.einsum("ijc,oijc->o", padded[y : y + 3, x : x + 3], weights) for x in range(5)]
        for y in range(5)
    ]
    outputs = TFLiteModel(path).predict(inputs)
    np.testing.assert_allclose(outputs[0], np.clip(expected, 0, 6), atol=1e-5)


def test_calibration_finds_the_cost_model_of_the_machine(own_targets) -> None:
    found = calibrate("x86-64", schemes=["int8"], measure=Machine().measure)
    predictor = read_predictor("x86-64", find_target("x86-64").prediction, "int8")
    assert found.path == own_targets / "x86-64.toml"
    assert predictor.threads == 2 and "micro-models on PC, a runtime 1.0" in predictor.source
    assert predictor.kernels.columns == 16 and predictor.channel_step == 16
    for model in MODELS:
        work = Workload.of(parse_operators(model.write("int8")))
        truth = float(TRUE.milliseconds(work))
        assert float(predictor.milliseconds(work)) == pytest.approx(truth, rel=0.01)


def test_the_user_target_keeps_what_the_shipped_one_says(own_targets) -> None:
    before = find_target("x86-64")
    calibrate("x86-64", schemes=["int8"], models=FEW, measure=Machine().measure)
    after = find_target("x86-64")
    assert after.file == str(own_targets / "x86-64.toml")
    assert (after.description, after.scheme) == (before.description, before.scheme)
    again = calibrate("x86-64", schemes=["int8"], models=FEW, measure=Machine().measure)
    assert again.target == after  # its tables are replaced, not written twice


def test_a_stopped_calibration_goes_on_where_it_was(own_targets) -> None:
    first = Machine(fails_after=16)
    with pytest.raises(KeyboardInterrupt):
        calibrate("x86-64", schemes=["int8"], models=FEW, measure=first.measure)
    assert not (own_targets / "x86-64.toml").exists()
    second = Machine()
    calibrate("x86-64", schemes=["int8"], models=FEW, measure=second.measure)
    assert Counter(first.measured + second.measured) == {model.name: 2 for model in FEW}
    assert [path.name for path in own_targets.iterdir()] == ["x86-64.toml"]


def test_of_two_measurements_the_faster_counts(own_targets) -> None:
    machine = Machine()

    def measure(models: Mapping[str, Path]) -> BenchResult:
        busy = machine.measured.count(next(iter(models))) == 0
        found = machine.measure(models)
        factor = 1.7 if busy else 1.0
        slowed = (replace(one, p50_ms=factor * one.p50_ms) for one in found.measurements)
        return BenchResult(tuple(slowed), {})

    found = calibrate("x86-64", schemes=["int8"], models=FEW, measure=measure)
    quiet = calibrate("x86-64", schemes=["int8"], models=FEW, measure=Machine().measure)
    np.testing.assert_allclose(found.predictors[0].coefficients, quiet.predictors[0].coefficients)


def test_records_of_another_machine_are_not_mixed_in(own_targets) -> None:
    with pytest.raises(KeyboardInterrupt):
        calibrate("x86-64", schemes=["int8"], models=FEW, measure=Machine(fails_after=8).measure)
    laptop = Machine(name="laptop")
    with pytest.warns(UserWarning, match=r"calibration of PC, .*starting anew"):
        found = calibrate("x86-64", schemes=["int8"], models=FEW, measure=laptop.measure)
    assert Counter(laptop.measured) == {model.name: 2 for model in FEW}
    assert found.machine.startswith("laptop")


def test_records_of_other_micro_models_are_not_mixed_in(own_targets) -> None:
    other = [replace(FEW[0], shape=(10, 10, FEW[0].shape[-1])), *FEW[1:]]
    with pytest.raises(KeyboardInterrupt):
        calibrate("x86-64", schemes=["int8"], models=other, measure=Machine(fails_after=8).measure)
    machine = Machine()
    with pytest.warns(UserWarning, match="starting anew"):
        calibrate("x86-64", schemes=["int8"], models=FEW, measure=machine.measure)
    assert Counter(machine.measured) == {model.name: 2 for model in FEW}


def test_a_machine_that_is_not_the_target_is_refused(own_targets) -> None:
    machine = Machine(on_target=False)
    with pytest.raises(BenchmarkError, match="PC is not x86-64, so nothing was written"):
        calibrate("x86-64", schemes=["int8"], models=FEW, measure=machine.measure)
    assert not own_targets.exists() or not list(own_targets.iterdir())


def test_the_file_to_write_must_be_a_target_file() -> None:
    with pytest.raises(EdgepruneError, match=r"ends in \.toml. Got 'out.json'"):
        calibrate("x86-64", out="out.json")


def test_a_model_that_was_not_measured_is_an_error() -> None:
    with pytest.raises(BenchmarkError, match="Not measured in int8: residual network"):
        fit_predictor("x", "int8", FEW, {}, threads=1, source="")


@pytest.mark.parametrize("tile", [4, 8, 16])
def test_the_channel_step_is_the_tile_of_the_kernels(tile) -> None:
    medians = {f"width {width}": (-(-width // tile) * tile) ** 2.0 for width in WIDTHS}
    assert choose_step(medians) == tile
