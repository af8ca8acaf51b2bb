"""`edgeprune demo`: the main job on data and a model that need no download."""

from __future__ import annotations

from edgeprune.building import Built, build
from edgeprune.building.checks import check_output
from edgeprune.support.progress import Progress

CLASSES = "3,5,8"
BUDGET = "macs=50%"


def build_demonstration(out: str, seed: int, command: str, progress: Progress) -> Built:
    """Train a network on the built-in digits and build a specialist for three of them.

    Args:
        out: folder for the files.
        seed: of training and build.
        command: for the report.
        progress: told about stages.
    """
    from edgeprune.cli.digits_model import NUM_EPOCHS, train_digits_model

    check_output(out)
    with progress.stage("training a network on digits", NUM_EPOCHS) as advance:
        model = train_digits_model(seed, on_epoch=lambda epoch, total: advance())
    return build(
        model,
        "digits",
        classes=CLASSES,
        budget=BUDGET,
        quantize="int8",
        out=out,
        seed=seed,
        command=command,
        progress=progress,
    )
