"""Samples beyond the limit of memory are used all the same: from disk, in batches."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers
from specialists import digits, make_classifier, run_command, save_digits

import edgeprune
from edgeprune.building.splits import read_splits
from edgeprune.data import Dataset, parse_preprocess, read_samples
from edgeprune.data.sample_store import SampleStore
from edgeprune.distillation.training_samples import DatasetSource
from edgeprune.errors import DataError
from edgeprune.evaluation.evaluator import Evaluator
from edgeprune.evaluation.preconditions import make_samples
from edgeprune.pruning.pruning_settings import Pruning
from edgeprune.scoring.collection import collect_statistics
from edgeprune.tracing.groups import find_groups

RAW = parse_preprocess("raw")
QUICK = Pruning(criterion="l1", recovery="mean", recalibration="off")
BYTES_EACH = 8 * 8 * 4


def noise(count: int, shape: tuple[int, ...]) -> Dataset:
    """Samples that are made when they are read, a hundred of each of ten classes and so on."""

    def read(indices: np.ndarray) -> np.ndarray:
        return np.stack([np.random.default_rng(i).random(shape, np.float32) for i in indices])

    targets = np.arange(count) % 10
    names = tuple("abcdefghij")
    return Dataset("noise", names, targets, {"all": np.arange(count)}, read)


def test_what_lies_on_disk_is_what_would_lie_in_memory(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    dataset, indices = noise(600, (4, 4, 1)), np.arange(599, -1, -1)
    store = SampleStore(0)
    held, plain = (read_samples(dataset, indices, RAW, where) for where in (store, None))
    assert (store.written, store.folder) == (600 * 4 * 4 * 4, tmp_path)
    assert not held.inputs.flags.writeable and held.inputs.dtype == np.float32
    np.testing.assert_array_equal(held.inputs, plain.inputs)
    np.testing.assert_array_equal(held.targets, plain.targets)
    assert list(tmp_path.iterdir()) == []  # the file has no name


def test_memory_is_used_before_the_disk() -> None:
    dataset, store = noise(30, (2,)), SampleStore(100)
    for first, written in ((0, 0), (10, 80), (20, 160)):
        read_samples(dataset, np.arange(first, first + 10), RAW, store)
        assert (store.written, store.free) == (written, 20)


def test_a_build_with_little_memory_makes_the_same_files(tmp_path: Path) -> None:
    model = make_classifier()
    data = {"source": digits(), "calibration": 20, "validation": 40, "test": 300}

    def build(name: str, **more) -> edgeprune.Built:
        return edgeprune.build(
            model, edgeprune.Data(**data, **more), classes=[8, 3, 5], export="float32",
            pruning=QUICK, training="1epochs", out=tmp_path / name,
            measurement=edgeprune.Measurement(latency=False),
        )  # fmt: skip

    bounded, free = build("bounded", memory=100 * BYTES_EACH), build("free")
    for name in ("model.tflite", "model.keras"):
        assert (bounded.folder / name).read_bytes() == (free.folder / name).read_bytes()
    assert bounded.outcome.accuracy == free.outcome.accuracy
    (note,) = set(bounded.outcome.warnings) - set(free.outcome.warnings)
    assert "more than memory is meant to hold" in note and "--memory allows more" in note


def test_no_pass_over_the_samples_takes_more_memory_than_a_few_batches() -> None:
    """The heap, as Python's own bookkeeping sees it: pages of a mapped file are none of it."""
    shape = (32, 32, 4)
    count, dataset = 4000, noise(4000, shape)
    model = keras.Sequential(
        [keras.Input(shape), layers.Conv2D(2, 3), layers.Flatten(), layers.Dense(10, "softmax")]
    )

    def use(count: int) -> None:
        samples = read_samples(dataset, np.arange(count), RAW, SampleStore(0))
        made = make_samples(model, samples, classes=tuple(range(10)))
        assert np.shares_memory(made.inputs, samples.inputs)
        Evaluator(model, made).evaluate(model)
        collect_statistics(find_groups(model), made.inputs, made.targets, num_classes=10)

    use(300)  # what is made once is made now
    tracemalloc.start()
    use(count)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < count * np.prod(shape) * 4 / 2


def test_training_keeps_no_more_samples_than_there_is_room_for() -> None:
    reads: list[int] = []
    dataset = noise(20, (2,))
    counting = Dataset(
        "counting", dataset.classes, dataset.targets, dataset.splits,
        lambda indices: reads.extend(indices) or dataset.read(indices),
    )  # fmt: skip
    source = DatasetSource(counting, np.arange(20), RAW, room=10 * 8)
    first, again = source.read(np.arange(20)), source.read(np.arange(20))
    np.testing.assert_array_equal(first, again)
    assert len(reads) == 30


def test_too_little_room_on_the_disk_is_told_before_anything_is_read(
    tmp_path: Path, monkeypatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage._replace(free=1000))
    answer = run_command(
        "build", save_model(tmp_path), "--data", save_digits(tmp_path / "digits.npz"),
        "--memory", "5KB", "--no-bench", "--out", tmp_path / "out",
    )  # fmt: skip
    assert answer.code == 2 and "are free in" in answer.error and "--calibration" in answer.error
    assert not (tmp_path / "out").exists()


def test_a_full_disk_is_one_line(monkeypatch) -> None:
    monkeypatch.setenv("TMPDIR", "/dev/full")
    monkeypatch.setattr("edgeprune.data.sample_store.find_folder", lambda: Path("/proc"))
    with pytest.raises(DataError, match=r"cannot be held on disk in '/proc'.*TMPDIR"):
        read_samples(noise(3, (2,)), [0, 1, 2], RAW, SampleStore(0))


def save_model(folder: Path) -> Path:
    make_classifier().save(folder / "model.keras")
    return folder / "model.keras"


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_a_killed_process_leaves_nothing_on_the_disk(tmp_path: Path) -> None:
    program = (
        "import numpy as np, time\n"
        "from edgeprune.data.sample_store import SampleStore\n"
        "held = SampleStore(0).gather(1000, iter([np.ones((1000, 1000))]))\n"
        "print(held.sum(), flush=True)\n"
        "time.sleep(60)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )  # fmt: skip
    assert process.stdout.readline().strip() == "1e+06"
    used = Path(f"/proc/{process.pid}/maps").read_text()
    assert str(tmp_path) in used and list(tmp_path.iterdir()) == []
    process.send_signal(signal.SIGKILL)
    process.wait()
    time.sleep(0.1)
    assert list(tmp_path.iterdir()) == []


def test_all_samples_asked_for_are_taken_whatever_the_memory() -> None:
    data = edgeprune.Data(digits(), calibration=20, validation=40, test=300, memory=5 * BYTES_EACH)
    found = read_splits(make_classifier(), data, None, seed=0)
    assert [len(part.inputs) for part in (found.calibration, found.validation)] == [200, 400]
