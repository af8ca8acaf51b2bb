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
from edgeprune.data.data_settings import Data
from edgeprune.data.sample_store import SampleStore
from edgeprune.errors import ClassError, DataError, ModelError
from edgeprune.evaluation.metrics import Result, measure, take_for_targets
from edgeprune.support.progress import remark, stage

if TYPE_CHECKING:
    import keras

    from edgeprune.tracing.outputs import OutputKind

MOST_OTHER_SAMPLES = 7000
SCALING_SAMPLES = 200


@dataclass(frozen=True, eq=False)
class DataSplits:
    """Samples of one data set, read and preprocessed; no sample is in two splits.

    Attributes:
        dataset: where they come from.
        kind: what the outputs of the original mean.
        preprocess: how stored samples became inputs.
        classes: kept outputs in the user's order; `None` keeps all.
        names: of the kept outputs, in that order; none where they are no classes.
        calibration: for statistics and quantization ranges.
        validation: for the choice among candidates.
        test: of the kept classes, for what is reported.
        other: test samples of the other classes, for the accuracy of the original on everything.
        wanted: how many samples each class gave and may be tested with.
        store: holds them, in memory or on disk.
        notes: what the user should know of the choice.
    """

    dataset: Dataset
    kind: OutputKind
    preprocess: Preprocess
    classes: tuple[int, ...] | None
    names: tuple[str, ...]
    calibration: Samples
    validation: Samples
    test: Samples
    other: Samples | None
    wanted: Data
    store: SampleStore
    notes: tuple[str, ...] = ()

    @property
    def outputs(self) -> tuple[int, ...]:
        """Numbers of the kept classes in the original, in their new order."""
        return self.classes or tuple(range(len(self.dataset.classes)))

    @property
    def original_names(self) -> tuple[str, ...]:
        """Names of all outputs of the original; none where they are no classes."""
        return self.dataset.classes if self.dataset.labelled else self.names

    def measure(self, outputs: np.ndarray) -> Result:
        """Return how good answers to the test samples are, of a model with the kept outputs."""
        return measure(self.kind, outputs, self.test.targets, self.classes)

    def count_tests(self) -> dict[str, int]:
        """Return how many test samples there are of the kept classes, and of all."""
        kept = len(self.test.inputs)
        return {"kept": kept, "all": kept + (0 if self.other is None else len(self.other.inputs))}


@stage("reading the data")
def read_splits(
    model: keras.Model, data: Data, classes: str | Sequence[str | int] | None, seed: int
) -> DataSplits:
    """Tell what the outputs mean, find the classes, divide the samples, read them.

    Args:
        model: whose inputs and outputs the data must fit.
        data: where samples are, and how many are wanted.
        classes: to keep, in order; `None` keeps all.
        seed: of the division.

    Raises:
        ClassError: a class is unknown, or the data does not name the model's outputs.
        DataError: the data cannot be read or does not fit, also not into memory and on the disk.
        ModelError: the model has several inputs or outputs, or such as the task does not have.
    """
    dataset, kind = _open_dataset(model, data)
    remark(f"task: {kind.describe()}")
    wanted, chosen = _choose_classes(dataset, kind, classes)
    names: tuple[str, ...] = tuple(dataset.classes[index] for index in wanted)
    if not dataset.labelled:
        names = tuple(data.labels or ())
    parts = assign_samples(
        dataset,
        wanted,
        calibration_per_class=data.calibration,
        validation_per_class=data.validation,
        test_limit=data.test,
        seed=seed,
    )
    each = [parts.calibration, parts.validation, parts.test, parts.other_test[:MOST_OTHER_SAMPLES]]
    dataset.check(np.concatenate(each))
    store, preprocess = SampleStore(data.memory), data.scaling
    size = read_samples(dataset, each[0][:1], preprocess).inputs.nbytes
    store.check([size * len(part) for part in each])
    calibration, validation, test, other = (
        read_samples(dataset, part, preprocess, store) if len(part) else None for part in each
    )
    assert calibration and validation and test  # of which every class has one
    notes = (*dataset.notes, *([store.note] if store.note else []))
    return DataSplits(
        dataset, kind, preprocess, chosen, names, calibration, validation, test, other, data, store,
        notes,
    )  # fmt: skip


def _open_dataset(model: keras.Model, data: Data) -> tuple[Dataset, OutputKind]:
    """Return the data set and what the model's outputs mean, which its targets have a say in."""
    from edgeprune.tracing.graph import build_graph
    from edgeprune.tracing.outputs import output_kinds

    if len(model.inputs) != 1 or len(model.outputs) != 1:
        found = f"{_count(model.inputs, 'input')} and {_count(model.outputs, 'output')}"
        raise ModelError(
            f"Model '{model.name}' has {found}; expected one of each. From Python, "
            "`edgeprune.prune` also takes models with several outputs."
        )
    graph = build_graph(model)
    kind = output_kinds(graph, data.task, labelled=True)[0]
    told = data.task != "auto" or kind.ending == "softmax"
    dataset = load_dataset(
        data.source,
        input_shape=tuple(model.inputs[0].shape[1:]),
        classes=None if kind.task == "regress" else data.labels,
        labelled=kind.task == "binary" or (kind.task == "classify" and told),
    )
    if not dataset.labelled:
        kind = output_kinds(graph, data.task)[0]
    if kind.task == "regress":
        dataset = dataset.without_classes()
    _check_outputs(model, kind, dataset)
    return dataset, kind


