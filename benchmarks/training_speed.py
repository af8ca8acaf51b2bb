"""What the training loop costs beside the bare compiled step of the same model: writes a table.

    python benchmarks/training_speed.py

The loop reads, augments, asks the original, validates and takes steps; the bare step is the
optimizer's on one batch that lies in memory. Both run in turns within one process, on ResNet-8 and
ResNet-20 of the shared data.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np

from edgeprune.data import Samples
from edgeprune.distillation import Training
from edgeprune.distillation.augmentation import Augmentation
from edgeprune.distillation.objectives import Objective
from edgeprune.distillation.student import Student, Teacher
from edgeprune.distillation.teacher_batches import TeacherBatches
from edgeprune.distillation.training_samples import ArraySource
from edgeprune.loading import load_model

FOLDER = Path(__file__).resolve().parent
SHARED = FOLDER.parent.parent / "shared" / "data"
TABLE = FOLDER / "training_speed.md"
MODELS = {
    "ResNet-8": "mlperf_tiny/resnet8_cifar10.h5",
    "ResNet-20": "cifar10/resnet20.keras",
}
SAMPLES = 3200
ROUNDS = 6
STEPS = 50


def measure(name: str) -> list[str]:
    """Return one row of the table.

    Args:
        name: of the model.
    """
    model = load_model(SHARED / MODELS[name])
    settings = Training()
    inputs = np.random.default_rng(0).normal(size=(SAMPLES, 32, 32, 3)).astype(np.float32)
    objective = Objective("classes").make_loss(share=1.0, temperature=settings.temperature)
    student = Student(model, [], [objective], settings, inputs[:256])
    teacher = Teacher(model, [], settings.batch_size)
    source = ArraySource(Samples(inputs, np.zeros(0, np.int64)))
    augmentation = Augmentation(horizontal_flip=True, shift=0.125)
    batches = TeacherBatches(source, teacher, augmentation, settings, classes=None, labels=None)
    fixed = inputs[: settings.batch_size], [np.zeros((settings.batch_size, 10), np.float32)]
    student.step(*fixed, 1e-6)
    coming = (batch for epoch in range(1000) for batch in batches.read_epoch(epoch))
    next(coming)

    def time_steps(batch: Any) -> float:
        begun = time.perf_counter()
        for _ in range(STEPS):
            student.step(*batch(), 1e-6)
        return STEPS / (time.perf_counter() - begun)

    bare, whole = zip(
        *((time_steps(lambda: fixed), time_steps(lambda: next(coming))) for _ in range(ROUNDS)),
        strict=True,
    )
    ratios = np.divide(whole, bare)
    low, high = ratios.min(), ratios.max()
    return [
        name, f"{np.max(bare):.1f}", f"{np.max(whole):.1f}",
        f"**{np.median(ratios):.2f}** ({low:.2f} to {high:.2f})",
    ]  # fmt: skip


def main() -> None:
    """Measure all models and write the table."""
    header = ["model", "bare steps per second", "with everything around", "ratio"]
    rows = [header, ["---", "--:", "--:", "--:"], *(measure(name) for name in MODELS)]
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    TABLE.write_text(
        "# The training loop beside its bare step\n\n"
        f"Written by `make training-speed-table` (keras {keras.__version__}, batches of 32, "
        f"{os.cpu_count()} cores). Measured in turns in one process, {ROUNDS} times {STEPS} steps "
        "each; the ratio is the median with its range. The bare step has one batch in memory; "
        "around it the loop reads and augments the next one and asks the original, on the same "
        f"cores.\n\n{table}\n",
        "utf-8",
    )
    print(table)


if __name__ == "__main__":
    main()
