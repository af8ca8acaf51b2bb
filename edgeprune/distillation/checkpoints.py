"""An interrupted fine-tuning, so that it can go on: arrays and JSON in one `.npz`, no pickles."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from edgeprune.support.files import replace_on_success
from edgeprune.support.fingerprints import say_new_start

LAST_DIGITS = 1e-3


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """Where a fine-tuning has come to.

    Attributes:
        weights: of the model in training.
        best: of the model that validation prefers so far.
        optimizer: its variables.
        start: weights before the first step: which channels were kept, and what they had become.
        state: step, seconds, scores and so on, as JSON types.
    """

    weights: Sequence[np.ndarray]
    best: Sequence[np.ndarray]
    optimizer: Sequence[np.ndarray]
    start: Sequence[np.ndarray]
    state: dict[str, Any]

    def save(self, path: str | os.PathLike[str], fingerprint: str) -> None:
        """Write the file; an older one stays until the new one is complete.

        Args:
            path: of the `.npz` file.
            fingerprint: of model, original, data and settings.
        """
        parts = {
            "weights": self.weights,
            "best": self.best,
            "optimizer": self.optimizer,
            "start": self.start,
        }
        arrays: dict[str, Any] = {
            f"{name}_{number}": array
            for name, part in parts.items()
            for number, array in enumerate(part)
        }
        text = json.dumps({"fingerprint": fingerprint, **self.state})
        with replace_on_success(path) as temporary, temporary.open("wb") as file:
            np.savez(file, state=np.array(text), **arrays)

    @classmethod
    def load(
        cls, path: str | os.PathLike[str], fingerprint: str, start: Sequence[np.ndarray]
    ) -> Checkpoint | None:
        """Read the file; `None` if there is none, or it is damaged or, as is told, of another run.

        Args:
            path: of the `.npz` file.
            fingerprint: that it must have.
            start: weights that its run must have begun with, but for the last digits.
        """
        if not Path(path).is_file():
            return None
        try:
            with np.load(path, allow_pickle=False) as file:
                state = json.loads(str(file["state"]))
                if state.pop("fingerprint") != fingerprint:
                    say_new_start(path, "The checkpoint")
                    return None
                parts = {
                    part: [
                        file[f"{part}_{number}"]
                        for number in range(sum(key.startswith(f"{part}_") for key in file.files))
                    ]
                    for part in ("weights", "best", "optimizer", "start")
                }
        except (OSError, ValueError, KeyError, BadZipFile):
            return None
        found = cls(**parts, state=state)
        if not _are_close(found.start, start):
            say_new_start(path, "The checkpoint")
            return None
        return found


def _are_close(first: Sequence[np.ndarray], second: Sequence[np.ndarray]) -> bool:
    """Whether weights are the same but for the last digits, which closed forms need not repeat."""
    return len(first) == len(second) and all(
        a.shape == b.shape and np.linalg.norm(a - b) <= LAST_DIGITS * np.linalg.norm(b)
        for a, b in zip(first, second, strict=True)
    )