def _check_outputs(model: keras.Model, kind: OutputKind, dataset: Dataset) -> None:
    """Refuse outputs that the task does not have, and targets that are none of theirs."""
    shape = tuple(model.outputs[0].shape)
    if kind.task != "regress" and (len(shape) != 2 or not shape[1]):
        raise ModelError(
            f"Model '{model.name}' gives outputs of shape {shape}; expected a classifier that "
            "gives (batch, classes) with at least two classes, or one sigmoid for two. With --task "
            "regress they are compared as numbers."
        )
    if not dataset.labelled:
        found = dataset.find_targets(np.arange(1)).shape[1:] if dataset.values else shape[1:]
        if found not in (shape[1:], () if shape[1:] == (1,) else shape[1:]):
            raise DataError(
                f"The targets of '{dataset.name}' have shape {_rows(found)}; the model gives "
                f"{_rows(shape[1:])}. Expected numbers of that shape, class indices (n,), or no "
                "targets."
            )
        return
    count = 2 if shape[1] == 1 else shape[1]
    if len(dataset.classes) != count:
        tells = "tells two classes apart" if shape[1] == 1 else f"has {count} outputs"
        raise ClassError(
            f"The model {tells}, the data names {len(dataset.classes)} classes "
            f"({', '.join(dataset.classes[:6])}{', ...' if len(dataset.classes) > 6 else ''}). "
            "Give the names of all outputs, in their order, with --labels labels.txt."
        )


def _choose_classes(
    dataset: Dataset, kind: OutputKind, classes: str | Sequence[str | int] | None
) -> tuple[tuple[int, ...], tuple[int, ...] | None]:
    """Return the classes that samples are taken of, and those to keep if not all are."""
    if not dataset.labelled:
        if classes is not None:
            raise ClassError(
                f"There are no classes to keep: the task is {kind.describe()}. Leave out --classes."
            )
        return (0,), None
    chosen = None if classes is None else find_classes(classes, dataset.classes)
    wanted = tuple(range(len(dataset.classes))) if chosen is None else chosen
    if kind.width == 1 and wanted != (0, 1):
        raise ClassError(
            "The model has one output, the chance of the second of its two classes: both stay, in "
            f"their order, {dataset.classes[0]} and {dataset.classes[1]}. Leave out --classes."
        )
    return wanted, None if kind.width == 1 else chosen


def _rows(shape: tuple[int | None, ...]) -> str:
    return f"(n,{''.join(f' {size},' for size in shape).removesuffix(',')})"


def _count(things: Sequence[Any], noun: str) -> str:
    return f"{len(things)} {noun}{'' if len(things) == 1 else 's'}"


def test_original(
    model: keras.Model, splits: DataSplits
) -> tuple[DataSplits, dict[str, Result], list[str]]:
    """Measure the original on all classes and on the kept ones, and look for mistakes in the data.

    Returns:
        The splits, with the original's own answers where there were no targets; how good
        `original` and `original_subset` are; and warnings for the user.
    """
    from edgeprune.evaluation.equivalence import predict

    kind, outputs, notes = splits.kind, predict(model, splits.test.inputs), list(splits.notes)
    if not splits.test.targets.size:
        given = take_for_targets(kind, outputs)
        splits = replace(splits, test=Samples(splits.test.inputs, given))
        notes.append("The data has no targets: answers are held against those of the original.")
    targets = splits.test.targets
    found = {"original_subset": measure(kind, outputs, targets, splits.classes, cut=False)}
    if splits.other is not None:
        outputs = np.concatenate([outputs, predict(model, splits.other.inputs)])
        targets = np.concatenate([targets, splits.other.targets])
    found["original"] = measure(kind, outputs, targets)
    if splits.dataset.labelled:
        accuracy, counts = found["original"]["accuracy"], np.bincount(targets)
        notes += _warn_of_scaling(model, splits, accuracy, counts)
    elif found["original"].get("r2", 1) <= 0:
        notes.append(
            f"The original explains nothing of the targets, R2 is {found['original']['r2']:.2f}: "
            "their mean would do as well. Most likely its inputs are scaled in another way than in "
            "its training; see --preprocess."
        )
    named = ("calibration", "validation", "test")
    shared = warn_shared_samples({name: getattr(splits, name) for name in named})
    return splits, found, [*notes, *([shared] if shared else [])]


def _warn_of_scaling(
    model: keras.Model, splits: DataSplits, accuracy: float, counts: np.ndarray
) -> list[str]:
    """Say so where the inputs are not what the model was trained with; looks at a few samples."""
    from edgeprune.evaluation.equivalence import predict

    parts = assign_samples(
        splits.dataset,
        splits.outputs,
        calibration_per_class=1,
        validation_per_class=SCALING_SAMPLES,
    )
    total = int(counts.sum())
    found = [
        warn_near_chance(
            accuracy,
            len(splits.dataset.classes),
            total,
            largest_share=float(counts.max() / total),
        ),
        warn_better_scaling(
            lambda inputs: splits.kind.answer(predict(model, inputs)),
            splits.dataset,
            parts.validation[:SCALING_SAMPLES],
            splits.preprocess,
        ),
    ]
    return [text for text in found if text]
