"""What a build works with: samples for each purpose, and the classes they are about."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
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
from edgeprune.data.arrays import find_free_memory
from edgeprune.data.data_settings import Data
from edgeprune.errors import ClassError, DataError, ModelError

if TYPE_CHECKING:
    import keras

MOST_OTHER_SAMPLES = 7000
SCALING_SAMPLES = 200


@dataclass(frozen=True, eq=False)
class DataSplits:
    """Samples of one data set, read and preprocessed; no sample is in two splits.

    Attributes:
        dataset: where they come from.
        preprocess: how stored samples became inputs.
        classes: kept outputs in the user's order; `None` keeps all.
        names: of the kept outputs, in that order.
        calibration: for statistics and quantization ranges.
        validation: for the choice among candidates.
        test: of the kept classes, for the reported accuracies.
        other: test samples of the other classes, for the accuracy of the original on everything.
        taken: how many samples each class gave and may be tested with, after the limit of memory.
        notes: what the user should know of the choice.
    """

    dataset: Dataset
    preprocess: Preprocess
    classes: tuple[int, ...] | None
    names: tuple[str, ...]
    calibration: Samples
    validation: Samples
    test: Samples
    other: Samples | None
    taken: Data
    notes: tuple[str, ...] = ()

    @property
    def outputs(self) -> tuple[int, ...]:
        """Numbers of the kept outputs in the original, in their new order."""
        return self.classes or tuple(range(len(self.dataset.classes)))

    def count_tests(self) -> dict[str, int]:
        """Return how many test samples there are of the kept classes, and of all."""
        kept = len(self.test.targets)
        return {"kept": kept, "all": kept + (0 if self.other is None else len(self.other.targets))}


def read_splits(
    model: keras.Model, data: Data, classes: str | Sequence[str | int] | None, seed: int
) -> DataSplits:
    """Find the classes, divide the samples, read them.

    Args:
        model: whose inputs and outputs the data must fit.
        data: where samples are, and how many are wanted.
        classes: to keep, in order; `None` keeps all.
        seed: of the division.

    Raises:
        ClassError: a class is unknown, or the data does not name the model's outputs.
        DataError: the data cannot be read or does not fit, also not into memory.
        ModelError: the model is not a classifier with one input and one output.
    """
    num_outputs = _count_classes(model)
    shape = tuple(model.inputs[0].shape[1:])
    single = model.outputs[0].shape[1] == 1
    dataset = load_dataset(data.source, input_shape=shape, classes=data.labels)
    if len(dataset.classes) != num_outputs:
        tells = "tells two classes apart" if single else f"has {num_outputs} outputs"
        raise ClassError(
            f"The model {tells}, the data names {len(dataset.classes)} classes "
            f"({', '.join(dataset.classes[:6])}{', ...' if len(dataset.classes) > 6 else ''}). "
            "Give the names of all outputs, in their order, with --labels labels.txt."
        )
    chosen = None if classes is None else find_classes(classes, dataset.classes)
    wanted = tuple(range(num_outputs)) if chosen is None else chosen
    if single and wanted != (0, 1):
        raise ClassError(
            "The model has one output, the chance of the second of its two classes: both stay, in "
            f"their order, {dataset.classes[0]} and {dataset.classes[1]}. Leave out --classes."
        )
    chosen = None if single else chosen
    preprocess = data.scaling
    taken, others, notes = _limit_memory(data, dataset, len(wanted), preprocess)
    notes = (*dataset.notes, *notes)
    parts = assign_samples(
        dataset,
        wanted,
        calibration_per_class=taken.calibration,
        validation_per_class=taken.validation,
        test_limit=taken.test,
        seed=seed,
    )
    other = parts.other_test[:others]
    dataset.check(np.concatenate([parts.calibration, parts.validation, parts.test, other]))
    return DataSplits(
        dataset,
        preprocess,
        chosen,
        names=tuple(dataset.classes[index] for index in wanted),
        calibration=read_samples(dataset, parts.calibration, preprocess),
        validation=read_samples(dataset, parts.validation, preprocess),
        test=read_samples(dataset, parts.test, preprocess),
        other=read_samples(dataset, other, preprocess) if len(other) else None,
        taken=taken,
        notes=notes,
    )


def _limit_memory(
    data: Data, dataset: Dataset, num_classes: int, preprocess: Preprocess
) -> tuple[Data, int, tuple[str, ...]]:
    """Return how many samples fit into memory, how many of other classes, and what to say.

    Raises:
        DataError: not even one per class and purpose does.
    """
    first = next(indices for indices in dataset.splits.values() if len(indices))[:1]
    sample = read_samples(dataset, first, preprocess).inputs.nbytes
    limit = data.memory or find_free_memory() / 4
    room = int(limit // max(sample, 1))
    available = len(dataset.targets)
    wanted = min((data.calibration + data.validation) * num_classes + data.test, available)
    others = min(MOST_OTHER_SAMPLES, available)
    if wanted + others <= room:
        return data, others, ()
    if wanted <= room:
        return data, room - wanted, ()
    share = room / wanted
    numbers = {
        name: int(getattr(data, name) * share) for name in ("calibration", "validation", "test")
    }
    if min(numbers.values()) < 1 or numbers["test"] < num_classes:
        raise DataError(
            f"Samples of {sample:,} bytes each, {num_classes} classes: one per class and purpose "
            f"does not fit into {limit / 2**20:,.0f} MB. Keep fewer classes with --classes, or "
            "allow more with --memory."
        )
    return (
        replace(
            data,
            calibration=numbers["calibration"],
            validation=numbers["validation"],
            test=numbers["test"],
        ),
        0,
        (
            f"Of the samples asked for, {room:,} fit into {limit / 2**30:.1f} GB: "
            f"{numbers['calibration']} per class for calibration, {numbers['validation']} for "
            f"validation and {numbers['test']} for the test were taken. --memory allows more.",
        ),
    )


def _count_classes(model: keras.Model) -> int:
    if len(model.inputs) != 1 or len(model.outputs) != 1:
        found = f"{_count(model.inputs, 'input')} and {_count(model.outputs, 'output')}"
        raise ModelError(
            f"Model '{model.name}' has {found}; expected a classifier with one of each. From "
            "Python, `edgeprune.prune` also takes models with several outputs."
        )
    shape = model.outputs[0].shape
    if len(shape) == 2 and shape[1] == 1:
        from edgeprune.tracing.graph import build_graph
        from edgeprune.tracing.outputs import output_kinds

        if output_kinds(build_graph(model))[0].task == "binary":
            return 2
    if len(shape) != 2 or not shape[1] or shape[1] < 2:
        raise ModelError(
            f"Model '{model.name}' gives outputs of shape {tuple(shape)}; expected a classifier "
            "that gives (batch, classes) with at least two classes, or one sigmoid for two. From "
            "Python, `edgeprune.prune` also takes other models."
        )
    return int(shape[1])


def _count(things: Sequence[Any], noun: str) -> str:
    return f"{len(things)} {noun}{'' if len(things) == 1 else 's'}"


def test_original(model: keras.Model, splits: DataSplits) -> tuple[dict[str, float], list[str]]:
    """Measure the original on all classes and on the kept ones, and look for mistakes in the data.

    Returns:
        `original` and `original_subset` accuracy, and warnings for the user.
    """
    from edgeprune.evaluation.equivalence import choose_classes, measure_accuracy, predict

    outputs = predict(model, splits.test.inputs)
    targets = splits.test.targets
    accuracy = {"original_subset": measure_accuracy(outputs, targets, splits.classes, cut=False)}
    if splits.other is not None:
        outputs = np.concatenate([outputs, predict(model, splits.other.inputs)])
        targets = np.concatenate([targets, splits.other.targets])
    accuracy["original"] = measure_accuracy(outputs, targets)
    counts = np.bincount(targets)
    found = [
        warn_near_chance(
            accuracy["original"],
            len(splits.dataset.classes),
            len(targets),
            largest_share=float(counts.max() / len(targets)),
        ),
        warn_better_scaling(
            lambda inputs: choose_classes(predict(model, inputs)),
            splits.dataset,
            _some_indices(splits),
            splits.preprocess,
        ),
        warn_shared_samples(
            {
                "calibration": splits.calibration,
                "validation": splits.validation,
                "test": splits.test,
            }
        ),
    ]
    return accuracy, [*splits.notes, *(text for text in found if text)]


def _some_indices(splits: DataSplits) -> np.ndarray:
    """Return a few samples of the kept classes for trying other scalings on."""
    parts = assign_samples(
        splits.dataset,
        splits.outputs,
        calibration_per_class=1,
        validation_per_class=SCALING_SAMPLES,
    )
    return parts.validation[:SCALING_SAMPLES]
