"""What tf_keras makes of an old file, asked of a separate process, and the comparison with it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

_PACKAGE_ROOT = Path(__file__).resolve().parents[2]
ANSWER_SECONDS = 600.0
"""In which tf_keras opens a file and runs it, slow boards included; a damaged one may never end."""


@dataclass(frozen=True)
class Reference:
    """Weights and outputs of a model as tf_keras has them; `problem` says why there are none."""

    weights: dict[tuple[str, ...], list[np.ndarray]] = field(default_factory=dict)
    inputs: list[np.ndarray] = field(default_factory=list)
    outputs: list[np.ndarray] = field(default_factory=list)
    layers: dict[str, np.ndarray] = field(default_factory=dict)
    problem: str = ""


class LegacyProcess:
    """A process that runs tf_keras; it starts at once and is first waited for when asked.

    Use as a context manager. Importing TensorFlow there takes seconds, which pass while this
    process imports Keras.
    """

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="edgeprune-")
        self._log = (Path(self._folder.name) / "log").open("wb")
        own = os.environ.get("PYTHONPATH", "").split(os.pathsep)
        # An empty entry or a relative one would be the working folder, and what lies there runs.
        search_path = os.pathsep.join([str(_PACKAGE_ROOT), *filter(os.path.isabs, own)])
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "edgeprune.loading.legacy_worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env={**os.environ, "PYTHONPATH": search_path},
        )
        self._greeting: dict[str, Any] | None = None

    def __enter__(self) -> LegacyProcess:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.communicate()
        self._log.close()
        self._folder.cleanup()

    def saved_model(self, folder: Path) -> dict[str, Any]:
        """Read the Keras configuration of a SavedModel: `config` and `identifier`, or `problem`."""
        return self._ask({"saved_model": str(folder.resolve())})

    def open(
        self,
        config: Mapping[str, Any],
        weights: Path,
        layout: str,
        *,
        with_weights: bool = False,
        exact_config: Mapping[str, Any] | None = None,
        given: Mapping[tuple[str, ...], list[np.ndarray]] | None = None,
    ) -> Reference:
        """Open an architecture with its weights and run it on fixed random inputs.

        Args:
            config: of Keras 2, checked for safety.
            weights: file, or prefix of a checkpoint.
            layout: `hdf5`, `archive` (a whole .keras file), `tree` or `checkpoint`.
            with_weights: also bring the weights of every layer.
            exact_config: the same in double precision; the outputs are then those of this twin.
            given: weights by path, where the file has a layout that only we read.
        """
        folder = Path(tempfile.mkdtemp(dir=self._folder.name))
        if layout == "tree":
            arrays = enumerate((given or {}).values())
            named = {f"{n}/{i}": array for n, many in arrays for i, array in enumerate(many)}
            weights = folder / "given.npz"
            np.savez(weights, allow_pickle=False, **named)
        request = {
            "config": config,
            "weights": str(weights.resolve()),
            "layout": layout,
            "folder": str(folder),
            "with_weights": with_weights,
            "exact_config": exact_config,
            "paths": list(given or {}),
        }
        found = read_reference(folder, self._ask(request))
        return replace(found, weights=dict(given)) if given and layout == "tree" else found

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        if self._greeting is None:
            self._greeting = self._receive()
        if "problem" in self._greeting:
            return self._greeting
        assert self._process.stdin is not None
        try:
            print(json.dumps(request), file=self._process.stdin, flush=True)
        except BrokenPipeError:
            return {"problem": "the process that runs tf_keras ended"}
        return self._receive()

    def _receive(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        end = time.monotonic() + ANSWER_SECONDS
        timer = threading.Timer(ANSWER_SECONDS, self._process.kill)
        timer.start()
        try:
            line = self._process.stdout.readline()
        finally:
            timer.cancel()
        if line:
            return dict(json.loads(line))
        how = f"took {ANSWER_SECONDS:g} s" if time.monotonic() >= end else "ended"
        return {"problem": f"the process that runs tf_keras {how}"}


def read_reference(folder: Path, reply: Mapping[str, Any]) -> Reference:
    """Read what the worker wrote into a folder."""
    weights: dict[tuple[str, ...], list[np.ndarray]] = {}
    if reply.get("paths"):
        arrays = _arrays(folder / "weights.npz")
        for number, path in enumerate(reply["paths"]):
            own = [name for name in arrays if name.startswith(f"{number}/")]
            weights[tuple(path)] = [arrays[f"{number}/{index}"] for index in range(len(own))]
    if "problem" in reply:
        return Reference(weights=weights, problem=str(reply["problem"]))
    return Reference(
        weights=weights,
        inputs=_ordered(folder / "inputs.npz"),
        outputs=_ordered(folder / "outputs.npz"),
        layers=dict(zip(reply["layers"], _ordered(folder / "layers.npz"), strict=True)),
    )


def _arrays(path: Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


def _ordered(path: Path) -> list[np.ndarray]:
    arrays = _arrays(path)
    return [arrays[str(index)] for index in range(len(arrays))]
