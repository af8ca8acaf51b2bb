"""Sequential refit: solve each reader's kernel anew, front to back, without gradients.

Inputs come from the already recovered prefix of the slim model, targets from the original model on
the same samples: `min ||X_original W - X_slim W'||^2` over sampled patches, so errors of earlier
layers are seen and corrected by later ones. Ours; it continues He, Zhang, Sun, "Channel Pruning for
Accelerating Very Deep Neural Networks" (2017), and takes from Zhang et al., "Accelerating Very Deep
Convolutional Networks" (2015), that what a ReLU sets to zero anyway need not be matched.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from edgeprune.graph import build_graph
from edgeprune.groups import Groups
from edgeprune.plan import Plan
from edgeprune.progress import SILENT, Progress
from edgeprune.readers import (
    Reader,
    assign_kernel,
    channels_last,
    count_places,
    find_readers,
    kernel_matrix,
    take_patches,
)
from edgeprune.recovery.batches import Values, execute, make_batches, release
from edgeprune.recovery.equations import Equations
from edgeprune.recovery.intercepts import add_constant, give_biases
from edgeprune.replica import operations_by_path
from edgeprune.surgery import channel_ranks, kept_positions

RIDGE = 1e-3
ROWS = 12288
MOST_UNKNOWNS = 5000
"""Kernels that read more numbers per output than this stay as they are: the system is too large."""
LEAST_SCALE = np.float32(1e-6)

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

    Layers before the first removed channel, layers that are called several times, and kernels too
    large for one linear system stay as they are.

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

    Example:
        >>> from edgeprune.groups import find_groups
        >>> from edgeprune.surgery import slim
        >>> model = keras.Sequential([
        ...     keras.Input((2,)), keras.layers.Dense(4, name="hidden"), keras.layers.Dense(1)])
        >>> groups, plan = find_groups(model), Plan({"hidden": (0, 3)})
        >>> inputs = np.random.default_rng(0).normal(size=(50, 2)).astype("float32")
        >>> recovered = refit(slim(model, plan), groups, plan, inputs)
        >>> bool(np.abs(recovered(inputs) - model(inputs)).max() < 1e-2)  # two of four dimensions
        True
    """
    ranks = channel_ranks(groups, plan)
    readers = _find_affected(groups, ranks)
    result = give_biases(smaller, readers)
    batches = make_batches(groups.graph, inputs, models=2)
    with progress.stage("refit", len(groups.graph.calls)) as advance:
        lockstep = _Lockstep(groups, ranks, result, ridge, seed)
        lockstep.run({reader.path: reader for reader in readers}, batches, advance)
    return result


def _find_affected(groups: Groups, ranks: list[np.ndarray]) -> list[Reader]:
    """Return the readers that lose channels, or see what such layers make."""
    shrunk = {
        axis.layer
        for axis in groups.axes
        if axis.role == "reads" and len(kept_positions(axis, ranks)) < axis.group.size
    }
    changed: set[int] = set()
    affected = set()
    for call in groups.graph.calls:
        if call.path in shrunk or any(ref.number in changed for ref in call.inputs):
            affected.add(call.path)
            changed.update(ref.number for ref in call.outputs)
    return [
        reader
        for reader in find_readers(groups)
        if reader.path in affected
        and not reader.shared
        and _count_unknowns(reader, ranks) <= MOST_UNKNOWNS
    ]


def _count_unknowns(reader: Reader, ranks: list[np.ndarray]) -> int:
    taps = kernel_matrix(reader.layer).shape[0]
    return taps * len(kept_positions(reader.axis, ranks))


