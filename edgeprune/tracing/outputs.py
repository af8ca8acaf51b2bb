"""What the outputs of a model mean: the one place that tells classes from numbers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import keras
import numpy as np
from keras import layers as L

from edgeprune.errors import ModelError
from edgeprune.tracing.graph import Call, Graph, TensorRef
from edgeprune.tracing.tasks import TASKS, check_task
from edgeprune.tracing.tasks import Task as Task

linear = keras.activations.linear
Kind = Literal["classes", "independent", "values"]
Ending = Literal["softmax", "sigmoid", "linear"]

LEAST_PROBABILITY = 1e-30
_PASSING = (L.Reshape, L.Flatten, L.Dropout, L.Identity, L.Permute)
"""Layers behind a softmax or sigmoid that leave it one."""
_ENDINGS: dict[str, Ending] = {
    "softmax": "softmax", "Softmax": "softmax", "sigmoid": "sigmoid", "Sigmoid": "sigmoid",
}  # fmt: skip


@dataclass(frozen=True)
class OutputKind:
    """What one output of a model means.

    Attributes:
        task: `classify` (one of several classes), `multilabel` (each output yes or no), `binary`
            (one output, yes or no) or `regress` (numbers, or logits of which nobody knows whose).
        ending: what makes the output: `softmax`, `sigmoid`, or `linear` for anything else.
        width: how many channels it has; 0 where that is open.
        reason: why it is that task, in words that follow "since".
    """

    task: Task
    ending: Ending
    width: int
    reason: str = field(default="", compare=False)

    @property
    def kind(self) -> Kind:
        """How two answers compare: as distributions, each number as a chance, or as numbers."""
        if self.task == "classify":
            return "classes"
        return "values" if self.task == "regress" else "independent"

    def to_logits(self, output: np.ndarray) -> np.ndarray:
        """Return logits in place of the probabilities of a softmax; other outputs as they are."""
        if self.ending != "softmax":
            return output
        return np.asarray(np.log(np.maximum(output, LEAST_PROBABILITY)))

    def answer(self, output: np.ndarray) -> np.ndarray:
        """Return the class of each sample, `(n,)`, from an output `(n, width)`."""
        if self.task == "binary":
            return self.decide(output[:, 0]).astype(np.int64)
        return np.asarray(output.argmax(-1))

    def describe(self) -> str:
        """Return the task and why it is that."""
        return f"{self.task}, since {self.reason}"

    def decide(self, output: np.ndarray) -> np.ndarray:
        """Return what is said yes to, for each number of an output."""
        return output > (0.5 if self.ending == "sigmoid" else 0.0)


def output_kinds(
    graph: Graph, task: Task = "auto", *, labelled: bool = False
) -> tuple[OutputKind, ...]:
    """Tell what the outputs of a model mean, by how it ends and by what it is used for.

    A softmax gives classes, a sigmoid one or several answers of yes or no, nested models and
    reshaping looked through. Two or more other outputs are classes where samples come with one
    class index each, or classes are to be kept; otherwise numbers, which is safe for logits too.

    Args:
        graph: of the model.
        task: says it, in place of `auto`; for every output.
        labelled: whether there are class indices, or classes to keep.

    Raises:
        EdgepruneError: there is no such task.
        ModelError: the output cannot be what the task says.

    Example:
        >>> from edgeprune.tracing.graph import build_graph
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
        >>> graph = build_graph(model)
        >>> [output_kinds(graph, labelled=known)[0].task for known in (True, False)]
        ['classify', 'regress']
    """
    check_task(task)
    return tuple(_tell(graph, ref, task, labelled) for ref in graph.outputs)


def _tell(graph: Graph, ref: TensorRef, task: Task, labelled: bool) -> OutputKind:
    call = last_call(graph, ref)
    ending: Ending = "linear" if call is None else ending_of(call.operation)
    width = int(ref.shape[-1] or 0) if len(ref.shape) > 1 else 0
    reason = "that is what was asked for"
    if task == "auto":
        reason = f"it ends in a {ending}"
        if ending == "softmax":
            task = "classify"
        elif ending == "sigmoid":
            task = "binary" if width == 1 else "multilabel"
        elif labelled and len(ref.shape) == 2 and width > 1:
            task, reason = "classify", "it has several linear outputs, and each sample one class"
        else:
            task, reason = "regress", "its outputs are linear, and not one for each class"
    elif (task == "binary") != (width == 1) and task != "regress":
        expected = "one output" if task == "binary" else "at least two"
        raise ModelError(
            f"The task '{task}' needs {expected}; the model gives outputs of shape {ref.shape}. "
            f"Choose another task: {', '.join(TASKS)}."
        )
    return OutputKind(task, ending, width, reason)


def last_call(graph: Graph, ref: TensorRef) -> Call | None:
    """Return the call that gives an output its meaning, behind it only what moves numbers."""
    makers = {made.number: call for call in graph.calls for made in call.outputs}
    call = makers.get(ref.number)
    while call is not None and _passes(call.operation) and call.inputs:
        before = makers.get(call.inputs[0].number)
        if before is None:
            break
        call = before
    return call


def _passes(operation: Any) -> bool:
    """Whether an operation leaves what it is given, moved at most."""
    plain = isinstance(operation, L.Activation) and operation.activation is linear
    return isinstance(operation, _PASSING) or plain or type(operation).__name__ == "Reshape"


def ending_of(operation: keras.Operation) -> Ending:
    """Return what an operation makes of its result."""
    activation = getattr(getattr(operation, "activation", None), "__name__", "")
    if not isinstance(operation, keras.Layer) or isinstance(operation, L.Softmax):
        activation = type(operation).__name__
    return _ENDINGS.get(activation, "linear")
