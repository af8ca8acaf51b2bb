"""Run by `test_backends` in a process of its own: prunes on the backend that the environment names.

Writes scores of every criterion, and what `prune` made of a model, to the file that is given.
"""

from __future__ import annotations

import os
import sys

if os.environ["KERAS_BACKEND"] != "tensorflow":
    for name in ("tensorflow", "tf_keras"):
        sys.modules[name] = None  # as if it were not installed

import networks
import numpy as np
from keras import ops

from edgeprune import prune
from edgeprune.pruning.pruning_settings import Pruning
from edgeprune.scoring.calibration_samples import CalibrationSamples
from edgeprune.scoring.collection import collect_statistics
from edgeprune.scoring.context import PruningContext
from edgeprune.scoring.criteria import CRITERIA
from edgeprune.scoring.method_settings import Settings
from edgeprune.tracing.groups import find_groups

IMAGES = np.random.default_rng(0).normal(size=(24, 8, 8, 3)).astype(np.float32)


def main(path: str) -> None:
    found: dict[str, np.ndarray] = {}
    model = networks.randomize(networks.build_residual_network())
    targets = ops.convert_to_numpy(model(IMAGES)).argmax(-1)
    groups = find_groups(model)
    context = PruningContext(
        groups,
        collect_statistics(groups, IMAGES, targets, num_classes=5, positions=64),
        calibration=CalibrationSamples(groups, IMAGES, targets),
        settings=Settings(masks_per_channel=1, mask_samples=8),
    )
    for criterion, function in CRITERIA.items():
        for group in groups.removable:
            found[f"{criterion} of {group.name}"] = function(context, group)
    kept = np.argsort(-np.bincount(targets, minlength=5), kind="stable")[:2].tolist()
    pruned = prune(model, (IMAGES, targets), validation=(IMAGES, targets), classes=kept)
    found["macs"] = np.array([pruned.before.macs, pruned.after.macs])
    found["candidates"] = np.array(sorted(candidate.name for candidate in pruned.candidates))
    for name, channels in pruned.plan.keep.items():
        found[f"kept of {name}"] = np.array(channels)
    found["accuracy"] = np.array([pruned.chosen.score.accuracy])
    mobile = networks.randomize(networks.build_mobile_network())
    smaller = prune(mobile, IMAGES, pruning=Pruning(method="chapr", recalibration="on")).model
    found["answers of a mobile network"] = ops.convert_to_numpy(smaller(IMAGES))
    np.savez(path, **found)


if __name__ == "__main__":
    main(sys.argv[1])
