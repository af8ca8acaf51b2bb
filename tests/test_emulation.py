"""A Raspberry Pi without one: arm64 in QEMU, with the same answers, and nothing that keeps time."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import keras
import numpy as np
import pytest
import small_models

from edgeprune.benchmarking import bench
from edgeprune.boards import find_target
from edgeprune.emulation.counting import Count, CountResult, count_instructions, find_cpu, find_root
from edgeprune.errors import BenchmarkError
from edgeprune.tflite import convert

ROOT = Path(__file__).resolve().parent.parent
HARNESS = ROOT / "devices" / "harness"


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    model = small_models.classifier()
    paths = {"int8": folder / "int8.tflite", "float": folder / "float.tflite"}
    convert(model, calibration=small_models.samples(20), io="int8", path=paths["int8"])
    convert(model, scheme="float32", path=paths["float"])
    return paths


@pytest.fixture(scope="module")
def arm64() -> Path:
    """Made by devices/emulator/make_root.sh; CI makes it, a user's machine may lack it."""
    root = os.environ.get("EDGEPRUNE_ARM64_ROOT")
    try:
        return find_root(Path(root) if root else None)
    except BenchmarkError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def counted(models, arm64, tmp_path_factory) -> CountResult:
    batch = tmp_path_factory.mktemp("batch") / "batch.npz"
    samples = small_models.samples(10)
    np.savez(batch, inputs=samples, labels=np.arange(10) % 3)
    return count_instructions(models, target="rpi4", root=arm64, batch=batch)


def count_here(model: Path, batch: Path | None = None) -> dict:
    command = [sys.executable, "-I", str(HARNESS), "--count", str(model)]
    command += ["--batch", str(batch)] if batch else []
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)["models"][0]


def test_int8_answers_are_bit_identical_on_this_machine_and_on_the_emulated_board(
    models, counted
) -> None:
    assert counted["int8"].outputs_sha256 == count_here(models["int8"])["outputs_sha256"]


def test_a_count_has_instructions_and_no_place_for_time(counted) -> None:
    count = counted["int8"]
    assert (count.kind, count.cpu, count.target) == ("counted", "cortex-a72", "rpi4")
    assert count.runtime.startswith("ai-edge-litert ")
    if count.instructions is None:
        pytest.skip("no C compiler made the counting plugin")
    assert count.instructions == pytest.approx(sum(count.instructions_by_kind.values()))
    assert 10_000 < count.instructions < 100_000_000
    names = {field.name for field in fields(Count)} | set(vars(Count))
    assert not any("ms" in name.split("_") or "second" in name for name in names)
    with pytest.raises(AttributeError):
        count.p50_ms  # noqa: B018


def test_accuracy_on_a_batch_comes_along(counted) -> None:
    assert 0 <= counted["int8"].accuracy <= 1
    assert counted["int8"].batch_sha256 != counted["float"].batch_sha256


@pytest.mark.slow
def test_counts_repeat_to_a_ten_thousandth(arm64, tmp_path) -> None:
    image = keras.Input((64, 64, 3))
    features = keras.layers.Conv2D(16, 3, activation="relu")(image)
    model = keras.Model(image, keras.layers.Conv2D(16, 3)(features))
    convert(model, scheme="float32", path=tmp_path / "model.tflite")
    first, second = (
        count_instructions({"it": tmp_path / "model.tflite"}, target="rpi4", root=arm64)["it"]
        for _ in range(2)
    )
    if first.instructions is None:
        pytest.skip("no C compiler made the counting plugin")
    assert first.instructions == pytest.approx(second.instructions, rel=1e-4)


@pytest.mark.slow
def test_real_models_answer_alike_on_every_cpu_of_a_kind(arm64, shared_data) -> None:
    """A Cortex-A76 has dot products, a Cortex-A72 has none: other kernels, the same integers."""
    model = shared_data / "mlperf_tiny" / "resnet8_cifar10_int8.tflite"
    counts = [
        count_instructions({"resnet8": model}, target=target, root=arm64)["resnet8"]
        for target in ("rpi4", "rpi5")
    ]
    assert {count.outputs_sha256 for count in counts} == {count_here(model)["outputs_sha256"]}
    if counts[0].instructions is not None:
        assert counts[1].instructions < counts[0].instructions


def test_a_cpu_that_is_not_played_is_refused() -> None:
    assert find_cpu(find_target("rpi5")) == "cortex-a76"
    with pytest.raises(BenchmarkError) as caught:
        find_cpu(find_target("x86-64"))
    assert str(caught.value) == (
        "The CPU of 'x86-64' (any x86-64) cannot be emulated. There are cortex-a53, cortex-a57, "
        "cortex-a72, cortex-a76."
    )


def test_what_is_missing_is_named_with_the_command_that_brings_it(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    with pytest.raises(BenchmarkError) as caught:
        find_root(tmp_path / "arm64")
    assert str(caught.value) == (
        f"There is no arm64 user space at '{tmp_path}/arm64'. Make it: "
        f"{ROOT}/devices/emulator/make_root.sh {tmp_path}/arm64"
    )
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(BenchmarkError, match=r"^There is no qemu-aarch64 here: apt install qemu-"):
        find_root(tmp_path / "arm64")


def test_an_emulator_is_no_transport_that_could_be_timed(models) -> None:
    from edgeprune.emulation import counting as emulation

    assert not any(hasattr(value, "measure") for value in vars(emulation).values())
    with pytest.raises(TypeError):
        bench(models["int8"], emulated=True)
