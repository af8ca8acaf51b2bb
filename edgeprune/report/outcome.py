"""The result of a build as one frozen value, and its JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Change:
    """A figure of the original and of the new model, in the same number format.

    Attributes:
        before: of the original.
        after: of the new model.
    """

    before: float
    after: float

    @property
    def ratio(self) -> float:
        """After as a fraction of before."""
        return self.after / self.before if self.before else 1.0


@dataclass(frozen=True)
class Outcome:
    """Everything a build reports; `to_json` is `report.json`.

    Attributes:
        accuracy: on test samples, 0 to 1, measured: `original` on all classes; on the kept classes
            `original_subset` (the unpruned model with the others masked, the honest baseline),
            `slim` (as cut), `recovered` (in closed form), `fine_tuned` where that
            was asked for, and `tflite`.
        test_samples: how many samples each accuracy was measured on.
        macs: multiply-accumulates per inference, counted.
        params: numbers stored in the weights, counted.
        size_bytes: of the `.tflite` files, counted.
        latency_ms: median of the `.tflite` files; `None` where nothing was measured.
        latency_measured: where and with what the latency was measured.
        predictions: of latency and energy on the target: `quantity`, `unit`, `before`, `after`,
            `target`, `error` (relative); none where the target has no predictor.
        rounds: of the closed loop: `budget` and `measured_ms` of each.
        equivalence: `max_abs_error` and `scale` of slim against cut, on logits.
        agreement: of the `.tflite` with the Keras model: share of equal answers, on test samples.
        recovery: the recovery that validation chose.
        candidates: every recovery that was tried, with its validation accuracy.
        classes: names of the outputs, in order.
        widths: group name -> `[before, after]`.
        settings: what was asked for.
        warnings: what the user should look at.
        seconds: per stage.
        versions: of the software.
        seed: of everything that was drawn.
        command: that made this.
        quantization: what each layer of an integer model lost, see `describe_conversion`.
        verification: outputs of the `.tflite` against the Keras model on test samples:
            `max_abs_error`, `mean_abs_error`, `scale`, `output_step`, `top1_agreement`, names and
            types of `inputs` and `outputs`, `runtime`.
        edgetpu: `compilation` (command, log, operators, memory) and what was `expected` before it;
            `None` for targets without Edge TPU.
        fine_tuning: `epochs`, `steps`, `seconds`, `samples_per_second`, validation accuracies and
            the augmentation; `None` where nothing was trained.
        files: names of what was written.
    """

    accuracy: Mapping[str, float]
    test_samples: Mapping[str, int]
    macs: Change
    params: Change
    size_bytes: Change
    latency_ms: Change | None
    latency_measured: str | None
    equivalence: Mapping[str, float]
    agreement: float
    recovery: str
    candidates: tuple[Mapping[str, Any], ...]
    classes: tuple[str, ...]
    widths: Mapping[str, tuple[int, int]]
    settings: Mapping[str, Any]
    warnings: tuple[str, ...]
    seconds: Mapping[str, float]
    versions: Mapping[str, str]
    seed: int
    command: str
    verification: Mapping[str, Any] = field(default_factory=dict)
    quantization: Mapping[str, Any] | None = None
    edgetpu: Mapping[str, Any] | None = None
    predictions: tuple[Mapping[str, Any], ...] = ()
    rounds: tuple[Mapping[str, Any], ...] = ()
    fine_tuning: Mapping[str, Any] | None = None
    files: tuple[str, ...] = field(default=())

    @property
    def efficiency_score(self) -> float:
        """MACs saved, as a factor, times the share of accuracy that is left: ours.

        (MACs before / after) x (accuracy of the `.tflite` / of the original on the kept classes).
        It stands for the "Overall Score" of CHaPR (2020), whose formula was not available; read it
        beside the two ratios, never alone.
        """
        original = self.accuracy["original_subset"]
        kept = self.accuracy["tflite"] / original if original else 0.0
        return kept / self.macs.ratio if self.macs.ratio else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON types."""
        score = {"efficiency_score": self.efficiency_score}
        return {"version": SCHEMA_VERSION, **asdict(self), **score}

    def to_json(self) -> str:
        """Return the text of `report.json`."""
        return json.dumps(self.to_dict(), indent=1)
