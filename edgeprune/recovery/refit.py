"""Sequential refit: solve each reader's kernel anew, front to back, without gradients.

Inputs come from the already recovered prefix of the slim model, targets from the original model on
the same samples: `min ||X_original W - X_slim W'||^2` over sampled patches. Errors of earlier
layers are seen and corrected by later ones. Ours; He, Zhang, Sun, "Channel Pruning for Accelerating
Very Deep Neural Networks" (2017) reconstruct outputs in the same spirit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import ops
from scipy.linalg import cho_factor, cho_solve

from edgeprune.graph import Call, Graph, build_graph, fill_in
from edgeprune.groups import Groups
from edgeprune.plan import Plan
from edgeprune.progress import SILENT, Progress
from edgeprune.readers import Reader, find_readers, kernel_matrix
from edgeprune.recovery.folds import kept_outputs
from edgeprune.recovery.intercepts import add_constant, give_biases
from edgeprune.replica import operations_by_path
from edgeprune.surgery import channel_ranks

RIDGE = 1e-3
ROWS = 16384
BATCH_SIZE = 64
MEMORY = 512 * 1024**2
PATCH_MEMORY = 64 * 1024**2


def refit(
    smaller: keras.Model,
    groups: Groups,
    plan: Plan,
    inputs: np.ndarray,
    *,
    ridge: float = RIDGE,
    seed: int = 0,
    progress: Progress = SILENT,
) -> keras.Model:
    """Return the slim model with the kernels of its readers solved again, front to back.

    Args:
        smaller: `slim(model, plan)` or a fold of it; not changed.
        groups: of the original, which is in their graph.
        plan: what was kept.
        inputs: `(n, ...)` preprocessed calibration samples; fewer are used where their feature
            maps would take more than half a gigabyte.
        ridge: pull towards the kernel as it is, as a fraction of the mean diagonal. At full width
            the kernel as it is fits exactly, so the refit returns the original.
        seed: of the choice of positions.
        progress: told after every layer.

    Returns:
        A new model of the same size; a reader without bias and BatchNorm behind it has one more.
    """
    result = give_biases(smaller, groups)
    lockstep = _Lockstep(groups, plan, result, ridge, np.random.default_rng(seed))
    count = max(BATCH_SIZE, int(MEMORY / max(bytes_per_sample(groups.graph), 1)))
    samples = inputs[:count]
    batches = [
        ops.convert_to_tensor(samples[start : start + BATCH_SIZE])
        for start in range(0, len(samples), BATCH_SIZE)
    ]
    with progress.stage("refit", len(groups.graph.calls)) as advance:
        lockstep.run(batches, advance)
    return result


def bytes_per_sample(graph: Graph) -> int:
    """Return the most bytes that the tensors alive at one time take per sample, in float32."""
    last = graph.last_uses()
    alive: dict[int, int] = {}
    peak = 0
    for index, call in enumerate(graph.calls):
        for ref in call.outputs:
            alive[ref.number] = 4 * int(np.prod([size or 64 for size in ref.shape[1:]]))
        peak = max(peak, sum(alive.values()))
        for ref in call.inputs:
            if last[ref.number] == index:
                alive.pop(ref.number, None)
    return 2 * peak


@dataclass
class _Lockstep:
    """Runs the original and the slim model call by call on the same samples."""

    groups: Groups
    plan: Plan
    result: keras.Model
    ridge: float
    generator: np.random.Generator

    def __post_init__(self) -> None:
        self.ranks = channel_ranks(self.groups, self.plan)
        self.readers = {id(r.call): r for r in find_readers(self.groups) if not r.shared}
        self.operations = operations_by_path(self.result)
        self.graph = build_graph(self.result)
        self.shrunk = {
            axis.layer
            for axis in self.groups.axes
            if any((self.ranks[g] < 0).any() for g in np.unique(axis.group[axis.group >= 0]))
        }

    def run(self, batches: Sequence[Any], advance: Any) -> None:
        original, slim = self.groups.graph, self.graph
        last = original.last_uses()
        values = [
            ({original.inputs[0].number: batch}, {slim.inputs[0].number: batch})
            for batch in batches
        ]
        changed: set[int] = set()
        for index, (call, slim_call) in enumerate(zip(original.calls, slim.calls, strict=True)):
            touched = call.path in self.shrunk or any(
                ref.number in changed for ref in call.inputs
            )
            reader = self.readers.get(id(call))
            if touched and reader is not None and reader.kind.patch is not None:
                self._solve(reader, [(v[0][call.inputs[0].number], v[1][slim_call.inputs[0].number])
                                     for v in values])  # fmt: skip
            for before, after in values:
                _execute(call, before)
                _execute(slim_call, after)
            if touched:
                changed.update(ref.number for ref in call.outputs)
            for ref in call.inputs:
                if last[ref.number] == index:
                    for before, after in values:
                        before.pop(ref.number, None)
                        after.pop(ref.number, None)
            advance()

    def _solve(self, reader: Reader, pairs: Sequence[tuple[Any, Any]]) -> None:
        layer = self.operations[reader.path]
        outputs = kept_outputs(reader, self.groups, self.ranks)
        kernel = kernel_matrix(reader.layer, reader.kind)[:, :, outputs].reshape(-1, len(outputs))
        current = kernel_matrix(layer, reader.kind).reshape(-1, len(outputs))
        per_batch = max(1, ROWS // len(pairs))
        size = len(current)
        normal = np.zeros((size + 1, size + 1))
        moment = np.zeros((size + 1, len(outputs)))
        original_bias = _bias(reader.layer, outputs)
        current_bias = _bias(layer, np.arange(len(outputs)))
        for before, after in pairs:
            before, after = self._few(before, after, call_positions(reader), size)
            rows_before = ops.cast(reader.kind.patch(reader.layer, before), "float32")
            rows_after = ops.cast(reader.kind.patch(layer, after), "float32")
            seen = ops.reshape(rows_before, (-1, len(kernel)))
            patches = ops.reshape(rows_after, (-1, size))
            if patches.shape[0] > per_batch:
                chosen = self.generator.choice(patches.shape[0], per_batch, replace=False)
                seen, patches = ops.take(seen, chosen, axis=0), ops.take(patches, chosen, axis=0)
            x = np.pad(ops.convert_to_numpy(patches), ((0, 0), (0, 1)), constant_values=1)
            target = ops.convert_to_numpy(seen).astype(np.float64) @ kernel + original_bias
            x = x.astype(np.float64)
            rest = target - x[:, :-1] @ current - current_bias
            normal += x.T @ x
            moment += x.T @ rest
        strength = self.ridge * np.trace(normal[:-1, :-1]) / size
        normal[np.arange(size), np.arange(size)] += max(strength, np.finfo(np.float32).tiny)
        normal[size, size] += np.finfo(np.float32).tiny
        change = cho_solve(cho_factor(normal), moment)
        variable = getattr(layer, reader.kind.kernel)
        variable.assign((current + change[:-1]).reshape(variable.shape))
        add_constant(self.graph, reader.path, layer, change[-1])

    def _few(self, before: Any, after: Any, positions: int, size: int) -> tuple[Any, Any]:
        """Return fewer samples of a batch where their patches would take too much memory."""
        count = max(1, PATCH_MEMORY // (4 * positions * max(size, 1)))
        if count >= before.shape[0]:
            return before, after
        chosen = self.generator.choice(before.shape[0], count, replace=False)
        return ops.take(before, chosen, axis=0), ops.take(after, chosen, axis=0)


def call_positions(reader: Reader) -> int:
    """Return how many output positions a reader has per sample."""
    sizes = [size or 64 for size in reader.call.outputs[0].shape[1:]]
    return max(1, int(np.prod(sizes)) // reader.layer.weights[0].shape[-1])


def _bias(layer: Any, outputs: np.ndarray) -> np.ndarray:
    if not layer.use_bias:
        return np.zeros(len(outputs))
    return np.asarray(ops.convert_to_numpy(layer.bias).astype(np.float64)[outputs])


def _execute(call: Call, values: dict[int, Any]) -> None:
    args, kwargs = fill_in(call, values)
    result = keras.tree.flatten(call.operation(*args, **kwargs))
    values.update(zip((ref.number for ref in call.outputs), result, strict=True))
