"""Sequential refit: solve each reader's kernel anew, front to back, without gradients.

Inputs come from the already recovered prefix of the slim model, targets from the original model on
the same samples: `min ||X_original W - X_slim W'||^2` over sampled patches, so errors of earlier
layers are seen and corrected by later ones. Ours; it continues He, Zhang, Sun, "Channel Pruning for
Accelerating Very Deep Neural Networks" (2017), and takes from Zhang et al., "Accelerating Very Deep
Convolutional Networks" (2015), that what a ReLU sets to zero anyway need not be matched.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops
from scipy.linalg import cho_factor, cho_solve

from edgeprune.graph import Call, build_graph
from edgeprune.groups import Groups
from edgeprune.plan import Plan
from edgeprune.progress import SILENT, Progress
from edgeprune.readers import Reader, find_landing, find_readers, kernel_matrix, patch_map
from edgeprune.recovery.batches import Values, execute, make_batches, release
from edgeprune.recovery.depthwise import can_refit_depthwise, fit_depthwise
from edgeprune.recovery.folds import kept_outputs
from edgeprune.recovery.intercepts import add_constant, give_biases
from edgeprune.replica import operations_by_path
from edgeprune.surgery import channel_ranks, kept_positions

RIDGE = 1e-3
ROWS = 12288
ROUNDS = 4
DEPTHWISE_NUMBERS = 2**24
TINY = float(np.finfo(np.float32).tiny)

Pair = tuple[Values, Values]


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
            maps would take more than a gigabyte.
        ridge: pull towards the kernel as it is, as a fraction of the mean diagonal. At full width
            the kernel as it is fits exactly, so the refit returns the original.
        seed: of the choice of positions.
        progress: told after every layer.

    Returns:
        A new model of the same size; a reader without bias and BatchNorm behind it has one more.
    """
    result = give_biases(smaller, groups)
    lockstep = _Lockstep(groups, plan, result, ridge, np.random.default_rng(seed))
    with progress.stage("refit", len(groups.graph.calls)) as advance:
        lockstep.run(make_batches(groups.graph, inputs, models=2), advance)
    return result


