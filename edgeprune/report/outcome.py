"""The result of a build as one frozen value, and its JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

SCHEMA_VERSION = 2


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
            `pruned` (as surgery left it), `recovered` (in closed form), `trained` where that was
            asked for, and `tflite`. Empty where outputs are numbers.
        errors: of the same models where outputs are numbers, on test samples, measured: `mae` and
            `r2` by name.
        task: the `task` that the outputs were taken for, and the `reason`.
        test_samples: how many samples each of them was measured on.
        macs: multiply-accumulates per inference, counted.
        params: numbers stored in the weights, counted.
        size_bytes: of the `.tflite` files, counted.
        budgets: every budget held against what is delivered: `quantity`, `unit`, `limit`, `found`,
            `how` that is known, `met`.
        latency_ms: median of the `.tflite` files; `None` where nothing was measured.
        latency_measured: where and with what the latency was measured.
        predictions: of latency and energy on the target: `quantity`, `unit`, `before`, `after`,
            `target`, `error` (relative); none where the target has no predictor.
        rounds: of the closed loop, if there were several: `budget` and what each file cost.
        equivalence: `max_abs_error` and `scale` of the pruned against the masked model, on logits.
        agreement: of the `.tflite` with the Keras model on test samples: share of equal answers,
            R2 where they are numbers.
        recovery: the recovery that validation chose.
        candidates: every recovery that was tried, with its accuracy on validation samples, or how
            close its outputs stay to the original's.
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
            `max_abs_error`, `mean_abs_error`, `scale`, `output_step`, `top1_agreement` or `r2`,
            names and types of `inputs` and `outputs`, `runtime`.
        edgetpu: `compilation` (command, log, operators, memory) and what was `expected` before it;
            `None` for targets without Edge TPU.
        training: `epochs`, `steps`, `seconds`, `samples_per_second`, validation accuracies and
            the augmentation; `None` where nothing was trained.
        trials: for a budget of a drop every size that was tried: `quantity`, `share` of the
            original's and accuracy `lost` on validation samples.
        files: names of what was written.
    """

    accuracy: Mapping[str, float]
    test_samples: Mapping[str, int]
    macs: Change
    params: Change
    size_bytes: Change
    budgets: tuple[Mapping[str, Any], ...]
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
    training: Mapping[str, Any] | None = None
    trials: tuple[Mapping[str, Any], ...] = ()
    errors: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    task: Mapping[str, str] = field(default_factory=dict)
    files: tuple[str, ...] = field(default=())

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON types."""
        return {"version": SCHEMA_VERSION, **asdict(self)}

    def to_json(self) -> str:
        """Return the text of `report.json`."""
        return json.dumps(self.to_dict(), indent=1)