class _Lockstep:
    """Runs the original and the slim model call by call on the same samples."""

    def __init__(
        self, groups: Groups, ranks: list[np.ndarray], result: keras.Model, ridge: float, seed: int
    ) -> None:
        self.graphs = groups.graph, build_graph(result)
        self.ranks = ranks
        self.operations: Mapping[str, Any] = operations_by_path(result)
        self.ridge = ridge
        self.generator = np.random.default_rng(seed)

    def run(
        self, readers: Mapping[str, Reader], batches: Sequence[Any], advance: Callable[[], None]
    ) -> None:
        """Refit every reader when its turn comes."""
        original, slim = self.graphs
        last = original.last_uses()
        values: list[Pair] = [
            ({original.inputs[0].number: batch}, {slim.inputs[0].number: batch})
            for batch in batches
        ]
        for index, (call, slim_call) in enumerate(zip(original.calls, slim.calls, strict=True)):
            if call.path in readers:
                self._refit(readers[call.path], values)
            for before, after in values:
                execute(call, before)
                execute(slim_call, after)
            release(call, index, last, [held for pair in values for held in pair])
            advance()

    def _refit(self, reader: Reader, values: Sequence[Pair]) -> None:
        """Find the kernel and the constant that bring a reader closest to the original."""
        layer, normalization = self._slim_layers(reader)
        kernel = kernel_matrix(layer)
        parts = [self._sample(reader, *pair, ROWS // len(values)) for pair in values]
        patches, found, wanted = (np.concatenate(part) for part in zip(*parts, strict=True))
        scale, _ = _scale_and_shift(normalization, kernel.shape[-1])
        rectified = reader.landing.rectified and all(_knows(reader, *pair) for pair in values)
        blocks = patches.shape[-1] // kernel.shape[1]  # channel groups of the convolution
        change, constant = np.empty_like(kernel), np.empty(kernel.shape[-1])
        for x, outputs in zip(
            np.split(patches, blocks, axis=-1),
            np.split(np.arange(kernel.shape[-1]), blocks),
            strict=True,
        ):
            solved, constant[outputs] = Equations(
                x.reshape(len(x), -1), found[:, outputs], wanted[:, outputs], scale[outputs]
            ).solve(ridge=self.ridge, rectified=rectified)
            change[:, :, outputs] = solved.reshape(*kernel.shape[:2], -1)
        assign_kernel(layer, kernel + change)
        add_constant(self.operations, reader, constant)

    def _slim_layers(self, reader: Reader) -> tuple[Any, Any]:
        """Return a reader and the BatchNormalization behind it in the slim model."""
        normalization = reader.landing.normalization
        return self.operations[reader.path], (
            None if normalization is None else self.operations[normalization.path]
        )

    def _sample(
        self, reader: Reader, before: Values, after: Values, count: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return what the slim reader multiplies with, and what lands: there, and in the original.

        Shapes `(n, taps, channels)` and twice `(n, kept outputs)`, for sampled places.
        """
        number = reader.call.inputs[0].number
        total = count_places(reader.layer, before[number])
        chosen = self.generator.choice(total, min(total, max(count, 1)), replace=False)
        added = reader.landing.added if _knows(reader, before, after) else ()
        layer, normalization = self._slim_layers(reader)
        patches = _home(take_patches(layer, after[number], chosen))
        found = _multiply(layer, normalization, patches)
        seen = _home(take_patches(reader.layer, before[number], chosen))
        own = reader.landing.normalization
        wanted = _multiply(reader.layer, None if own is None else own.operation, seen)
        for other in added:
            found += _rows(channels_last(layer, after[other]), chosen)
            wanted += _rows(channels_last(layer, before[other]), chosen)
        return patches, found, wanted[:, kept_positions(reader.outputs, self.ranks)]


def _knows(reader: Reader, before: Values, after: Values) -> bool:
    """Whether everything that is added to the reader's output was computed already."""
    return all(number in before and number in after for number in reader.landing.added)


def _multiply(layer: Any, normalization: Any | None, patches: np.ndarray) -> np.ndarray:
    """Return what a reader makes of patches, normalised if it is, `(n, outputs)`."""
    kernel = kernel_matrix(layer).astype(np.float32)
    blocks = patches.shape[-1] // kernel.shape[1]
    parts = [
        x.reshape(len(x), -1) @ w.reshape(-1, w.shape[-1])
        for x, w in zip(
            np.split(patches, blocks, axis=-1), np.split(kernel, blocks, axis=-1), strict=True
        )
    ]
    bias = _home(layer.bias) if layer.use_bias else np.float32(0)
    scale, shift = _scale_and_shift(normalization, kernel.shape[-1])
    return np.asarray((np.concatenate(parts, axis=-1) + bias) * scale + shift)


def _scale_and_shift(layer: Any | None, outputs: int) -> tuple[np.ndarray, np.ndarray]:
    """Return what a BatchNormalization does to its channels; nothing if there is none."""
    if layer is None:
        return np.ones(outputs, np.float32), np.zeros(outputs, np.float32)
    mean, variance = _home(layer.moving_mean), _home(layer.moving_variance)
    gamma = np.ones_like(mean) if layer.gamma is None else _home(layer.gamma)
    beta = np.zeros_like(mean) if layer.beta is None else _home(layer.beta)
    scale = gamma / np.sqrt(variance + layer.epsilon)
    shift = beta - mean * scale
    return np.where(np.abs(scale) < LEAST_SCALE, LEAST_SCALE, scale), shift


def _rows(x: Any, places: np.ndarray) -> np.ndarray:
    """Return the channels of a map at some positions, counted over samples, rows and columns."""
    return _home(ops.take(ops.reshape(x, (-1, x.shape[-1])), places, axis=0))


def _home(x: Any) -> np.ndarray:
    return np.asarray(ops.convert_to_numpy(x), dtype=np.float32)
