"""What a build works with: samples for each purpose, and the classes they are about."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeprune.data import (
    Dataset,
    Preprocess,
    Samples,
    assign_samples,
    find_classes,
    load_dataset,
    read_samples,
    warn_better_scaling,
    warn_near_chance,
    warn_shared_samples,
)
from edgeprune.errors import ClassError, ModelError

if TYPE_CHECKING:
    import keras

OTHER_SAMPLES = 7000
SCALING_SAMPLES = 200


@dataclass(frozen=True)
class Amounts:
    """How many samples serve for what.

    Attributes:
        calibration_per_class: for statistics and quantization ranges.
        validation_per_class: for the choice among recoveries.
        test: for the accuracies of the kept classes, in all.
    """

    calibration_per_class: int = 100
    validation_per_class: int = 200
    test: int = 3000


@dataclass(frozen=True, eq=False)
class Material:
    """Samples of one data set, read and preprocessed; no sample is in two parts.

    Attributes:
        dataset: where they come from.
        preprocess: how stored samples became inputs.
        classes: kept outputs in the user's order; `None` keeps all.
        names: of the kept outputs, in that order.
        calibration: for statistics and quantization ranges.
        validation: for the choice among recoveries.
        test: of the kept classes, for the reported accuracies.
        other: test samples of the other classes, for the accuracy of the original on everything.
    """

    dataset: Dataset
    preprocess: Preprocess
    classes: tuple[int, ...] | None
    names: tuple[str, ...]
    calibration: Samples
    validation: Samples
    test: Samples
    other: Samples | None

    def count_tests(self) -> dict[str, int]:
        """Return how many test samples there are of the kept classes, and of all."""
        kept = len(self.test.targets)
        return {"kept": kept, "all": kept + (0 if self.other is None else len(self.other.targets))}


def read_material(
    model: keras.Model,
    data: Any,
    *,
    classes: str | Sequence[str | int] | None,
    labels: Sequence[str] | None,
    preprocess: Preprocess,
    amounts: Amounts,
    seed: int,
) -> Material:
    """Find the classes, divide the samples, read them.

    Args:
        model: whose inputs and outputs the data must fit.
        data: whatever `load_dataset` takes.
        classes: to keep, in order; `None` keeps all.
        labels: names of the model's outputs, if not those of the data.
        preprocess: how stored samples become inputs.
        amounts: how many samples to use.
        seed: of the division.

    Raises:
        ClassError: a class is unknown, or the data does not name the model's outputs.
        DataError: the data cannot be read or does not fit.
        ModelError: the model is not a classifier with one input and one output.
    """
    num_outputs = _count_classes(model)
    dataset = load_dataset(data, input_shape=tuple(model.inputs[0].shape[1:]), classes=labels)
    if len(dataset.classes) != num_outputs:
        raise ClassError(
            f"The model has {num_outputs} outputs, the data names {len(dataset.classes)} classes "
            f"({', '.join(dataset.classes[:6])}{', ...' if len(dataset.classes) > 6 else ''}). "
            "Give the names of all outputs, in their order, with --labels labels.txt."
        )
    chosen = None if classes is None else find_classes(classes, dataset.classes)
    wanted = tuple(range(num_outputs)) if chosen is None else chosen
    parts = assign_samples(
        dataset,
        wanted,
        calibration_per_class=amounts.calibration_per_class,
        validation_per_class=amounts.validation_per_class,
        test_limit=amounts.test,
        seed=seed,
    )
    others = parts.other_test[:OTHER_SAMPLES]
    dataset.check(np.concatenate([parts.calibration, parts.validation, parts.test, others]))
    return Material(
        dataset,
        preprocess,
        chosen,
        names=tuple(dataset.classes[index] for index in wanted),
        calibration=read_samples(dataset, parts.calibration, preprocess),
        validation=read_samples(dataset, parts.validation, preprocess),
        test=read_samples(dataset, parts.test, preprocess),
        other=read_samples(dataset, others, preprocess) if len(others) else None,
    )


def _count_classes(model: keras.Model) -> int:
    if len(model.inputs) != 1 or len(model.outputs) != 1:
        found = f"{_count(model.inputs, 'input')} and {_count(model.outputs, 'output')}"
        raise ModelError(
            f"Model '{model.name}' has {found}; expected a classifier with one of each. From "
            "Python, `edgeprune.prune` also takes models with several outputs."
        )
    shape = model.outputs[0].shape
    if len(shape) != 2 or not shape[1] or shape[1] < 2:
        raise ModelError(
            f"Model '{model.name}' gives outputs of shape {tuple(shape)}; expected a classifier "
            "that gives (batch, classes) with at least two classes. From Python, "
            "`edgeprune.prune` also takes other models."
        )
    return int(shape[1])


def _count(things: Sequence[Any], noun: str) -> str:
    return f"{len(things)} {noun}{'' if len(things) == 1 else 's'}"


def test_original(model: keras.Model, material: Material) -> tuple[dict[str, float], list[str]]:
    """Measure the original on all classes and on the kept ones, and look for mistakes in the data.

    Returns:
        `original` and `original_subset` accuracy, and warnings for the user.
    """
    from edgeprune.evaluation.equivalence import measure_accuracy, predict

    outputs = predict(model, material.test.inputs)
    targets = material.test.targets
    accuracy = {"original_subset": measure_accuracy(outputs, targets, material.classes)}
    if material.other is not None:
        outputs = np.concatenate([outputs, predict(model, material.other.inputs)])
        targets = np.concatenate([targets, material.other.targets])
    accuracy["original"] = measure_accuracy(outputs, targets)
    counts = np.bincount(targets)
    found = [
        warn_near_chance(
            accuracy["original"],
            outputs.shape[1],
            len(targets),
            largest_share=float(counts.max() / len(targets)),
        ),
        warn_better_scaling(
            lambda inputs: predict(model, inputs).argmax(axis=1),
            material.dataset,
            _some_indices(material),
            material.preprocess,
        ),
        warn_shared_samples(
            {
                "calibration": material.calibration,
                "validation": material.validation,
                "test": material.test,
            }
        ),
    ]
    return accuracy, [text for text in found if text]


def _some_indices(material: Material) -> np.ndarray:
    """Return a few samples of the kept classes for trying other scalings on."""
    classes = range(len(material.dataset.classes)) if material.classes is None else material.classes
    parts = assign_samples(
        material.dataset,
        tuple(classes),
        calibration_per_class=1,
        validation_per_class=SCALING_SAMPLES,
    )
    return parts.validation[:SCALING_SAMPLES]
