"""Where a model comes from, as it travels inside the `.tflite`."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from edgeprune.building.material import Material

if TYPE_CHECKING:
    from edgeprune.pruning.pruning import Pruned

FORMAT_VERSION = 1


def describe_origin(
    pruned: Pruned, material: Material, settings: Mapping[str, Any], command: str
) -> dict[str, Any]:
    """Return what the file says about how it was made.

    Args:
        pruned: with the plan.
        material: with the classes.
        settings: what was asked for, as in the report, and the versions of the software.
        command: that made it.

    Returns:
        JSON types: `model_fingerprint` is that of the original's groups, `plan_sha256` that of the
        text of `plan.json`; `classes` has the kept outputs by their number in the original.
    """
    plan = pruned.plan
    kept = range(len(material.dataset.classes)) if plan.classes is None else plan.classes
    return {
        "version": FORMAT_VERSION,
        "command": command,
        "model_fingerprint": plan.fingerprint,
        "plan_sha256": hashlib.sha256(plan.to_json().encode()).hexdigest(),
        "classes": {
            "names": list(material.names),
            "outputs_of_the_original": list(kept),
            "of": len(material.dataset.classes),
        },
        **settings,
    }