class _Lockstep:
    """Runs the original and the slim model call by call on the same samples."""

    def __init__(
        self,
        groups: Groups,
        plan: Plan,
        result: keras.Model,
        ridge: float,
        generator: np.random.Generator,
    ) -> None:
        self.groups = groups
        self.ridge = ridge
        self.generator = generator
        self.ranks = channel_ranks(groups, plan)
        self.readers = {
            id(reader.call): reader
            for reader in find_readers(groups)
            if not reader.shared
            and reader.kind.patch is not None
            and getattr(reader.layer, "data_format", None) != "channels_first"
        }
        self.depthwise = {
            id(call): find_landing(call, groups.graph.consumers())
            for call in groups.graph.calls
            if can_refit_depthwise(call.operation) and self._calls(groups, call.path) == 1
        }
        self.operations = operations_by_path(result)
        self.graph = build_graph(result)
        self.shrunk = {
            axis.layer
            for axis in groups.axes
            if any((self.ranks[g] < 0).any() for g in np.unique(axis.group[axis.group >= 0]))
        }

    @staticmethod
    def _calls(groups: Groups, path: str) -> int:
        return sum(call.path == path for call in groups.graph.calls)

    def run(self, batches: Sequence[Any], advance: Callable[[], None]) -> None:
        original, slim = self.groups.graph, self.graph
        last = original.last_uses()
        values: list[Pair] = [
            ({original.inputs[0].number: batch}, {slim.inputs[0].number: batch})
            for batch in batches
        ]
        changed: set[int] = set()
        for index, (call, slim_call) in enumerate(zip(original.calls, slim.calls, strict=True)):
            touched = call.path in self.shrunk or any(ref.number in changed for ref in call.inputs)
            reader = self.readers.get(id(call))
            if touched and reader is not None:
                self._solve(reader, call, values)
            elif touched and id(call) in self.depthwise:
                self._solve_depthwise(call, values)
            for before, after in values:
                execute(call, before)
                execute(slim_call, after)
            if touched:
                changed.update(ref.number for ref in call.outputs)
            release(call, index, last, [held for pair in values for held in pair])
            advance()

    def _solve(self, reader: Reader, call: Call, values: Sequence[Pair]) -> None:
        """Find the kernel and the constant that bring a reader closest to the original."""
        layer = self.operations[reader.path]
        x, target, offset = self._sample(reader, call, values)
        outputs = kept_outputs(reader, self.groups, self.ranks)
        scale, shift = _normalization(reader.landing.normalization, outputs)
        kernel = kernel_matrix(layer, reader.kind).reshape(-1, len(outputs))
        start = np.vstack([kernel, _bias(layer, np.arange(len(outputs)))]).astype(np.float32)
        base = (x @ start) * scale + shift + offset
        size = len(kernel)
        normal = (x.T @ x).astype(np.float64)
        diagonal = np.einsum("ii->i", normal)
        diagonal[:size] += max(self.ridge * diagonal[:size].mean(), TINY)
        diagonal[size] += TINY
        factor = cho_factor(normal, overwrite_a=True)
        change = np.zeros((size + 1, len(outputs)))
        free = reader.landing.rectified and self._knows(reader, values)
        for _ in range(ROUNDS if free else 1):
            goal = target
            if free:
                found = base + (x @ change.astype(np.float32)) * scale
                goal = np.where(target > 0, target, np.minimum(found, 0))
            change = cho_solve(factor, (x.T @ ((goal - base) / scale)).astype(np.float64))
        variable = getattr(layer, reader.kind.kernel)
        variable.assign((kernel + change[:-1]).reshape(variable.shape))
        add_constant(self.graph, reader.path, layer, change[-1])

    def _solve_depthwise(self, call: Call, values: Sequence[Pair]) -> None:
        """Find the taps and the constant of every channel that bring it closest to the original."""
        layer = self.operations[call.path]
        landing = self.depthwise[id(call)]
        axis = next(a for a in self.groups.axes if a.layer == call.path)
        kept = kept_positions(axis, self.ranks)
        number = call.inputs[0].number
        count = max(64, min(ROWS, DEPTHWISE_NUMBERS // (np.prod(layer.kernel_size) * len(kept))))
        before, after = [], []
        for held_before, held_after in values:
            x = held_before[number]
            total = int(x.shape[0]) * int(np.prod(call.outputs[0].shape[1:3]))
            wanted = min(total, max(1, count // len(values)))
            places = self.generator.choice(total, wanted, replace=False)
            before.append(_home(patch_map(call.operation, x, places)))
            after.append(_home(patch_map(layer, held_after[number], places)))
        change = fit_depthwise(
            call.operation, layer, np.concatenate(before), np.concatenate(after), kept,
            *_normalization(landing.normalization, kept),
            ridge=self.ridge, rectified=landing.rectified and not landing.added,
        )  # fmt: skip
        kernel = _home(layer.kernel)
        layer.kernel.assign(kernel + change[:-1].reshape(kernel.shape))
        add_constant(self.graph, call.path, layer, change[-1])

    @staticmethod
    def _knows(reader: Reader, values: Sequence[Pair]) -> bool:
        """Whether everything that is added to the reader's output was computed already."""
        return all(n in values[0][0] and n in values[0][1] for n in reader.landing.added)

    def _sample(
        self, reader: Reader, call: Call, values: Sequence[Pair]
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return patches of the slim model `(n, size + 1)`, and at the same places, where the
        output lands, what the original has and what the slim model adds `(n, outputs)`.
        """  # noqa: D205
        layer = self.operations[reader.path]
        outputs = kept_outputs(reader, self.groups, self.ranks)
        scale, shift = _normalization(reader.landing.normalization, outputs)
        kernel = kernel_matrix(reader.layer, reader.kind)[:, :, outputs]
        kernel = kernel.reshape(-1, len(outputs)).astype(np.float32)
        added = reader.landing.added if self._knows(reader, values) else ()
        number = call.inputs[0].number
        patches, targets, offsets = [], [], []
        for before, after in values:
            places = self._draw(reader, int(before[number].shape[0]), max(1, ROWS // len(values)))
            seen = _home(reader.kind.patch(reader.layer, before[number], places))
            target = (seen @ kernel + _bias(reader.layer, outputs)) * scale + shift
            offset = np.zeros_like(target)
            for other in added:
                target += _rows(before[other], places)[:, outputs]
                offset += _rows(after[other], places)
            x = _home(reader.kind.patch(layer, after[number], places))
            patches.append(np.pad(x, ((0, 0), (0, 1)), constant_values=1))
            targets.append(target.astype(np.float32))
            offsets.append(offset.astype(np.float32))
        return np.concatenate(patches), np.concatenate(targets), np.concatenate(offsets)

    def _draw(self, reader: Reader, batch: int, count: int) -> np.ndarray:
        """Draw output positions of a reader, over the samples of a batch."""
        shape = reader.call.outputs[0].shape[1:]
        total = batch * int(np.prod([n or 1 for n in shape[:-1]]))
        if total <= count:
            return np.arange(total)
        return self.generator.choice(total, count, replace=False)


def _normalization(layer: Any | None, outputs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return scale and shift of a BatchNormalization on some of its channels."""
    if layer is None:
        return np.ones(len(outputs), np.float32), np.zeros(len(outputs), np.float32)
    mean, variance = _home(layer.moving_mean), _home(layer.moving_variance)
    gamma = np.ones_like(mean) if layer.gamma is None else _home(layer.gamma)
    beta = np.zeros_like(mean) if layer.beta is None else _home(layer.beta)
    scale = gamma / np.sqrt(variance + layer.epsilon)
    shift = beta - mean * scale
    scale = np.where(np.abs(scale) < 1e-6, np.float32(1e-6), scale)
    return scale[outputs], shift[outputs]


def _bias(layer: Any, outputs: np.ndarray) -> np.ndarray:
    if not layer.use_bias:
        return np.zeros(len(outputs), np.float32)
    return _home(layer.bias)[outputs]


def _rows(x: Any, places: np.ndarray) -> np.ndarray:
    """Return the channels of a map at some positions, counted over batch, rows and columns."""
    return _home(ops.take(ops.reshape(x, (-1, x.shape[-1])), places, axis=0))


def _home(x: Any) -> np.ndarray:
    return np.asarray(ops.convert_to_numpy(x), dtype=np.float32)
