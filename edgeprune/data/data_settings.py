"""A data set and what it is used for, as data: `Data`."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgeprune.data.preprocessing import Preprocess, parse_preprocess
from edgeprune.errors import DataError
from edgeprune.tracing.tasks import Task, check_task


@dataclass(frozen=True, eq=False)
class Data:
    """Where samples come from, how they become inputs, and how many serve for what.

    Attributes:
        source: whatever `load_dataset` takes: an image folder, `.npz`, the name of a data set,
            arrays or a `tf.data.Dataset`.
        preprocess: how stored samples become the model's inputs, see `parse_preprocess`.
        labels: names of the model's outputs, if the data does not have exactly those.
        calibration: samples per class for statistics and quantization ranges.
        validation: samples per class that choose among candidates.
        test: samples of the kept classes for the reported accuracies, all together.
        memory: most bytes of samples that are held in memory, by default a quarter of what is free;
            all others are held on disk until the build ends.
        task: what the model's outputs mean, and so the targets: `classify`, `multilabel`, `binary`
            or `regress`. `auto` tells it by how the model ends and what the targets are.

    Raises:
        DataError: a number is not positive.
        EdgepruneError: there is no such task.

    Example:
        >>> Data("photos/", preprocess="unit").scaling.name
        'unit'
    """

    source: Any
    preprocess: str | Callable[[np.ndarray], np.ndarray] = "raw"
    labels: Sequence[str] | None = None
    calibration: int = 100
    validation: int = 200
    test: int = 3000
    memory: float | None = None
    task: Task = "auto"

    def __post_init__(self) -> None:
        """Refuse numbers that cannot be meant."""
        for name in ("calibration", "validation", "test", "memory"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise DataError(f"Data needs {name} above 0. Got {value}.")
        check_task(self.task)

    @classmethod
    def parse(cls, given: Any) -> Data:
        """Return what is `Data` already, or a source with everything else at its default."""
        return given if isinstance(given, Data) else cls(given)

    @property
    def scaling(self) -> Preprocess:
        """How stored samples become inputs."""
        return parse_preprocess(self.preprocess)

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as JSON types; data in memory by its type."""
        stored = isinstance(self.source, (str, os.PathLike))
        return {
            "data": str(self.source) if stored else type(self.source).__name__,
            "preprocess": self.scaling.name,
            "task": self.task,
            "samples": {
                "calibration_per_class": self.calibration,
                "validation_per_class": self.validation,
                "test": self.test,
            },
        }
